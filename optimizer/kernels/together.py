"""The steps of several optimizers in the calls that one takes."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.clipping import clip_before_step, clip_factor
from ..transforms.grad_scaler import loss_scale
from ..transforms.gradient_norms import are_plain, total_norm
from ..transforms.gradient_scale import scale_all
from ..transforms.step_hooks import has_foreign_hooks, is_profiled, no_autograd
from ..transforms.weight_decay import DECOUPLED_FLAG
from ..types import MOMENTS
from .fused import fused_adam_step, fused_update
from .moments import count_step
from .step_tensors import CheckedTensors, StepTensors

_NUMBERS = itemgetter(DECOUPLED_FLAG, "lr", "betas", "weight_decay", "eps", "maximize")


@dataclass
class _Ready:
    """An optimizer whose step can be taken with those of others, its tensors, and the lr of its next update."""

    optimizer: ScheduledOptimizer
    tensors: StepTensors
    next_lr: float


@dataclass
class _Rows:
    """Parameters that one call updates, and what it needs of them."""

    group: dict[str, object]
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)


def step_together(optimizers: Iterable[Optimizer]) -> None:
    """Step optimizers, to the same effect bit for bit as one after the other, in fewer calls where that is possible.

    It is for many small ones. Fused steps of Adam and AdamW from their third step on are taken together, if no others
    are between them and nobody looks at them: there are no step hooks, profilers or GradScaler, and no parameter is
    sharded. If such a step cannot be taken, none of those that it is taken with has moved. Other steps are taken one by
    one.

    Args:
        optimizers: of any kind, without parameters in common. Each is asked for when the steps of those before it were
            taken, or can be.

    Examples:
        >>> import torch
        >>> from optimizer import OPTIMIZER_BUILDER_REGISTRY, step_together
        >>> weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        >>> optimizers = [OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.1).build([weight]) for weight in weights]
        >>> sum((weight**2).sum() for weight in weights).backward()
        >>> step_together(optimizers)
    """
    waiting: list[_Ready] = []
    for optimizer in optimizers:
        ready = _ready(optimizer)
        if ready is None:
            _step(waiting)
            waiting = []
            optimizer.step()
        else:
            waiting.append(ready)
    _step(waiting)


def _ready(optimizer: Optimizer) -> _Ready | None:
    if not isinstance(optimizer, ScheduledOptimizer) or not _is_unobserved(optimizer):
        return None
    kernel, checked = optimizer.kernel, optimizer.checked_tensors
    if kernel is None or kernel.step is not fused_adam_step or not isinstance(checked, CheckedTensors):
        return None
    if not optimizer.is_laid_out or optimizer.state_dtype is not None or optimizer.is_on_shards:
        return None
    tensors = StepTensors(optimizer, kernel.state_names)
    if not all(tensors.states) or not checked.are_still(optimizer, tensors):
        return None
    try:
        return _Ready(optimizer, tensors, optimizer.scheduler.next_lr())
    except Exception:  # a schedule of the user's: it raises again in the optimizer's own step
        return None


def _is_unobserved(optimizer: ScheduledOptimizer) -> bool:
    return not (
        has_foreign_hooks(optimizer, clip_before_step)
        or is_profiled()
        or "step" in optimizer.__dict__  # somebody has wrapped it
        or optimizer.gradient_scale is not None
        or getattr(optimizer, "found_inf", None) is not None
        or loss_scale(optimizer) is not None
        or torch.compiler.is_compiling()
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())  # type: ignore[no-untyped-call]
    )


def _step(ready: Sequence[_Ready]) -> None:
    seen = [id(tensor) for one in ready for tensor in (*one.tensors.parameters, *one.tensors.gradients)]
    if len(ready) < 2 or len(set(seen)) < len(seen):
        for one in ready:
            one.optimizer.step()
    else:
        _step_joined(ready)


@no_autograd
def _step_joined(ready: Sequence[_Ready]) -> None:
    _clip([one for one in ready if one.optimizer._optimizer_step_pre_hooks])
    calls: dict[Hashable, _Rows] = {}
    for one in ready:
        for group, begin, end in one.tensors.groups:
            if begin < end:
                first, rows = one.tensors.parameters[begin], slice(begin, end)
                call = calls.setdefault((_NUMBERS(group), first.dtype, first.device), _Rows(group))
                call.parameters += one.tensors.parameters[rows]
                call.gradients += one.tensors.gradients[rows]
                call.states += one.tensors.states[rows]
    average, square = MOMENTS
    for call in calls.values():
        steps = [state["step"] for state in call.states]
        averages, squares = ([state[name] for state in call.states] for name in (average, square))
        count_step(steps)
        fused_update(call.group, call.parameters, call.gradients, averages, squares, steps)
        torch.autograd.graph.increment_version(call.parameters)
    for one in ready:
        one.optimizer.scheduler.advance(one.optimizer.param_groups, one.next_lr)


def _clip(ready: Sequence[_Ready]) -> None:
    """Clip the gradients of each optimizer to its own norm, which is left as its `grad_norm`."""
    every = [gradient for one in ready for gradient in one.tensors.gradients]
    norms = iter(torch._foreach_norm(every) if are_plain(every) else ())
    for one in ready:
        gradients, max_norm = one.tensors.gradients, one.optimizer.grad_clip_norm
        if not gradients or max_norm is None:
            continue
        own = [*islice(norms, len(gradients))]
        norm = torch.linalg.vector_norm(torch.stack(own)) if own else total_norm(gradients)
        factor = clip_factor(norm, max_norm)
        if factor is not None:
            scale_all(gradients, factor)
        one.optimizer.grad_norm = norm
