"""`transitions`: data sets for offline reinforcement learning."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import xxhash
from pydantic import Field
from torch import Tensor

from optimizer.config import Count, PositiveCount, PositiveNumber, counted, nearest

from ..errors import ConfigError
from ..interfaces.dataset import DATASET_REGISTRY, Batch, DataSet, TensorSplit
from ..lerobot_data.dataset import HeldOut
from ..lerobot_data.episodes import split_episodes
from ..lerobot_data.sources import Source, expanded
from ..runtime.terminal import report
from .array_file import Content, read_arrays
from .lerobot_transitions import NAMES, read_lerobot
from .minari_transitions import read_minari
from .recorded import PARAMS, REWARD, Recorded, check_values

RETURN_RANGE = 1000.0
"""The difference between the highest and the lowest return after `reward_normalization: return_range`. D4RL's."""

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_BELONGS = {
    "path": ("names", "episode_length"),
    "root": ("names", "observations", "episodes", "exclude_episodes"),
    "repo_id": ("names", "observations", "episodes", "exclude_episodes", "revision"),
    "minari": (),
}
"""The parameters that each source takes."""


@DATASET_REGISTRY.register("transitions")
class Transitions(DataSet):
    """Transitions for offline reinforcement learning: observation, action, reward, and the next observation.

    Batches hold float32 tensors: `observation.state` (N, size), `action` (N, size), `reward` (N),
    `next.observation.state` (N, size), and `terminal` (N). `terminal` is 1 where the task ended for good, so that no
    reward follows. Where time ran out it is 0. A data set in LeRobot's format may have other observations, each with
    its `next.NAME`. The statistics are those of all loaded transitions. `statistics["return"]` has mean, std, min, max
    and count of the returns of whole episodes, in the units of the data's rewards, where episodes are known.

    Args:
        path: An .npz file with the arrays `obs`, `action`, `reward`, `next_obs`, `terminal`, one transition a row, and
            perhaps `timeout`: 1 where an episode was cut. Nothing in it is unpickled.
        root: Folder of a data set in LeRobot's format with the features `next.reward` and `next.done`, in place of
            `path`. The next observation is that of the next frame; the last frame of an episode is left out, unless it
            is terminal.
        repo_id: Its name on the Hugging Face Hub, in place of `root`.
        revision: Branch, tag or commit of `repo_id`; null: its main branch.
        minari: Id of a data set in Minari's folder, in place of `path`.
        names: Names of arrays or features that differ from those above, by their content: `{obs: observations}` for
            `path`; `action`, `reward` and `terminal` for `root` and `repo_id`. If a data set's `next.done` is also true
            where time ran out, give `terminal` a feature that is not, such as `next.success`.
        observations: With `root` or `repo_id`: the observations to load; null: all that are vectors.
        episode_length: With `path`: rows of each episode, for a file without `timeout` whose episodes are all of one
            length.
        episodes: With `root` or `repo_id`: numbers of the episodes to load; null: all.
        exclude_episodes: With `root` or `repo_id`: numbers of episodes to leave out.
        held_out: Share of the episodes that is held out, which are the last ones (at least one, if the share is not 0),
            or their numbers. A share of the rows, where episodes are not known.
        reward_normalization: `return_range` divides rewards by the difference between the highest and the lowest return
            of an episode, and multiplies them by 1000, as is usual for D4RL's locomotion tasks.
        reward_scale: Factor of the rewards.
        reward_shift: Added to the rewards after that; -1 is usual where the reward is 1 at the goal and 0 elsewhere.

    Raises:
        ConfigError: A file, an array or a feature is missing or invalid, or a parameter does not fit the data.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        root: str | Path | None = None,
        repo_id: str | None = None,
        revision: str | None = None,
        minari: str | None = None,
        names: dict[str, str] | None = None,
        observations: Annotated[list[str], Field(min_length=1)] | None = None,
        episode_length: PositiveCount | None = None,
        episodes: list[Count] | None = None,
        exclude_episodes: list[Count] | None = None,
        held_out: HeldOut = 0.0,
        reward_normalization: Literal["return_range"] | None = None,
        reward_scale: PositiveNumber = 1.0,
        reward_shift: float = 0.0,
    ) -> None:
        options: dict[str, object] = {"revision": revision, "names": names, "observations": observations}
        options |= {"episode_length": episode_length, "episodes": episodes, "exclude_episodes": exclude_episodes}
        source = _only_source({"path": path, "root": root, "repo_id": repo_id, "minari": minari}, options)
        if source == "path":
            recorded = read_arrays(_file(path), _known_names(names, get_args(Content)), episode_length)
        elif source == "minari":
            recorded = read_minari(str(minari))
        else:
            chosen = {"episodes": episodes, "exclude_episodes": exclude_episodes}
            place = Source.model_validate({"root": root, "repo_id": repo_id, "revision": revision, **chosen})
            recorded = read_lerobot(place, _known_names(names, list(NAMES)), observations)
        check_values(recorded)
        returns = recorded.returns()
        _report(recorded, returns)
        rewards = _normalized(recorded, returns, reward_normalization) * reward_scale + reward_shift
        if not rewards.isfinite().all():
            raise ConfigError(f"{PARAMS}.reward_scale: {reward_scale:g} makes rewards that float32 cannot hold.")
        self._take(replace(recorded, tensors={**recorded.tensors, REWARD: rewards}), returns, held_out)

    def _take(self, recorded: Recorded, returns: Tensor | None, held_out: float | Sequence[int]) -> None:
        self.features = recorded.features
        measured = {name: recorded.tensors[name] for name in recorded.features}
        measured |= {} if returns is None else {"return": returns}
        self.statistics = {name: _statistics(values) for name, values in measured.items()}
        self._fingerprint = _checksum(recorded.tensors)
        self.train, self.held_out = _splits(recorded, held_out)

    def fingerprint(self) -> str:
        """Return a checksum of all values that are loaded, rewards as they are trained on."""
        return self._fingerprint


def _only_source(given: Mapping[str, object], options: Mapping[str, object]) -> str:
    """Return the parameter that names the source. Raises ConfigError if there is not one, or an option is another's."""
    sources = [name for name, value in given.items() if value is not None]
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        raise ConfigError(f"{PARAMS}: must have one of {', '.join(given)}; it has {found}.")
    for name, value in options.items():
        if value is not None and name not in _BELONGS[sources[0]]:
            owners = " or ".join(owner for owner, names in _BELONGS.items() if name in names)
            raise ConfigError(f"{PARAMS}.{name}: belongs to {owners}, and has no effect with {sources[0]}. Remove it.")
    return sources[0]


