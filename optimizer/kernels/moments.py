"""Adam's two moments: in the type of their parameter or, with `state_dtype`, in bfloat16."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.float64_step import HALVES
from ..transforms.memory_layout import check_memory, layout_problem, with_strides_of
from ..types import MOMENTS

_ONE = torch.ones((), dtype=torch.float32, device="cpu")

CHANGED = (
    "state_dtype: a group has changed since the optimizer was built ({reason}), and its step now does not support"
    " moments in {dtype}. Build an optimizer without state_dtype and load this one's state dict into it."
)


def adam_state(
    optimizer: ScheduledOptimizer, p: Tensor, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the count of steps, the average and the square of `p`, which this makes for the first step.

    Args:
        optimizer: has the state.
        p: a parameter.
        device: the count's, for a new one; torch's fused kernels need it where the parameter is.
    """
    state = optimizer.state[p]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for name in MOMENTS:
            dtype = moment_dtype(optimizer, p)
            state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
    if not optimizer.is_laid_out or p.dtype in HALVES:
        for name in MOMENTS:
            state[name] = adapted_moment(optimizer, p, state[name])
    average, square = MOMENTS
    return state["step"], state[average], state[square]


def count_step(steps: list[Tensor]) -> None:
    """Add 1 to each of `steps`: on the CPU by a tensor, as a number is made a tensor again for each of them."""
    if steps and steps[0].is_cpu:
        torch._foreach_add_(steps, _ONE, alpha=1)
    elif steps:
        torch._foreach_add_(steps, 1)


def moment_dtype(optimizer: ScheduledOptimizer, p: Tensor) -> torch.dtype:
    """Return the type of the moments of `p`: float32 for cautious steps in half precision."""
    options = optimizer.step_options
    if options.caution is not None and p.dtype in HALVES:
        return torch.float32
    return options.state_dtype or p.dtype


def cast_moments(optimizer: ScheduledOptimizer) -> None:
    """Cast loaded moments to the optimizer's `state_dtype`: torch has cast them to the types of the parameters."""
    dtype = optimizer.state_dtype
    for state in optimizer.state.values() if dtype is not None else ():
        state |= {name: state[name].to(dtype) for name in MOMENTS if name in state}


def adapted_moment(optimizer: ScheduledOptimizer, p: Tensor, value: Tensor) -> Tensor:
    """Return the moment `value` of `p` in the type and with the strides that a kernel needs."""
    if p.dtype in HALVES:  # a step without caution leaves shorter ones
        value = value.to(moment_dtype(optimizer, p))
    return with_strides_of(p, value)


def check_moments(
    optimizer: ScheduledOptimizer, p: Tensor, who: str, names: Sequence[str], *, strict: bool
) -> str | None:
    """Return why a kernel cannot take the state of `p` though the class can, or None.

    Args:
        optimizer: has the state.
        p: a parameter.
        who: the name of `p` in a message.
        names: the state entries that have the shape of `p`.
        strict: whether a kernel takes the step, and not the class.

    Raises:
        ValueError, TypeError, RuntimeError: for state of another shape, type or place, which no step can take.
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
    odd = next((odd for _, value in values if (odd := layout_problem(value)) is not None and not value.is_neg()), None)
    return None if odd is None else f"the state of {who} {odd}"


def check_class_step(optimizer: ScheduledOptimizer, reason: str) -> None:
    """Raise RuntimeError if the step of the class would mix moments of `state_dtype` with those that it makes itself.

    Args:
        optimizer: its class takes the step.
        reason: why its kernel cannot.
    """
    dtype = optimizer.step_options.state_dtype
    if dtype is not None:
        raise RuntimeError(CHANGED.format(dtype=dtype, reason=reason))


def unsupported_by_fused(optimizer: Optimizer) -> str | None:
    """Return why torch's fused Adam cannot step float32 parameters with moments in bfloat16, or None.

    It is tried on a tensor of one element on each device.
    """
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
