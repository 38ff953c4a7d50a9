"""Labels of the steps that an objective makes, which the processes compare before they add up gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ..errors import UserCodeError
from .world import World

_BITS = 32


@dataclass(frozen=True)
class StepLabel:
    """A step of an objective: the update, and the components that it steps; none at the update's end."""

    update: int
    components: tuple[str, ...]

    @cached_property
    def numbers(self) -> Tensor:
        """Return the label as numbers whose sum over the processes shows whether all have the same.

        The bits of a code are followed by their opposites. What is 0 here stays 0 in the sum, in any type and for any
        number of processes, if no other process has a 1 there.
        """
        code = crc32(f"{self.update} {' '.join(self.components)}".encode())
        both = np.array([code, ~code % 2**_BITS], dtype="<u4")
        return torch.from_numpy(np.unpackbits(both.view(np.uint8)))

    def is_everywhere(self, total: Tensor) -> bool:
        """Return whether all processes have this label. total: the sum of their numbers."""
        return not bool((total.cpu() * (1 - self.numbers)).any())

    def text(self) -> str:
        """Return the label in words, for a message."""
        return ("steps " + ", ".join(self.components) if self.components else "ends") + f" in update {self.update}"


LABEL_LENGTH = 2 * _BITS
"""How many numbers a label has."""


def labels_differ(world: World, label: StepLabel) -> UserCodeError:
    """Return the error that names what each process steps. All processes call it."""
    labels = [
        StepLabel(update, tuple(components))
        for update, components in world.gather([label.update, list(label.components)])
    ]
    ranks: dict[str, list[int]] = {}
    for rank, each in enumerate(labels):
        ranks.setdefault(each.text(), []).append(rank)
    found = "; ".join(f"{named_ranks(those)} {text}" for text, those in ranks.items())
    return UserCodeError(
        f"train.objective: the processes do not step the same components: {found}. In each update, all processes must"
        " call learner.step for the same components in the same order, whatever is in their part of the batch."
    )


def named_ranks(ranks: Sequence[int], shown: int = 8) -> str:
    """Return ranks as the beginning of a sentence: "rank 3", or "ranks 0, 1, 2"."""
    more = f" and {len(ranks) - shown} more" if len(ranks) > shown else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:shown]))}{more}"
