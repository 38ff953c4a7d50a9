"""Optimizers whose weights for training differ from those for evaluation, and the switch between the two.

Schedule-free optimizers step at one sequence of weights and average them into another.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

from torch.optim import Optimizer

from optimizer.types import SwitchesWeights


def switches_weights(optimizer: object) -> TypeGuard[SwitchesWeights]:
    """Return whether `optimizer` has separate weights for training and for evaluation, and can switch."""
    return isinstance(optimizer, SwitchesWeights)


def train_at_training_weights(optimizers: Iterable[Optimizer]) -> None:
    """Switch the optimizers that average weights to the weights for training."""
    for optimizer in filter(switches_weights, optimizers):
        optimizer.train()


@contextmanager
def averaged_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Run the body with the weights to evaluate, save and export, then switch back to those for training."""
    switching = [optimizer for optimizer in optimizers if switches_weights(optimizer)]
    for optimizer in switching:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in switching:
            optimizer.train()
