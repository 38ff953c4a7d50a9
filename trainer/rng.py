"""The state of every random number generator that training draws from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

RngState = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and plain values, by name."""


def seed_all(seed: int) -> None:
    """Seed python, numpy, torch and every CUDA device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> RngState:
    """Return the state of all generators."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(numpy_state["state"]["key"].copy())}
    tensors |= {f"cuda:{index}": state for index, state in enumerate(_cuda_states())}
    numpy_values = {
        "position": int(numpy_state["state"]["pos"]),
        "has_gauss": int(numpy_state["has_gauss"]),
        "gauss": float(numpy_state["gauss"]),
    }
    return tensors, {"python": [version, list(words), gauss], "numpy": numpy_values}


def set_rng_state(state: RngState) -> None:
    """Set all generators to `state`. CUDA devices that it does not name keep theirs.

    Raises one of Python's own exceptions if it is no state.
    """
    tensors, values = state
    if not 0 <= values["numpy"]["position"] <= 624:  # numpy does not look, and reads beyond its words
        raise ValueError(f"numpy's position is {values['numpy']['position']!r}")
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    key, numpy_values = tensors["numpy"].numpy(), values["numpy"]
    np.random.set_state(("MT19937", key, numpy_values["position"], numpy_values["has_gauss"], numpy_values["gauss"]))
    torch.set_rng_state(tensors["torch"])
    for index in range(len(_cuda_states())):
        if f"cuda:{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{index}"], index)


@contextmanager
def separate_rng(seed: int) -> Iterator[None]:
    """Run the body on generators seeded with `seed`, and leave them afterwards as they were before."""
    before = rng_state()
    seed_all(seed)
    try:
        yield
    finally:
        set_rng_state(before)


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
