"""The devices of this machine, and batches on them."""

import torch

from ..errors import ConfigError
from ..interfaces.dataset import Batch


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
    check_device_name(name, path)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{path}: this machine has no {name}. Use auto or cpu.")
    return device


def check_device_name(name: str, path: str) -> None:
    """Check the value `name` of the option `path`, on whatever machine it will be used.

    Raises:
        ConfigError: It is not the name of a device.
    """
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise ConfigError(f"{path}: no such device; got {name!r}. Use auto, cpu, cuda or cuda:N.") from error
