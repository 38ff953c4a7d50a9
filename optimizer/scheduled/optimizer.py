"""A schedule inside an optimizer: `step()` updates the parameters, then moves the schedule by one."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
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
from ..types import ENTRY, POSITION, ParamGroup
from .rescale import CurveWarp
from .scheduler import EmbeddedScheduler

NO_POSITION = (
    "the state dict does not say at which update the schedule stands: a plain optimizer saved it. Say it with"
    ' state_dict["scheduler"] = {{"last_epoch": UPDATES_DONE}}, for which a torch scheduler\'s state_dict() will do as'
    " well, or load it with strict=False: the schedule then stays at update {here}."
)
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, as its state has them."""

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
    grad_clip_norm: float | None = None
    caution: Caution | None = None
    state_dtype: torch.dtype | None = None
    """Type of Adam's two moments, which the kernel knows; None: that of the parameters."""
    kernel: Callable[..., Any] | None = None
    """What takes the class's steps in its place, to the same effect; None: the class does."""
    checked: Any = None
    """What the kernel last checked; while it is so, the next step needs no check."""
    is_laid_out: bool = False
    """Whether, in what was checked, gradients and state lie in memory as their parameters do."""
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
        grad_clip_norm: float | None = None,
        option_schedules: Mapping[str, Schedule] | None = None,
        caution: Caution | None = None,
    ) -> Self:
        """Put `schedule` inside and write the values of update 0. Returns the optimizer itself.

        grad_clip_norm: the joint L2 norm that gradients are scaled down to before an update.
        option_schedules: schedules of other options than the lr, as weight_decay or beta1.
        caution: how steps are made cautious; None: they are not.
        Raises ValueError for an option that this optimizer lacks, or that a schedule cannot move; TypeError for a
        class with a `step` before the one here, that would fire hooks twice or leave the schedule where it is.
        """
        if type(self).step is not ScheduledOptimizer.step:
            name = type(self).__name__
            raise TypeError(f"{name}.step must be ScheduledOptimizer's: put it into a class for `scheduled` to mix in")
        # Some classes hold more than the three attributes that torch's own __getstate__ keeps.
        self._made_with = [name for name in self.__dict__ if not name.startswith("_optimizer_")]
        self.scheduler = EmbeddedScheduler(schedule, self.defaults, option_schedules or {})
        self.grad_clip_norm = grad_clip_norm
        self.caution = caution
        if caution is not None:
            check_caution(self)
        for group in self.param_groups:
            self.scheduler.join(group)
        self._register_own_hooks()
        return self

    def step(self, *args: Any, **options: Any) -> Any:
        """Update the parameters as the class does, call all step hooks, then move the schedule by one.

        An update that GradScaler skips moves nothing. Raises RuntimeError while a CUDA graph is captured.
        """
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]  # torch
            raise RuntimeError(CAPTURED)
        step = self.kernel or (type(self)._base_step if self.caution is None else _cautious_step)
        if not torch.compiler.is_compiling():
            loss = step(self, *args, **options)
            _advance(self)
        else:  # kernels are no code to be traced, and the schedule would be traced again at each position
            is_traced = self.kernel is None and self.caution is None
            loss = (step if is_traced else _untraced(step))(self, *args, **options)
            _untraced(_advance)(self)
        return loss

    def use_kernel(self, kernel: Callable[..., Any]) -> None:
        """Let `kernel`, a function of the optimizer, take the class's steps, cautious ones if they are to be."""
        self.kernel = kernel

    def make_cautious(self, caution: Caution) -> None:
        """Make the steps cautious from now on. Raises ValueError if they are, or with a `state_dtype`."""
        if self.caution is not None:
            raise ValueError(ALREADY)
        if self.state_dtype is not None:
            raise ValueError("state_dtype: build the optimizer with use_cautious_optimizer: true instead")
        self.caution = caution
        self.kernel = None  # it would take steps that are not cautious
        register_exact_loads(self)

    def report_metric(self, name: str, value: float) -> None:
        """Tell the schedule a metric, a plain number that is the same on every rank.

        A schedule with this metric as its `monitor` moves, and the next update runs at its new value.
        For every other name nothing happens.
        """
        self.scheduler.report(name, float(value), self.param_groups)

    def add_param_group(self, param_group: ParamGroup) -> None:
        """Add a group, which joins the running schedule with its own lr as base lr."""
        super().add_param_group(param_group)
        if "scheduler" in self.__dict__:  # not yet while the optimizer is being made
            self.scheduler.join(self.param_groups[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state with the schedule's under "scheduler"."""
        return {**super().state_dict(), "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Restore state and position; options, curve and implementation stay this object's own, with a warning.

        Parameters are matched by name where both sides have names, else by position.

        Args:
            state_dict: what `state_dict` returned, here or on a plain optimizer of the class.
            strict: whether `state_dict` must say at which update the schedule stands, which a plain optimizer's does
                not; False: where it does not, the schedule stays where it is.

        Raises:
            StateMismatchError: a ValueError, if names, shapes, groups or entries do not fit; nothing is changed.
            ValueError: if a position is missing or not a whole number, or for an invalid entry into the curve.
        """
        for (
            hook
        ) in self._optimizer_load_state_dict_pre_hooks.values():  # before the checks, which are for what they make
            state_dict = hook(self, state_dict := dict(state_dict)) or state_dict
        check_state_dict(state_dict)
        position = _saved_position(state_dict)
        if position is None and strict:
            raise ValueError(NO_POSITION.format(here=self.scheduler.last_epoch))
        state_dict = fit_state_dict(self, state_dict, self.scheduler.moved)
        hooks, self._optimizer_load_state_dict_pre_hooks = self._optimizer_load_state_dict_pre_hooks, OrderedDict()
        try:
            super().load_state_dict(state_dict)
        finally:
            self._optimizer_load_state_dict_pre_hooks = hooks
        restore_wide(self, state_dict, always=self.caution is not None)
        for state in self.state.values() if self.state_dtype is not None else ():
            state |= {name: state[name].to(self.state_dtype) for name in MOMENTS if name in state}  # torch casts them
        if position is not None:
            self.scheduler.load_state_dict(position)
        self.scheduler.take_over(self.param_groups)

    def _register_own_hooks(self) -> None:
        if self.caution is not None:
            register_exact_loads(self)
        if self.grad_clip_norm:
            self.register_step_pre_hook(clip_before_step)

    def __getstate__(self) -> dict[str, Any]:
        names = [*self._made_with, "_made_with", "scheduler", "grad_clip_norm", "caution", "state_dtype", "kernel"]
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names if name in self.__dict__}}

    def __setstate__(self, state: dict[str, Any]) -> None:
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
    return without_closure(optimizer, optimizer.caution, type(optimizer)._base_step.__wrapped__, args, options)


def _advance(optimizer: ScheduledOptimizer) -> None:
    if optimizer.kernel:
        # torch's fused operations do not say that they change the parameters: a stale graph would be gone through.
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(moved)
    # A fused step under GradScaler is called for a batch that it then skips: the scaler says so here.
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
