"""The bench on which the promises are checked: modules, optimizers, and updates that depend on their number alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS

from ..schedules.horizon import Horizon

HORIZON = Horizon(total_steps=30, steps_per_epoch=10)
HALF = 7  # updates before something is saved, copied or added


class Harness:
    """A factory under test, with modules for its optimizers and updates that depend on their number alone."""

    def __init__(self, factory: Any, module: Callable[[], nn.Module] | None = None) -> None:
        self._factory = factory
        self._module = module or _layers

    def pair(self, updates: int = 0) -> tuple[nn.Module, Any]:
        """Return a module and an optimizer over it after so many updates."""
        torch.manual_seed(0)
        module = self._module()
        optimizer = self._factory.build(module, horizon=HORIZON)
        for step in range(updates):
            self.update(module, optimizer, step)
        return module, optimizer

    def update(self, module: nn.Module, optimizer: Any, step: int, with_closure: bool = False) -> None:
        """Take update `step`, by a closure for a class that cannot do without."""
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

    def go_on_alike(self, one: tuple[nn.Module, Any], other: tuple[nn.Module, Any]) -> None:
        """Take the second half of the updates with both, and compare weights and lrs."""
        for step in range(HALF, 2 * HALF):
            self.update(*one, step)
            self.update(*other, step)
        expect(same(one[0], weights(other[0])), "the weights differ")
        expect(lrs(one[1]) == lrs(other[1]), f"the lrs differ: {lrs(one[1])} and {lrs(other[1])}")


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def lrs(optimizer: Any) -> list[float]:
    """Return the lr of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def weights(module: nn.Module) -> list[Tensor]:
    """Return copies of the parameters."""
    return [p.detach().clone() for p in module.parameters()]


def same(module: nn.Module, others: list[Tensor]) -> bool:
    """Return whether the parameters equal `others` bit for bit."""
    return all(torch.equal(p, q) for p, q in zip(module.parameters(), others, strict=True))


def expect(holds: bool, message: str) -> None:
    """Raise AssertionError with `message` unless what is expected holds."""
    if not holds:
        raise AssertionError(message)
