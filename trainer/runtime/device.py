"""The device that a run trains on."""

import torch

from ..errors import ConfigError
from ..interfaces.dataset import Batch


def chosen_device(name: str) -> torch.device:
    """Return the device that `train.device` names. Raises ConfigError if this machine has none of that name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device: no such device; got {name!r}. Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"train.device: this machine has no {name}. Use auto or cpu.")
    return device


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
