"""An optimizer's step without torch's wrapper that calls the step hooks."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Loss = TypeVar("Loss")


def without_hooks(step: Callable[Arguments, Loss]) -> Callable[Arguments, Loss]:
    """Return the `step` of a class as it was before torch let it call the step hooks.

    torch marks the steps that it wraps as `hooked`. Decorators copy the mark: torch.compile puts one around the steps
    of LBFGS and SparseAdam, and torch may then wrap the marked step several times. A class may set the mark itself,
    so that torch leaves its step alone.
    """
    while getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return step
