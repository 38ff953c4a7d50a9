"""The hooks that torch calls before `load_state_dict`, called earlier than torch does."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from ..types import StateDict


def apply_load_pre_hooks(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Return the state dict that the hooks make of `state_dict`, which stays as it is."""
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():  # torch has no public list of them
        state_dict = hook(optimizer, state_dict := dict(state_dict)) or state_dict
    return state_dict


@contextmanager
def without_load_pre_hooks(optimizer: Optimizer) -> Iterator[None]:
    """Let `load_state_dict` call no hooks before it."""
    hooks = optimizer._optimizer_load_state_dict_pre_hooks
    optimizer._optimizer_load_state_dict_pre_hooks = type(hooks)()
    try:
        yield
    finally:
        optimizer._optimizer_load_state_dict_pre_hooks = hooks
