"""Transitions of a data set in LeRobot's format that has rewards."""

from collections.abc import Mapping, Sequence
from math import prod

import torch

from optimizer.types import JsonObject

from ..errors import ConfigError
from ..interfaces.features import Feature, FeatureType
from ..lerobot_data.features import check_name, is_camera, is_text, type_of
from ..lerobot_data.frames import FrameOptions
from ..lerobot_data.part import Part, PartOptions, open_part
from ..lerobot_data.reading import read_meta
from ..lerobot_data.sources import Source, folder_of
from .recorded import ACTION, NEXT, PARAMS, REWARD, TERMINAL, Recorded, spans

NAMES = {"action": "action", "reward": "next.reward", "terminal": "next.done"}
"""LeRobot's names of features, by their content."""

_TYPES = (FeatureType.STATE, FeatureType.ENV)


def read_lerobot(source: Source, names: Mapping[str, str], observations: Sequence[str] | None) -> Recorded:
    """Return the transitions of a data set in LeRobot's format.

    The next observation of a frame is that of the next frame in its episode. The last frame of an episode has none: it
    is a transition if it is terminal, as nothing is read of the next observation then (its own stands there), and is
    left out if the episode was cut.

    Args:
        source: Its place and its episodes.
        names: The names of its features for action, reward and terminal, where they are not LeRobot's.
        observations: The names of the observations; None: all that are vectors.

    Raises:
        ConfigError: A file or a feature is missing or invalid.
    """
    known = read_meta(folder_of(source, PARAMS)).features
    named = {key: names.get(key, name) for key, name in NAMES.items()}
    seen = _observations(known, observations)
    taken = list(seen)
    for key, name in named.items():
        check_name(name, known, f"{PARAMS}.names.{key}")
        _check_role(key, name, known[name], taken)
        taken.append(name)
    options = PartOptions(deltas={name: [0, 1] for name in seen}, features=[*seen, *named.values()])
    part = open_part(source, options, FrameOptions(), PARAMS)
    return _recorded(part, seen, named)


def _observations(known: Mapping[str, JsonObject], given: Sequence[str] | None) -> list[str]:
    """Return the names of the observations. Raises ConfigError if there is none, or one is not a vector."""
    vectors = [
        name
        for name, info in known.items()
        if not is_camera(info) and len(info["shape"]) == 1 and type_of(name, info) in _TYPES
    ]
    for number, name in enumerate(given or ()):
        check_name(name, known, f"{PARAMS}.observations.{number}")
        if name not in vectors:
            raise ConfigError(
                f"{PARAMS}.observations: must be vectors that are observations, which {name!r} is not. They are"
                f" {', '.join(vectors) or 'none'}."
            )
    if not (found := list(dict.fromkeys(given or vectors))):
        raise ConfigError(f"{PARAMS}: the data set has no observation that is a vector.")
    return found


def _check_role(key: str, name: str, info: JsonObject, taken: Sequence[str]) -> None:
    """Raise ConfigError if a feature cannot be the action, the reward or the terminal, or is in `taken`."""
    path, shape = f"{PARAMS}.names.{key}", list(info["shape"])
    if name in taken:
        raise ConfigError(f"{path}: {name!r} is used otherwise too. Name the feature that has the {key}.")
    is_number = not is_camera(info) and not is_text(info)
    if key == "action":
        if not is_number or len(shape) != 1:
            raise ConfigError(f"{path}: must be a vector; {name!r} is {info['dtype']} of shape {shape}.")
    elif not is_number or prod(shape) != 1:
        raise ConfigError(f"{path}: must be one number a frame; {name!r} is {info['dtype']} of shape {shape}.")


def _recorded(part: Part, observations: Sequence[str], named: Mapping[str, str]) -> Recorded:
    frames = part.train.batch(torch.arange(len(part.train)))
    terminal = frames[named["terminal"]].float().reshape(-1)
    is_last = frames[f"{observations[0]}_is_pad"][:, 1]
    kept = ~is_last | (terminal == 1)
    tensors = {name: frames[name][kept, 0] for name in observations}
    tensors |= {NEXT + name: frames[name][kept, 1] for name in observations}
    action = frames[named["action"]]
    action = action[:, 0] if f"{named['action']}_is_pad" in frames else action  # then it has a dimension for time
    reward = frames[named["reward"]].float().reshape(-1)
    tensors |= {ACTION: action[kept].float(), REWARD: reward[kept], TERMINAL: terminal[kept]}
    features = {name: part.features[name] for name in observations}
    features[ACTION] = Feature(FeatureType.ACTION, tuple(action.shape[1:]))
    features[REWARD] = Feature(FeatureType.REWARD, ())
    ends = kept.cumsum(0)[is_last].tolist()
    return Recorded(tensors, features, spans(ends, sorted(part.episodes)), False, str(part.meta.root))
