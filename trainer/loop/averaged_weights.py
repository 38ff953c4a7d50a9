"""Optimizers that train at other weights than those to evaluate and save, and the way from one to the other and back.

Schedule-free optimizers are such: they step at one sequence of weights and average them into another.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

from torch.optim import Optimizer

from optimizer.types import SwitchesWeights


def switches_weights(optimizer: object) -> TypeGuard[SwitchesWeights]:
    """Return whether `optimizer` trains at other weights than those to evaluate, and can switch."""
    return isinstance(optimizer, SwitchesWeights)


def train_at_training_weights(optimizers: Iterable[Optimizer]) -> None:
    """Switch the optimizers that have other weights to evaluate to those to train."""
    for optimizer in filter(switches_weights, optimizers):
        optimizer.train()


@contextmanager
def averaged_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Run the body with the weights to evaluate, save and export, then switch back to those to train."""
    switching = [optimizer for optimizer in optimizers if switches_weights(optimizer)]
    for optimizer in switching:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in switching:
            optimizer.train()
