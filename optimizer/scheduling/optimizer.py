"""A schedule inside an optimizer: `step()` updates the parameters, then moves the schedule by one.

One step, the k-th from 0, at lr(k), which the step before wrote into the groups:

    optimizer.step(closure)                  a training loop or GradScaler calls it; it has no hooks itself
    ├─ refuse a CUDA graph's capture         whose replay would not move the schedule
    ├─ pick what updates the parameters      all three have torch's hooks around them:
    │  │                                     pre-hooks (global, clipping, others), closure, update, post-hooks
    │  ├─ kernel.step                        if a kernel was chosen when the optimizer was built; it checks gradients
    │  │                                     and state, and hands what it does not support to the class
    │  ├─ or _cautious_step                  with caution: the class's step in float64, then masked
    │  └─ or _base_step                      else: the class's step
    ├─ bump the parameters' version counters after a kernel, so that autograd refuses a graph from before
    └─ scheduler.advance: lr(k + 1)          unless GradScaler found an inf: then neither update nor move
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..schedules.base import Schedule
from ..state.checks import check_state_dict
from ..state.loading import fit_state_dict, restore_wide
from ..transforms.cautious import ALREADY, Caution, check_caution, register_exact_loads, without_closure
from ..transforms.clipping import clip_before_step, has_overflowed
from ..transforms.step_hooks import without_hooks
from ..transforms.step_options import StepOptions
from ..types import ENTRY, POSITION, ParamGroup, StateDict
from .kernel import Kernel
from .rescale import CurveWarp
from .scheduler import EmbeddedScheduler

NO_POSITION = (
    "the state dict does not say at which update the schedule stands: a plain optimizer saved it. Say it with"
    ' state_dict["scheduler"] = {{"last_epoch": UPDATES_DONE}}, for which a torch scheduler\'s state_dict() will do as'
    " well, or load it with strict=False: the schedule then stays at update {here}."
)
OTHER_VERSION = (
    "{name} was pickled by an earlier version of innerstep: it has no step_options. Build it again and load a state"
    " dict or a checkpoint into it."
)
CAPTURED = (
    "step() is being captured in a CUDA graph, whose replay would update the parameters and not move the schedule"
    " inside. Capture the forward and backward pass and call step() after each replay, or compile the step with"
    " torch.compile."
)


class ScheduledOptimizer(Optimizer):
    """Mixin that goes before an optimizer class and carries a schedule inside it.

    A class's own `step` belongs into a class of its own, which is given to `scheduled`.
    """

    _base_step: ClassVar[Callable[..., Any]]  # the base's step, with hooks

    scheduler: EmbeddedScheduler
    step_options: StepOptions = StepOptions()
    """What happens around each step: clipping, caution, the type of the moments."""
    kernel: Kernel | None = None
    """Takes the class's steps in its place, to the same effect; None: the class takes them."""
    checked: tuple[object, ...] | None = None
    """The signature of the tensors that the kernel last checked; while it is the same, a step needs no check."""
    is_laid_out: bool = False
    """Whether the checked gradients and state have the strides of their parameters."""
    grad_norm: Tensor | None = None
    """With `grad_clip_norm`, the joint L2 norm of the gradients before the last clipping, a scalar."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # torch wraps the `step` that it finds in a class, so that it calls the hooks. Here the hooks are for the
        # base's step alone, so that the schedule moves after all of them; the base itself is left as it is.
        base_values = cls.__mro__[cls.__mro__.index(ScheduledOptimizer) + 1 :]
        base_step: Any = next(base.__dict__["step"] for base in base_values if "step" in base.__dict__)
        cls._base_step = Optimizer.profile_hook_step(without_hooks(base_step))

    def embed(
        self,
        schedule: Schedule,
        step_options: StepOptions | None = None,
        option_schedules: Mapping[str, Schedule] | None = None,
    ) -> Self:
        """Put `schedule` inside and write the values of update 0.

        Args:
            schedule: the curve of the lr.
            step_options: clipping, caution and the type of the moments; left out: none of them.
            option_schedules: schedules of other options than the lr, as weight_decay or beta1.

        Returns:
            The optimizer itself.

        Raises:
            ValueError: for an option that this optimizer lacks, or that a schedule cannot move.
            TypeError: for a class with a `step` before the one here, that would fire hooks twice or leave the schedule
                where it is.
        """
        if type(self).step is not ScheduledOptimizer.step:
            name = type(self).__name__
            raise TypeError(f"{name}.step must be ScheduledOptimizer's: put it into a class for `scheduled` to mix in")
        # Some classes hold more than the three attributes that torch's own __getstate__ keeps.
        self._made_with = [name for name in self.__dict__ if not name.startswith("_optimizer_")]
        self.scheduler = EmbeddedScheduler(schedule, self.defaults, option_schedules or {})
        self.step_options = step_options or StepOptions()
        if self.caution is not None:
            check_caution(self)
        for group in self.param_groups:
            self.scheduler.join(group)
        self._register_own_hooks()
        return self

    @property
    def grad_clip_norm(self) -> float | None:
        """Joint L2 norm that the gradients are scaled down to before an update; None or 0: no clipping."""
        return self.step_options.grad_clip_norm

    @property
    def caution(self) -> Caution | None:
        """How steps are made cautious; None: they are not."""
        return self.step_options.caution

    @property
    def state_dtype(self) -> torch.dtype | None:
        """Type of Adam's two moments; None: that of the parameters."""
        return self.step_options.state_dtype

    def step(self, *args: Any, **options: Any) -> Any:
        """Update the parameters as the class does, call all step hooks, then move the schedule by one.

        An update that GradScaler skips moves nothing.

        Args:
            args: the closure, and further arguments of the class's `step`.
            options: the same by keyword.

        Returns:
            The loss that the closure returns, or None.

        Raises:
            RuntimeError: while a CUDA graph is captured.
        """
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]  # torch
            raise RuntimeError(CAPTURED)
        kernel, caution = self.kernel, self.step_options.caution
        step = kernel.step if kernel else type(self)._base_step if caution is None else _cautious_step
        if not torch.compiler.is_compiling():
            loss = step(self, *args, **options)
            _advance(self)
        else:  # kernels cannot be traced, and the schedule would be traced again at each position
            is_traced = kernel is None and caution is None
            loss = (step if is_traced else _untraced(step))(self, *args, **options)
            _untraced(_advance)(self)
        return loss

    def use_kernel(self, kernel: Kernel) -> None:
        """Let `kernel` take the class's steps from now on."""
        self.kernel = kernel

    def make_cautious(self, caution: Caution) -> None:
        """Make the steps cautious from now on. Raises ValueError if they already are, or with a `state_dtype`."""
        if self.caution is not None:
            raise ValueError(ALREADY)
        if self.state_dtype is not None:
            raise ValueError("state_dtype: build the optimizer with use_cautious_optimizer: true instead")
        self.step_options = replace(self.step_options, caution=caution)
        self.kernel = None  # it would take steps that are not cautious
        register_exact_loads(self)

    def report_metric(self, name: str, value: float) -> None:
        """Hand the schedules a metric.

        A schedule with this metric as its `monitor` moves, and the next update runs at its new value. A metric that no
        schedule monitors has no effect.

        Args:
            name: the metric's name.
            value: a plain number that is the same on every rank.
        """
        self.scheduler.report(name, float(value), self.param_groups)

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a group, which joins the running schedule with its own lr as base lr."""
        super().add_param_group(param_group)
        if "scheduler" in self.__dict__:  # not yet while the optimizer is being made
            self.scheduler.join(self.param_groups[-1])

    def state_dict(self) -> StateDict:
        """Return the optimizer's state with the schedule's under "scheduler"."""
        return {**super().state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: StateDict, strict: bool = True) -> None:
        """Restore state and position; options, curve and implementation stay this object's own, with a warning.

        Parameters are matched by name where both sides have names, else by position.

        Args:
            state_dict: as `state_dict` returns it, here or on a plain optimizer of the class.
            strict: whether `state_dict` must have the schedule's position, which a plain optimizer's lacks; False:
                without one the schedule stays where it is.

        Raises:
            StateMismatchError: a ValueError, if names, shapes, groups or entries do not fit; nothing is changed.
            ValueError: if a position is missing or not a whole number, or for an invalid entry into the curve.
        """
        hooks = self._optimizer_load_state_dict_pre_hooks
        for hook in hooks.values():  # before the checks, which are for the state dict that they make
            state_dict = hook(self, state_dict := dict(state_dict)) or state_dict
        check_state_dict(state_dict)
        position = _saved_position(state_dict)
        if position is None and strict:
            raise ValueError(NO_POSITION.format(here=self.scheduler.last_epoch))
        state_dict = fit_state_dict(self, state_dict, self.scheduler.moved)
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()
        try:
            super().load_state_dict(state_dict)
        finally:
            self._optimizer_load_state_dict_pre_hooks = hooks
        restore_wide(self, state_dict, always=self.caution is not None)
        if self.kernel is not None and self.kernel.after_load is not None:
            self.kernel.after_load(self)
        if position is not None:
            self.scheduler.load_state_dict(position)
        self.scheduler.take_over(self.param_groups)

    def _register_own_hooks(self) -> None:
        if self.caution is not None:
            register_exact_loads(self)
        if self.grad_clip_norm:
            self.register_step_pre_hook(clip_before_step)

    def __getstate__(self) -> dict[str, Any]:
        names = [*self._made_with, "_made_with", "scheduler", "step_options", "kernel"]
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names if name in self.__dict__}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "scheduler" in state and "step_options" not in state:
            raise ValueError(OTHER_VERSION.format(name=type(self).__name__))
        super().__setstate__(state)
        if "scheduler" in state:  # a copy or an unpickled object; load_state_dict comes here without
            self._register_own_hooks()
            self.scheduler.write(self.param_groups)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step" and hasattr(value, "_wrapped_by_lr_sched"):
            raise RuntimeError(
                f"{type(self).__name__} has its schedule inside ({self.scheduler.schedule.key}): step() moves it."
                " Do not attach another scheduler; give the curve as the optimizer's `schedule` instead."
            )
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        base = type(self).__dict__.get("_scheduled_base")
        if base is None:
            return super().__reduce_ex__(protocol)
        return _new_scheduled, (base,), self.__getstate__()  # a class made by `scheduled` has no import path


def scheduled(optimizer_class: type[Optimizer]) -> type[ScheduledOptimizer]:
    """Return `optimizer_class` with ScheduledOptimizer mixed in; call `embed` on its instances.

    Examples:
        >>> import torch
        >>> from optimizer import SCHEDULE_REGISTRY, scheduled
        >>> schedule = SCHEDULE_REGISTRY["linear"](num_training_steps=4)
        >>> optimizer = scheduled(torch.optim.SGD)(torch.nn.Linear(2, 1).parameters(), lr=0.1).embed(schedule)
        >>> optimizer.step()
        >>> round(optimizer.param_groups[0]["lr"], 4)
        0.075
    """
    if issubclass(optimizer_class, ScheduledOptimizer):
        return optimizer_class
    return _mixed(optimizer_class)  # type: ignore[arg-type]  # to mypy an Optimizer type is not hashable


@cache
def _mixed(optimizer_class: Any) -> type[ScheduledOptimizer]:
    name = f"Scheduled{optimizer_class.__name__}"
    return type(
        name, (ScheduledOptimizer, optimizer_class), {"_scheduled_base": optimizer_class, "__module__": __name__}
    )


def _new_scheduled(optimizer_class: type[Optimizer]) -> ScheduledOptimizer:
    cls = scheduled(optimizer_class)
    return cls.__new__(cls)


ScheduledOptimizer.step.hooked = True  # type: ignore[attr-defined]  # torch's own mark: it wraps no step that has it


@Optimizer.profile_hook_step
def _cautious_step(optimizer: Any, *args: Any, **options: Any) -> Any:
    return without_closure(
        optimizer, optimizer.step_options.caution, type(optimizer)._base_step.__wrapped__, args, options
    )


def _advance(optimizer: ScheduledOptimizer) -> None:
    if optimizer.kernel:
        # torch's fused operations do not bump the parameters' versions: backward would accept a graph from before.
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(moved)
    # GradScaler calls a fused step for a batch that it skips, too, and leaves found_inf on the optimizer.
    if not has_overflowed(optimizer):
        optimizer.scheduler.advance(optimizer.param_groups)


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)  # type: ignore[no-any-return, no-untyped-call]  # torch


def _saved_position(state_dict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    saved = state_dict.get("scheduler")
    if isinstance(saved, Mapping) and "last_epoch" in saved:
        if type(saved["last_epoch"]) is not int or saved["last_epoch"] < 0:
            raise ValueError(f"scheduler.last_epoch: must be a whole number >= 0; got {saved['last_epoch']!r}")
        CurveWarp.from_state(saved.get("entry"))
        return saved
    groups = state_dict["param_groups"]
    positions = {int(group[POSITION]) for group in groups if POSITION in group}
    entry = next((group[ENTRY] for group in groups if ENTRY in group), None)
    CurveWarp.from_state(entry)
    return {"last_epoch": max(positions), "entry": entry} if positions else None
