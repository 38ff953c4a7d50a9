"""`Windows`: a split of episodes, whose samples are frames with their neighbours in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..interfaces.dataset import Batch
from .columns import INDEX
from .frames import FrameSource


@dataclass(frozen=True)
class Table:
    """The frames of some episodes."""

    columns: Mapping[str, Tensor]
    """By name, with one frame a row. `index` holds the frame's number in the whole data set."""
    frames: Mapping[str, FrameSource]
    """By camera."""

    def read(self, key: str, rows: Tensor) -> Tensor:
        """Return the values of `key` in some rows.

        Args:
            key: A column or a camera.
            rows: int64 of any shape.

        Returns:
            (*rows.shape, *shape of one frame).
        """
        return self.frames[key][self.columns[INDEX][rows]] if key in self.frames else self.columns[key][rows]


class Windows:
    """Frames of some episodes, each with those before and after it that `deltas` names.

    Beyond the ends of an episode stands its nearest frame; the mask KEY_is_pad, bool (N, T), is true there.

    Args:
        table: Frames of these episodes, and perhaps of others.
        keys: The names of a batch's columns and cameras.
        deltas: Distances in frames by name. A name without has the frame itself, without a dimension for time.
        spans: By episode: its first row in the table, and one past its last.
        drop_n_last_frames: Frames at the end of each episode that are left out as samples.
        transforms: By camera: a function of its frames (N, T, 3, H, W).
    """

    def __init__(
        self,
        table: Table,
        keys: Sequence[str],
        deltas: Mapping[str, Sequence[int]],
        spans: Sequence[tuple[int, int]],
        drop_n_last_frames: int = 0,
        transforms: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({}),
    ) -> None:
        self._table, self._keys, self._transforms = table, keys, dict(transforms)
        self._deltas = {key: torch.tensor(deltas[key]) for key in keys if key in deltas}
        used = torch.tensor([span for span in spans if span[1] - span[0] > drop_n_last_frames]).reshape(-1, 2)
        self._first, self._end = used.unbind(1)
        samples = self._end - self._first - drop_n_last_frames
        self._samples_up_to = samples.cumsum(0)
        self._row_less_index = self._first - self._samples_up_to + samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._samples_up_to[-1]) if len(self._samples_up_to) else 0

    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`, which count through the episodes.

        Raises:
            IndexError: An index is negative, or not less than the number of samples.
        """
        rows, first, last = self._places(indices)
        made: Batch = {}
        for key in self._keys:
            if key not in self._deltas:
                made[key] = self._table.read(key, rows)
                continue
            meant = rows[:, None] + self._deltas[key]
            inside = meant.clamp(first[:, None], last[:, None])
            made[key] = self._table.read(key, inside)
            made[f"{key}_is_pad"] = inside != meant
        for key, transform in self._transforms.items():
            made[key] = transform(made[key])
        return made

    def _places(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of samples, and the first and the last row of their episodes."""
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"indices must be from 0 to {len(self) - 1}; got {indices.tolist()}")
        episode = torch.searchsorted(self._samples_up_to, indices, right=True)
        first, end = self._first[episode], self._end[episode]
        return indices + self._row_less_index[episode], first, end - 1
