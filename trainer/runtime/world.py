"""The processes that train one run together, and the device of each. For now there is one process."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from ..errors import ConfigError
from ..interfaces.dataset import Batch


@dataclass(frozen=True)
class World:
    """The place of this process among those that train a run. The default is the only process of a run.

    Whatever may happen once a run (printing, writing files, taking the lock) asks `is_main` first.
    """

    rank: int = 0
    """The number of this process, from 0 to `size - 1`."""
    size: int = 1
    """How many processes train the run."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device that this process trains on."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, and writes the run's files."""
        return self.rank == 0

    def on(self, device: str) -> Self:
        """Return this place with the device that `train.device` names.

        Raises:
            ConfigError: This machine has no such device.
        """
        return replace(self, device=device_named(device, "train.device"))

    def seed(self, seed: int) -> int:
        """Return the seed for this process's random numbers in training: `seed` itself for the main process."""
        return seed + self.rank

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each value over all processes."""
        return dict(values)

    def from_main(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return in every process the values of the main one."""
        return dict(values)

    def barrier(self) -> None:
        """Wait until every process has come here."""


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def device_named(name: str, path: str) -> torch.device:
    """Return the device that the value `name` of the option `path` names.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{path}: no such device; got {name!r}. Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{path}: this machine has no {name}. Use auto or cpu.")
    return device
