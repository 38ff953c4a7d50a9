"""The steps of several optimizers in the calls that one takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..scheduling.optimizer import ScheduledOptimizer
from ..transforms.clipping import clip_before_step, clip_factor, clip_in_step
from ..transforms.grad_scaler import loss_scale
from ..transforms.gradient_norms import are_plain, quick_norms, total_norm
from ..transforms.gradient_scale import scale_all
from ..transforms.step_hooks import has_foreign_hooks, is_profiled, no_autograd
from ..transforms.weight_decay import DECOUPLED_FLAG
from ..types import MOMENTS, ParamGroup
from . import native
from .fused import fused_adam_step, fused_update
from .moments import count_step
from .prepared import Prepared, begun_together
from .step_tensors import CheckedTensors, StepTensors

_NUMBERS = itemgetter(DECOUPLED_FLAG, "lr", "weight_decay", "eps", "maximize")
_PLAIN = frozenset({bool, int, float})
_BEGUN = "gradient_scale", "known_norm", "grad_norm"
"""The attributes that the begin of a step sets."""


@dataclass
class _Ready:
    """An optimizer whose step can be taken with those of others, and what that needs.

    Attributes:
        tensors: of the step.
        next_lr: the lr of the update after it.
        prepared: the step, if it is compiled; None: it is fused.
    """

    optimizer: ScheduledOptimizer
    tensors: StepTensors
    next_lr: float
    prepared: Prepared | None


@dataclass
class _Rows:
    """Parameters that one call updates, and what it needs of them."""

    group: dict[str, object]
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)

    def check(self, numbers: Iterable[float]) -> None:
        """Collect the counts of steps; raise an error if these or `numbers` may be invalid."""
        self.steps = [state["step"] for state in self.states]
        if {step.dtype for step in self.steps} != {torch.float32} or {*map(Tensor.numel, self.steps)} != {1}:
            raise TypeError("a count of steps is not a float32 scalar")
        list(map(float, numbers))  # a whole number may be too large

    def take(self) -> None:
        averages, squares = ([state[name] for state in self.states] for name in MOMENTS)
        count_step(self.steps)
        fused_update(self.group, self.parameters, self.gradients, averages, squares, self.steps)
        torch.autograd.graph.increment_version(self.parameters)


def step_together(optimizers: Iterable[Optimizer]) -> None:
    """Step optimizers, to the same effect bit for bit as one after the other, in fewer calls where that is possible.

    It is for many small ones. Fused steps of Adam and AdamW, and steps in C of one kind and types, are taken together
    from their third step on, if no others are between them and nobody looks at them: there are no step hooks, profilers
    or GradScaler, and no parameter is sharded. If such a step cannot be taken, none of those that it is taken with has
    moved. Other steps are taken one by one.

    Args:
        optimizers: of any kind, without parameters in common, also in part of their memory. Each is asked for when the
            steps of those before it were taken, or can be.

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
    kernel, checked, prepared = optimizer.kernel, optimizer.checked_tensors, optimizer.prepared_step
    if kernel is None or not isinstance(checked, CheckedTensors) or not optimizer.is_laid_out or optimizer.is_on_shards:
        return None
    if not isinstance(prepared, Prepared):
        prepared = None
        if not _is_fused(optimizer):
            return None
    try:
        tensors = StepTensors(optimizer, kernel.state_names)
        if not all(tensors.states) or not checked.are_still(optimizer, tensors):
            return None
        if prepared is not None and not prepared.fits(optimizer, prepared.formula, tensors):
            return None
        if kernel.before is not None:
            kernel.before(optimizer)
        return _Ready(optimizer, tensors, optimizer.scheduler.next_lr(), prepared)
    except Exception:  # the optimizer's own step raises it again; a schedule of the user's, for example
        return None


def _is_fused(optimizer: ScheduledOptimizer) -> bool:
    kernel = optimizer.kernel
    is_plain = optimizer.state_dtype is None and optimizer.gradient_scale is None
    return kernel is not None and kernel.step is fused_adam_step and is_plain


