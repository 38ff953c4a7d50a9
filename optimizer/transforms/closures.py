"""The closure of a step: evaluated first, so that what comes after it has the gradients."""

from collections.abc import Callable
from typing import Any

import torch

Closure = Callable[[], object]
"""Evaluates the model again and returns the loss."""


def evaluate(closure: Closure) -> object:
    """Return the loss of `closure`, called with gradients enabled."""
    with torch.enable_grad():
        return closure()


def after_closure(update: Callable[..., object], args: tuple[Any, ...], options: dict[str, Any]) -> object:
    """Evaluate the closure among the arguments of a step, if there is one; then call `update` with the others.

    Returns:
        The loss of the closure; without one, the result of `update`.
    """
    closure, *rest = args or (options.pop("closure", None),)
    loss = None if closure is None else evaluate(closure)
    result = update(*([None, *rest] if rest else []), **options)
    return result if closure is None else loss
