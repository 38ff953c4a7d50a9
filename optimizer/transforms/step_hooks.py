"""An optimizer's step without the wrapper that calls the step hooks."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def without_hooks(step: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the `step` of a class without torch's wrapper that calls the step hooks.

    torch marks the wrapper as `hooked`. Decorators copy the mark: torch.compile puts one around the steps of LBFGS and
    SparseAdam, so that a marked function may be wrapped several times. A class may set the mark itself, so that torch
    does not wrap its step.
    """
    while getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return step
