"""Using optimizers without torch's compiler, whose import takes a second."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps

import torch
from torch.optim import Optimizer

_MARK = "__dynamo_disable"
"""The attribute in which torch._compile keeps the function that it calls in place of one that is never compiled."""
_WRAP = "_use_grad_for_differentiable"
"""torch's decorator of the steps of its classes."""
_METHODS = (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.zero_grad)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Run the body, outside of compiled code, and do not import torch._dynamo for the methods that are never compiled.

    To make sure of it, torch wraps these by the compiler when they are first called.
    """
    functions = [method.__wrapped__ for method in _METHODS if hasattr(method, "__wrapped__")]
    if "torch._dynamo" in sys.modules or any(hasattr(function, _MARK) for function in functions):
        yield
        return
    for function in functions:
        setattr(function, _MARK, function)
    try:
        yield
    finally:
        for function in functions:
            with suppress(AttributeError):  # another thread was in here too
                delattr(function, _MARK)


def importing_no_compiler(step: Callable[..., object]) -> Callable[..., object]:
    """Return the `step` of a class so that it imports the compiler only if it is traced.

    torch's wrapper around the steps of its classes sets whether gradients are recorded, and imports the compiler for
    marks that only a trace needs. Steps without that wrapper are returned as they are.
    """
    if not _is_wrapped(step):
        return step
    bare: Callable[..., object] = step.__wrapped__  # type: ignore[attr-defined]  # what torch's wrapper is around

    @wraps(step)
    def untraced_step(optimizer: Optimizer, *args: object, **options: object) -> object:
        if torch.compiler.is_compiling():
            return step(optimizer, *args, **options)
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return bare(optimizer, *args, **options)

    return untraced_step


def _is_wrapped(step: Callable[..., object]) -> bool:
    """Return whether torch's own wrapper is around `step`: all that it makes share their code."""
    wrap: Callable[..., object] | None = getattr(sys.modules[Optimizer.__module__], _WRAP, None)
    code = getattr(step, "__code__", None)
    return wrap is not None and code is not None and code is getattr(wrap(_is_wrapped), "__code__", None)
