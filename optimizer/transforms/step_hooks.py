"""A step without torch's step hooks, and a step with them at less cost."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.autograd import profiler
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

OwnHook = Callable[[Any, tuple[Any, ...], dict[str, Any]], object]
"""A step-pre hook that belongs to the optimizer itself."""

_set_grad_enabled: Callable[[bool], object] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)
"""The private function makes no context manager of the call."""


def without_hooks(step: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the `step` of a class without torch's wrapper that calls the step hooks.

    torch marks the wrapper as `hooked`. Decorators copy the mark: torch.compile puts one around the steps of LBFGS and
    SparseAdam, so that a marked function may be wrapped several times. A class may set the mark itself, so that torch
    does not wrap its step.
    """
    while getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return step


def has_foreign_hooks(optimizer: Optimizer, own: OwnHook) -> bool:
    """Return whether the coming step calls hooks of others: global ones, or the optimizer's except `own`."""
    if _global_optimizer_pre_hooks or _global_optimizer_post_hooks or optimizer._optimizer_step_post_hooks:
        return True
    hooks = optimizer._optimizer_step_pre_hooks
    return bool(hooks) and any(hook is not own for hook in hooks.values())


def hooked(own: OwnHook) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Return a decorator for a step without autograd and with torch's step hooks around it.

    It does what `Optimizer.profile_hook_step` and `torch.no_grad` do, which is a third of the time of a small
    optimizer's step. While no profiler runs, a step without arguments and without other hooks than `own` has the same
    effect at less cost; only the step's label is then missing for observers that torch does not count as profilers.
    """

    def decorate(step: Callable[..., object]) -> Callable[..., object]:
        quick = no_autograd(step)
        with_hooks = Optimizer.profile_hook_step(quick)

        @functools.wraps(step)
        def hooked_step(optimizer: Optimizer, *args: object, **options: object) -> object:
            if args or options or has_foreign_hooks(optimizer, own) or is_profiled():
                return with_hooks(optimizer, *args, **options)
            if optimizer._optimizer_step_pre_hooks:
                own(optimizer, (optimizer,), {})
            return quick(optimizer)

        return hooked_step

    return decorate


def no_autograd(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return `function` under no_grad, as `torch.no_grad()` does at four times the cost."""

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        if not torch.is_grad_enabled():
            return function(*args, **options)
        _set_grad_enabled(False)
        try:
            return function(*args, **options)
        finally:
            _set_grad_enabled(True)

    return wrapped


def is_profiled() -> bool:
    """Return whether a profiler of torch's is at work; True where torch has no such function."""
    return getattr(profiler, "_is_profiler_enabled", True)