def _file(path: str | Path | None) -> Path:
    file = expanded(path)
    assert file is not None, "it is the source"
    return file


def _known_names(names: Mapping[str, str] | None, known: Sequence[str]) -> dict[Any, str]:
    for name in names or ():
        if name not in known:
            raise ConfigError(f"{PARAMS}.names.{name}: must be one of {', '.join(known)}{nearest(name, known)}")
    return dict(names or {})


def _report(recorded: Recorded, returns: Tensor | None) -> None:
    """Print the number of transitions, and the returns of the policy that acted."""
    found = counted(len(recorded), "transition", f"{len(recorded):,}")
    if recorded.episodes is not None:
        found += f" of {counted(len(recorded.episodes), 'episode')}"
    if returns is not None:
        found += f", returns {float(returns.min()):.4g} to {float(returns.max()):.4g}, mean {float(returns.mean()):.4g}"
    report(f"{recorded.place}: {found}")


def _normalized(recorded: Recorded, returns: Tensor | None, normalization: str | None) -> Tensor:
    """Return the rewards, normalized by the returns if that is asked for. Raises ConfigError if it cannot be done."""
    rewards = recorded.tensors[REWARD]
    if normalization is None:
        return rewards
    path = f"{PARAMS}.reward_normalization"
    if returns is None:
        raise ConfigError(
            f"{path}: needs whole episodes, which are not known in {recorded.place}. Give the array of timeouts in"
            f" {PARAMS}.names.timeout, or {PARAMS}.episode_length; or scale by reward_scale."
        )
    spread = float(returns.max() - returns.min())
    if spread == 0:
        raise ConfigError(f"{path}: all {len(returns)} returns are {float(returns[0]):g}. Scale by reward_scale.")
    return rewards * (RETURN_RANGE / spread)


def _statistics(values: Tensor) -> dict[str, Tensor]:
    """Return LeRobot's statistics of values (N, …), float32."""
    exact = values.double().numpy()
    found = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    quantiles = np.quantile(exact, list(_QUANTILES.values()), axis=0)
    found |= {"count": np.array(len(exact)), **dict(zip(_QUANTILES, quantiles, strict=True))}
    return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in found.items()}


def _checksum(tensors: Batch) -> str:
    checksum = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        checksum.update(f"{name} {list(tensor.shape)}".encode())
        checksum.update(np.ascontiguousarray(tensor.numpy()).data)
    return checksum.hexdigest()


def _splits(recorded: Recorded, held_out: float | Sequence[int]) -> tuple[TensorSplit, TensorSplit | None]:
    """Return the transitions to train on and those that are held out. Raises ConfigError if nothing is left."""
    if not held_out:
        return TensorSplit(recorded.tensors), None
    if recorded.episodes is None:
        if not isinstance(held_out, float | int):
            raise ConfigError(f"{PARAMS}.held_out: must be a share, as the episodes are not known; got {held_out}.")
        rows = torch.arange(len(recorded))
        first = len(rows) - max(1, round(len(rows) * held_out))
        if first == 0:
            raise ConfigError(f"{PARAMS}.held_out: must leave one transition to train on; {held_out} leaves none.")
        return _rows(recorded, rows[:first]), _rows(recorded, rows[first:])
    train, kept = (
        torch.cat([torch.arange(span.start, span.end) for span in some])
        for some in split_episodes(recorded.episodes, held_out, PARAMS)
    )
    return _rows(recorded, train), _rows(recorded, kept)


def _rows(recorded: Recorded, rows: Tensor) -> TensorSplit:
    return TensorSplit({name: tensor[rows] for name, tensor in recorded.tensors.items()})