def _is_unobserved(optimizer: ScheduledOptimizer) -> bool:
    return not (
        has_foreign_hooks(optimizer, clip_before_step)
        or is_profiled()
        or "step" in optimizer.__dict__  # somebody has wrapped it
        or getattr(optimizer, "found_inf", None) is not None
        or loss_scale(optimizer) is not None
        or torch.compiler.is_compiling()
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())  # type: ignore[no-untyped-call]
    )


def _step(ready: Sequence[_Ready]) -> None:
    tensors = chain.from_iterable((*one.tensors.parameters, *one.tensors.gradients) for one in ready)
    seen = list(filter(None, map(Tensor.data_ptr, tensors)))  # those without elements have no address
    seen += [id(one.optimizer) for one in ready]  # of one that is there twice the second step has another lr
    if len(ready) < 2 or len(set(seen)) < len(seen) or not _step_joined(ready):
        for one in ready:
            one.optimizer.step()


@no_autograd
def _step_joined(ready: Sequence[_Ready]) -> bool:
    """Take the steps, or return False if the numbers of one of them are invalid: its own step raises the error."""
    compiled = [(one, one.prepared) for one in ready if one.prepared is not None]
    fused = [one for one in ready if one.prepared is None]
    before = [_values(one.optimizer) for one, _ in compiled]
    try:
        _clip_in_steps([one for one, _ in compiled if one.optimizer._optimizer_step_pre_hooks])
        steps = begun_together((one.optimizer, prepared, one.tensors.gradients) for one, prepared in compiled)
        calls = _fused_calls(fused)
    except BaseException as error:  # nothing has moved
        for (one, _), (values, groups) in zip(compiled, before, strict=True):
            one.optimizer.__dict__.update(zip(_BEGUN, values, strict=True))
            for group, options in zip(one.optimizer.param_groups, groups, strict=True):
                group |= options
        if isinstance(error, Exception):
            return False
        raise
    for one in ready:
        one.optimizer.__dict__.pop("gradient_scale", None)
        one.optimizer.__dict__.pop("known_norm", None)
    for step in steps:
        native.take_together(*step)
    torch.autograd.graph.increment_version([p for one, _ in compiled for p in one.tensors.parameters])
    _clip([one for one in fused if one.optimizer._optimizer_step_pre_hooks])
    for call in calls:
        call.take()
    for one in ready:
        one.optimizer.scheduler.advance(one.optimizer.param_groups, one.next_lr)
    return True


def _values(optimizer: ScheduledOptimizer) -> tuple[tuple[Tensor | None, ...], list[ParamGroup]]:
    """Return the values that the begin of a step changes: schedule-free ones count it in their groups."""
    return attrgetter(*_BEGUN)(optimizer), [dict(group) for group in optimizer.param_groups]


def _clip_in_steps(ready: Sequence[_Ready]) -> None:
    """Let the step of each optimizer clip gradients to its own norm."""
    known = {id(one): one.optimizer.known_norm for one in ready}
    others = [one for one in ready if known[id(one)] is None]
    norms = quick_norms([one.optimizer for one in others], [one.tensors.gradients for one in others])
    known |= zip(map(id, others), norms, strict=True)
    for one in ready:
        gradients, max_norm, norm = one.tensors.gradients, one.optimizer.grad_clip_norm, known[id(one)]
        if gradients and max_norm is not None:
            clip_in_step(one.optimizer, total_norm(gradients) if norm is None else norm, max_norm)


def _fused_calls(ready: Sequence[_Ready]) -> list[_Rows]:
    """Return the calls that take the steps, of rows with equal numbers. Raises for numbers that may be invalid."""
    calls: dict[tuple[Any, ...], _Rows] = {}
    for one in ready:
        for group, begin, end in one.tensors.groups:
            if begin < end:
                first, rows = one.tensors.parameters[begin], slice(begin, end)
                beta1, beta2 = group["betas"]  # may be a list
                numbers = (*_NUMBERS(group), beta1, beta2)
                if type(group["maximize"]) is not bool or not _PLAIN.issuperset(map(type, numbers)):
                    raise TypeError(numbers)
                call = calls.setdefault((*numbers, first.dtype, first.device), _Rows(group))
                call.parameters += one.tensors.parameters[rows]
                call.gradients += one.tensors.gradients[rows]
                call.states += one.tensors.states[rows]
    for key, call in calls.items():
        call.check(key[:-2])
    return list(calls.values())


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
