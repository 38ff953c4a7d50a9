"""The harness of the checks: modules, optimizers, and updates that depend on their number alone."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from ..factories.base import OptimizerFactory
from ..schedules.horizon import Horizon

BuiltOptimizer: TypeAlias = Any
"""The object that a factory under test builds: an optimizer with a schedule inside, if the checks pass."""

HORIZON = Horizon(total_steps=30, steps_per_epoch=10)
HALF = 7
"""Updates before something is saved, copied or added."""


class Harness:
    """A factory under test, with modules for its optimizers and updates that depend on their number alone.

    Args:
        factory: The factory.
        module: Makes a small module with inputs of shape (N, 4). If omitted, the module has two linear layers.
    """

    def __init__(self, factory: OptimizerFactory, module: Callable[[], nn.Module] | None = None) -> None:
        self._factory = factory
        self._module = module or _linear_layers

    def pair(self, updates: int = 0) -> tuple[nn.Module, BuiltOptimizer]:
        """Return a module and an optimizer over it after this many updates."""
        torch.manual_seed(0)
        module = self._module()
        optimizer = self._factory.build(module, horizon=HORIZON)
        for step in range(updates):
            self.update(module, optimizer, step)
        return module, optimizer

    def update(self, module: nn.Module, optimizer: BuiltOptimizer, step: int, with_closure: bool = False) -> None:
        """Make update number `step`; with a closure, if it is asked for or the class needs one."""
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = module(x).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            return loss

        if with_closure or isinstance(optimizer, LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        optimizer.zero_grad()

    def expect_same_continuation(
        self, one: tuple[nn.Module, BuiltOptimizer], other: tuple[nn.Module, BuiltOptimizer]
    ) -> None:
        """Make the second half of the updates with both pairs, and compare weights and lrs."""
        for step in range(HALF, 2 * HALF):
            self.update(*one, step)
            self.update(*other, step)
        expect(equal_weights(one[0], weights(other[0])), "the weights differ")
        expect(lrs(one[1]) == lrs(other[1]), f"the lrs differ: {lrs(one[1])} and {lrs(other[1])}")


def _linear_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def lrs(optimizer: BuiltOptimizer) -> list[float]:
    """Return the lr of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def weights(module: nn.Module) -> list[Tensor]:
    """Return copies of the parameters."""
    return [p.detach().clone() for p in module.parameters()]


def equal_weights(module: nn.Module, others: list[Tensor]) -> bool:
    """Return whether the parameters equal `others` bit for bit."""
    return all(torch.equal(p, q) for p, q in zip(module.parameters(), others, strict=True))


def expect(holds: bool, message: str) -> None:
    """Raise AssertionError with `message` unless `holds`."""
    if not holds:
        raise AssertionError(message)
