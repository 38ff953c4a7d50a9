"""`Recorded`: the transitions of a data set in memory, from whatever source, and their checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from optimizer.config import counted

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.features import Feature
from ..lerobot_data.meta import EpisodeSpan

ACTION, REWARD, TERMINAL, NEXT = "action", "reward", "terminal", "next."
"""Names in a batch. NEXT stands before the name of an observation."""

PARAMS = "data.params"
"""The place of the data set's parameters in a config."""


@dataclass(frozen=True)
class Recorded:
    """Transitions in memory, float32, one a row, in the order of time."""

    tensors: Batch
    """The observations, `action` (N, …), `reward` (N), `next.OBSERVATION` and `terminal` (N), 1 where an episode came
    to its end."""
    features: Mapping[str, Feature]
    """The observations, the action and the reward."""
    episodes: tuple[EpisodeSpan, ...] | None
    """The episodes in the order of their rows; None: unknown."""
    is_cut: bool
    """Whether the last episode continues after its last row, so that its return is unknown."""
    place: str
    """Where they come from, in messages."""

    def __len__(self) -> int:
        return len(self.tensors[ACTION])

    def returns(self) -> Tensor | None:
        """Return the sums of the rewards of whole episodes, float64; None: there are none, or they are unknown."""
        whole = self.episodes or ()
        whole = whole[:-1] if self.is_cut else whole
        if not whole:
            return None
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), self.tensors[REWARD].double().cumsum(0)])
        return sums[[span.end for span in whole]] - sums[[span.start for span in whole]]


def spans(ends: Sequence[int], numbers: Sequence[int] | None = None) -> tuple[EpisodeSpan, ...]:
    """Return the rows of episodes that follow one another, without those that have none.

    Args:
        ends: One past the last row of each.
        numbers: Their numbers; None: from 0 on.
    """
    bounds = zip(range(len(ends)) if numbers is None else numbers, pairwise([0, *ends]), strict=True)
    return tuple(EpisodeSpan(number, start, end, {}) for number, (start, end) in bounds if end > start)


def check_values(recorded: Recorded) -> None:
    """Check that there are rows, that all values are finite, and that `terminal` is 0 or 1.

    Raises:
        ConfigError: They are not.
    """
    place = recorded.place
    if len(recorded) == 0:
        raise ConfigError(f"{place}: there is no transition in it.")
    for name, tensor in recorded.tensors.items():
        if not (finite := tensor.isfinite()).all():
            bad = finite.reshape(len(tensor), -1).all(dim=1).logical_not().nonzero().flatten()
            raise ConfigError(
                f"{place}: {name!r} has NaN or an infinite value in {counted(len(bad), 'row')}, the first of which is"
                f" row {int(bad[0])} (from 0). Record it again, or leave these rows out."
            )
    terminal = recorded.tensors[TERMINAL]
    if (wrong := (terminal != 0) & (terminal != 1)).any():
        row = int(wrong.nonzero()[0, 0])
        raise ConfigError(f"{place}: {TERMINAL!r} must be 0 or 1; row {row} has {float(terminal[row]):g}.")
