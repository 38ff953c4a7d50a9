"""The state of every random number generator that training draws from."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

RngState = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and plain values, by name."""


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seed python, numpy, and torch on the CPU and every other device.

    Args:
        seed: The seed.
        device: The only kind of device to seed beside the CPU. torch takes longer than a small update to seed all: it
            keeps a stack trace for each kind of device that is not in use.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device is None:
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def rng_state() -> RngState:
    """Return the state of all generators."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    tensors = _torch_states() | {"numpy": torch.from_numpy(numpy_state["state"]["key"].copy())}
    numpy_values = {
        "position": int(numpy_state["state"]["pos"]),
        "has_gauss": int(numpy_state["has_gauss"]),
        "gauss": float(numpy_state["gauss"]),
    }
    return tensors, {"python": [version, list(words), gauss], "numpy": numpy_values}


def set_rng_state(state: RngState) -> None:
    """Set all generators to `state`. A CUDA device that it does not name keeps its state.

    Raises:
        Exception: `state` is not valid. Python, numpy and torch raise different ones.
    """
    tensors, values = state
    if not 0 <= values["numpy"]["position"] <= 624:  # numpy does not check it, and reads beyond its array
        raise ValueError(f"numpy's position is {values['numpy']['position']!r}")
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    key, numpy_values = tensors["numpy"].numpy(), values["numpy"]
    np.random.set_state(("MT19937", key, numpy_values["position"], numpy_values["has_gauss"], numpy_values["gauss"]))
    _set_torch_states(tensors)


class RngSnapshot:
    """The state of all generators before an update, to restore after an update that fails and is made again.

    Copying the states of Python's and numpy's generators would take a tenth of a small update, and most runs draw from
    torch's alone. They are compared after 1, 2, 4, 8 … updates, and copied at each update once they have moved.
    """

    def __init__(self) -> None:
        self._updates = 0
        self._compared: RngState | None = None
        self._kept: RngState | None = None
        self._all_move = False

    def take(self) -> None:
        """Keep the states as they are."""
        is_due = self._updates & (self._updates - 1) == 0
        self._updates += 1
        if not (is_due or self._all_move):
            self._kept = _torch_states(), {}
            return
        before, self._kept = self._compared, rng_state()
        self._compared = self._kept
        if before is not None:
            (tensors, values), (tensors_before, values_before) = self._kept, before
            is_same = values == values_before and torch.equal(tensors["numpy"], tensors_before["numpy"])
            self._all_move = self._all_move or not is_same

    def restore(self) -> None:
        """Restore the copied states of the last `take`; nothing happens without one."""
        if self._kept is not None and self._kept[1]:
            set_rng_state(self._kept)
        elif self._kept is not None:
            _set_torch_states(self._kept[0])


@contextmanager
def separate_rng(seed: int) -> Iterator[None]:
    """Run the body on generators seeded with `seed`, then restore their states."""
    before = rng_state()
    seed_all(seed)
    try:
        yield
    finally:
        set_rng_state(before)


def _torch_states() -> dict[str, Tensor]:
    return {"torch": torch.get_rng_state()} | {f"cuda:{index}": state for index, state in enumerate(_cuda_states())}


def _set_torch_states(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["torch"])
    for index in range(len(_cuda_states())):
        if f"cuda:{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{index}"], index)


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
