"""Adam's two moments: in the type of their parameter or, with `state_dtype`, in bfloat16."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..scheduling.optimizer import MOMENTS
from ..transforms.float64_step import HALVES
from ..transforms.memory_layout import check_memory, laid_out_as, oddity

CHANGED = (
    "state_dtype: a group has changed since the optimizer was built ({reason}), and the step that it would take now"
    " does not know moments in {dtype}. Build an optimizer without state_dtype and load this one's state dict into it."
)


def adam_state(optimizer: Any, p: Tensor, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return the count of steps, the average and the square of `p`, from the first step on.

    device: where the count is; torch's fused kernels have it where the parameter is.
    """
    state = optimizer.state[p]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for name in MOMENTS:
            dtype = moment_dtype(optimizer, p)
            state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    for name in MOMENTS:
        state[name] = moment(optimizer, p, state[name])
    return state["step"], state["exp_avg"], state["exp_avg_sq"]


def count(steps: list[Tensor]) -> None:
    """Add 1 to each of `steps`: on the CPU by a tensor, as a number is made one anew for each of them."""
    if steps and steps[0].is_cpu:
        torch._foreach_add_(steps, torch.ones(()), alpha=1)
    elif steps:
        torch._foreach_add_(steps, 1)


def moment_dtype(optimizer: Any, p: Tensor) -> torch.dtype:
    """Return the type of the moments of `p`: for cautious steps in half precision, float32."""
    if optimizer.caution is not None and p.dtype in HALVES:
        return torch.float32
    return optimizer.state_dtype or p.dtype


def moment(optimizer: Any, p: Tensor, value: Tensor) -> Tensor:
    """Return the moment `value` of `p` as a kernel takes it."""
    if p.dtype in HALVES:  # of a step without caution it may be shorter
        value = value.to(moment_dtype(optimizer, p))
    return laid_out_as(p, value)


def check_moments(optimizer: Any, p: Tensor, who: str, names: Sequence[str], *, strict: bool) -> str | None:
    """Return why a kernel cannot take the state of `p` though the class can, or None.

    who: what a message calls `p`. names: of the state that has its shape. strict: whether a kernel is to take it.
    Raises ValueError, TypeError or RuntimeError for state of another shape, type or place, which no step can take.
    """
    state = optimizer.state.get(p)
    if not state:
        return None
    missing = {"step", *MOMENTS} - state.keys() if tuple(names[:2]) == MOMENTS else ()
    if missing:
        raise ValueError(f"the state of {who} of shape {list(p.shape)} lacks {', '.join(sorted(missing))}")
    values = [(name, state[name]) for name in names if state.get(name) is not None]
    for name, value in values:
        if not isinstance(value, Tensor) or value.shape != p.shape:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise ValueError(f"the state of {who} of shape {list(p.shape)}: {name} has {found}, not that shape")
        check_memory(value, f"{name} of {who}")
    if not strict:
        return None
    dtype = moment_dtype(optimizer, p)
    dtypes = (dtype, p.dtype) if p.dtype in HALVES else (dtype,)
    if any(value.dtype not in dtypes or value.device != p.device for _, value in values):
        found = ", ".join(f"{x.dtype} {list(x.shape)} on {x.device}" for x in (p, *(value for _, value in values)))
        raise TypeError(f"the tensors of {who} differ in type or device: {found}. Nothing was updated.")
    odd = next((odd for _, value in values if (odd := oddity(value)) is not None and not value.is_neg()), None)
    return None if odd is None else f"the state of {who} {odd}"


def check_class_step(optimizer: Any, reason: str) -> None:
    """Raise RuntimeError if the step of the class would mix moments of `state_dtype` with what it makes itself.

    reason: why the class is to take the step.
    """
    if optimizer.state_dtype is not None:
        raise RuntimeError(CHANGED.format(dtype=optimizer.state_dtype, reason=reason))


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
