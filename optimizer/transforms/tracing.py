"""Steps under torch.compile, and in CUDA graphs."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CAPTURED = (
    "step() is being captured in a CUDA graph, whose replay would update the parameters and not move the schedule"
    " inside. Capture the forward and backward pass and call step() after each replay, or compile the step with"
    " torch.compile."
)


def untraced(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return `function` as a call that torch.compile leaves to Python."""
    return torch.compiler.disable(function)  # type: ignore[no-any-return, no-untyped-call]  # torch's has no types


def refuse_capture() -> None:
    """Raise RuntimeError while a CUDA graph is captured on the current stream of an initialized device."""
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(CAPTURED)
