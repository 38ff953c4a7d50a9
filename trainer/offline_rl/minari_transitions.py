"""Transitions of a data set of Minari's."""

from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimizer.config import shown

from ..errors import ConfigError, missing_extra, raised
from ..interfaces.features import Feature, FeatureType
from .array_file import STATE
from .recorded import ACTION, NEXT, PARAMS, REWARD, TERMINAL, Recorded, spans

PATH = f"{PARAMS}.minari"


def read_minari(name: str) -> Recorded:
    """Return the transitions of a data set in Minari's folder, `~/.minari/datasets` or `$MINARI_DATASETS_PATH`.

    Nothing is downloaded: `minari download NAME` does that.

    Args:
        name: The data set's id.

    Raises:
        ConfigError: Minari is not installed, the data set is not there, or its observations or actions are not vectors.
    """
    try:
        import minari
    except ImportError as error:
        raise missing_extra(PATH, "minari", "minari") from error
    place, episodes = f"{PATH}: {name}", _episodes(minari, name)
    observations = [_vectors(place, "observations", episode.observations) for episode in episodes]
    tensors = {
        STATE: torch.cat([rows[:-1] for rows in observations]),
        ACTION: torch.cat([_vectors(place, "actions", episode.actions) for episode in episodes]),
        REWARD: torch.cat([_numbers(episode.rewards) for episode in episodes]),
        NEXT + STATE: torch.cat([rows[1:] for rows in observations]),
        TERMINAL: torch.cat([_numbers(episode.terminations) for episode in episodes]),
    }
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        lengths = ", ".join(f"{key} {len(tensor)}" for key, tensor in tensors.items())
        raise ConfigError(f"{place}: an episode must have one observation more than actions; got {lengths}.")
    features = {
        STATE: Feature(FeatureType.STATE, tuple(tensors[STATE].shape[1:])),
        ACTION: Feature(FeatureType.ACTION, tuple(tensors[ACTION].shape[1:])),
        REWARD: Feature(FeatureType.REWARD, ()),
    }
    ends = list(accumulate(len(episode.rewards) for episode in episodes))
    return Recorded(tensors, features, spans(ends), False, place)


def _episodes(library: Any, name: str) -> list[Any]:
    try:
        episodes = list(library.load_dataset(name).iterate_episodes())
    except FileNotFoundError as error:
        raise ConfigError(f"{PATH}: no data set {name!r} here. Run: minari download {shown(name)}") from error
    except Exception as error:  # the library's readers raise anything
        raise ConfigError(f"{PATH}: {name!r} cannot be read: {raised(error)}") from error
    if not episodes:
        raise ConfigError(f"{PATH}: {name}: the data set has no episodes.")
    return episodes


def _vectors(place: str, what: str, values: Any) -> Tensor:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        kind = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ConfigError(f"{place}: {what} must be vectors of floating-point numbers; got {kind}.")
    return torch.from_numpy(values.astype(np.float32))


def _numbers(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.float32)).reshape(-1)
