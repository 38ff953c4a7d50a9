"""Adam's two moments: in the type of their parameter or, with `state_dtype`, in bfloat16."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.embedding import MOMENTS
from optimizer.memory_layout import laid_out_as

CHANGED = (
    "state_dtype: a group has changed since the optimizer was built, and the step that it would take now does not know"
    " moments in {dtype}. Build an optimizer without state_dtype and load this one's state dict into it."
)


def adam_state(optimizer: Any, p: Tensor, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return the count of steps, the average and the square of `p`, from the first step on.

    device: where the count is; torch's fused kernels have it where the parameter is.
    """
    state = optimizer.state[p]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for name in MOMENTS:
            state[name] = torch.zeros_like(p, dtype=optimizer.state_dtype, memory_format=torch.preserve_format)
    for name in MOMENTS:
        state[name] = laid_out_as(p, state[name])
    return state["step"], state["exp_avg"], state["exp_avg_sq"]


def check_class_step(optimizer: Any) -> None:
    """Raise RuntimeError if the step of the class would mix moments of `state_dtype` with what it makes itself."""
    if optimizer.state_dtype is not None:
        raise RuntimeError(CHANGED.format(dtype=optimizer.state_dtype))


def fused_objection(optimizer: Optimizer) -> str | None:
    """Return what torch's fused Adam has against float32 parameters with moments in bfloat16, or None: it is tried."""
    for device in {p.device for group in optimizer.param_groups for p in group["params"]}:
        p, gradient, step = (torch.zeros(size, device=device) for size in ((1,), (1,), ()))
        average, square = (torch.zeros_like(p, dtype=torch.bfloat16) for _ in MOMENTS)
        try:
            torch._fused_adamw_(
                [p], [gradient], [average], [square], [], [step + 1],
                lr=0.0, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip
        except RuntimeError as error:
            return f"torch {torch.__version__} on {device}: {str(error).splitlines()[0]}"
    return None
