"""Making and saving optimizers without torch's compiler, whose import takes a second."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.optim import Optimizer

_MARK = "__dynamo_disable"
"""The attribute in which torch._compile keeps the function that it calls in place of one that is never compiled."""
_METHODS = (Optimizer.add_param_group, Optimizer.state_dict)


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
