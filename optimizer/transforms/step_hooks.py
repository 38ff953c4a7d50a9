"""An optimizer's step without what calls the step hooks around it."""

from collections.abc import Callable
from typing import Any


def without_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `step` of a class as it was before torch let it call the step hooks.

    torch marks what it wraps as `hooked`. Decorators copy the mark: torch.compile puts one around the steps of LBFGS
    and SparseAdam, and what is marked may then be wrapped several times. A class may set the mark itself, so that
    torch leaves its step alone.
    """
    unwrapped: Any = step
    while getattr(unwrapped, "hooked", False) and hasattr(unwrapped, "__wrapped__"):
        unwrapped = unwrapped.__wrapped__
    return unwrapped  # type: ignore[no-any-return]  # a step of whatever class
