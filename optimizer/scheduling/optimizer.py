"""A schedule inside an optimizer: `step()` updates the parameters, then moves the schedule by one.

One step, the k-th from 0, at lr(k), which the step before wrote into the groups:

    optimizer.step(closure)                  a training loop or GradScaler calls it; it has no hooks itself
    ├─ refuse a CUDA graph's capture         whose replay would not move the schedule
    ├─ pick the update of the parameters     all have torch's hooks around them:
    │  │                                     pre-hooks (global, clipping, others), closure, update, post-hooks
    │  │                                     with sharded parameters, the update is on their local shards
    │  ├─ _kernel_step                       if a kernel was chosen when the optimizer was built; it checks gradients
    │  │                                     and state, and hands unsupported ones to the class
    │  ├─ or _cautious_step                  with caution: the class's step in float64, then masked
    │  ├─ or _step_on_shards                 with sharded parameters: the class's step
    │  └─ or hooked_class_step               else: the class's step
    └─ _move_schedule
       ├─ bump the parameters' version counters after a kernel, so that autograd refuses a graph from before
       └─ scheduler.advance: lr(k + 1)       unless GradScaler found an inf: then neither update nor move
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..schedules.base import Schedule
from ..state.checks import check_state_dict
from ..state.loading import fit_state_dict, restore_types
from ..transforms.cautious import ALREADY, Caution, check_caution, register_exact_loads, step_after_closure
from ..transforms.clipping import clip_before_step, scales_in_step
from ..transforms.closures import Closure, after_closure, evaluate
from ..transforms.grad_scaler import has_overflowed
from ..transforms.gradient_scale import scale_in_place
from ..transforms.load_hooks import apply_load_pre_hooks, without_load_pre_hooks
from ..transforms.local_shards import on_local_shards
from ..transforms.shards import check_placement, check_sharded_later
from ..transforms.step_hooks import hooked, without_hooks
from ..transforms.step_options import StepOptions
from ..transforms.tracing import refuse_capture, untraced
from ..types import ParamGroup, StateDict
from .kernel import Kernel
from .saved_position import NO_POSITION, position_in
from .scheduler import EmbeddedScheduler
from .without_compiler import has_compiler, importing_no_compiler, without_compiler

OTHER_VERSION = (
    "{name} was pickled by an earlier version of innerstep: it has no step_options. Build it again and load a state"
    " dict or a checkpoint into it."
)


class ScheduledOptimizer(Optimizer):
    """Mixin that goes before an optimizer class and carries a schedule inside it.

    A custom `step` belongs into a separate class, which is given to `scheduled`.
    """

    class_step: ClassVar[Callable[..., object]]
    """The step of the class that this is mixed into, without the step hooks."""
    hooked_class_step: ClassVar[Callable[..., object]]
    """The same step with the step hooks around it."""

    scheduler: EmbeddedScheduler
    step_options: StepOptions = StepOptions()
    """Clipping, caution and the type of the moments."""
    kernel: Kernel | None = None
    """Takes the class's steps in its place, to the same effect; None: the class takes them."""
    checked_tensors: object = None
    """The tensors that the kernel has last checked, if it could; while they stay the same, a step needs no check."""
    prepared_step: object = None
    """A compiled step with the addresses of the tensors that were last checked."""
    is_laid_out: bool = False
    """Whether the checked gradients and state have the strides of their parameters."""
    unsupported: str | None = None
    """Why the class took the last step, and not the kernel; None: the kernel took it."""
    grad_norm: Tensor | None = None
    """With `grad_clip_norm`, the joint L2 norm of the gradients before the last clipping, a scalar."""
    gradient_scale: Tensor | None = None
    """A scalar that the coming step multiplies all gradients with, instead of somebody before it; None: 1.

    It is on the gradients' device or on the CPU. A kernel with `scales_gradients` does so as it reads them, so that
    `grad` stays as it was; before any other step they are scaled in place. Each step clears it, also when it raises.
    """
    known_norm: Tensor | None = None
    """The norm of the gradients as they are, by `quick_norms`, if somebody took it before the step, which clears it."""
    _module: Callable[[], nn.Module | None] | None = None  # a weak reference

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # torch wraps the `step` that it finds in a class, so that it calls the hooks. Here the hooks are for the
        # base's step alone, so that the schedule moves after all of them; the base itself is left as it is.
        bases = cls.__mro__[cls.__mro__.index(ScheduledOptimizer) + 1 :]
        step = next(base.__dict__["step"] for base in bases if "step" in base.__dict__)
        cls.class_step = importing_no_compiler(without_hooks(step))
        cls.hooked_class_step = Optimizer.profile_hook_step(cls.class_step)

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

    def step(self, *args: object, **options: object) -> Any:
        """Update the parameters as the class does, call all step hooks, then move the schedule by one.

        An update that GradScaler skips moves nothing.

        Args:
            args: the closure, and further arguments of the class's `step`.
            options: the same by keyword.

        Returns:
            The loss that the closure returns, or None.

        Raises:
            RuntimeError: while a CUDA graph is captured.
            RuntimeError: in the first step, if the module was sharded after the optimizer was built from it.
            ValueError: in the first step, if a parameter is sharded and the class needs the whole.
        """
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's has no types
            refuse_capture()
        kernel, caution = self.kernel, self.step_options.caution
        step: Callable[..., object] = type(self).hooked_class_step if caution is None else _cautious_step
        if kernel is not None:
            step = _kernel_step
        if not torch.compiler.is_compiling():
            if "is_on_shards" not in self.__dict__:  # the first step
                check_sharded_later(self, self._module and self._module(), has_closure=bool(args or options))
            if self.is_on_shards and kernel is None and caution is None:
                step = _step_on_shards
            loss = _scaled_step(self, step, *args, **options)
            _move_schedule(self)
        else:  # kernels cannot be traced, and the schedule would be traced again at each position
            is_traced = kernel is None and caution is None and self.gradient_scale is None
            loss = step(self, *args, **options) if is_traced else untraced(_scaled_step)(self, step, *args, **options)
            untraced(_move_schedule)(self)
        return loss

    @cached_property  # each step asks for it several times
    def is_on_shards(self) -> bool:
        """Whether there are parameters to be stepped on their local shards.

        Raises:
            ValueError: if one is sharded and its class needs the whole.
        """
        return check_placement(self)

    def check_in_first_step(self, module: nn.Module | None) -> None:
        """Let the first step check that the parameters were not sharded meanwhile.

        Args:
            module: the module that they are from, if it is known. It is not kept alive.
        """
        self._module = None if module is None else ref(module)
        self._forget_placement()

    def use_kernel(self, kernel: Kernel) -> None:
        """Let `kernel` take the class's steps from now on."""
        self.kernel, self.checked_tensors, self.prepared_step = kernel, None, None

    def make_cautious(self, caution: Caution) -> None:
        """Make the steps cautious from now on.

        Raises:
            ValueError: if they already are, or with a `state_dtype` or `stochastic_rounding`.
        """
        if self.caution is not None:
            raise ValueError(ALREADY)
        if self.state_dtype is not None:
            raise ValueError("state_dtype: build the optimizer with use_cautious_optimizer: true instead")
        if self.step_options.stochastic_rounding:
            raise ValueError("stochastic_rounding: build the optimizer with use_cautious_optimizer: true instead")
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
        self._forget_placement()
        if "scheduler" in self.__dict__:  # not yet while the optimizer is being made
            self.scheduler.join(self.param_groups[-1])

    def zero_grad(self, *args: bool, **options: bool) -> None:
        """Reset the gradients, as the class does, without an import of the compiler."""
        if torch.compiler.is_compiling() or has_compiler():
            super().zero_grad(*args, **options)
        else:
            with without_compiler():
                super().zero_grad(*args, **options)

    def state_dict(self) -> StateDict:
        """Return the optimizer's state with the schedule's under "scheduler"."""
        with without_compiler():
            own = super().state_dict()
        return {**own, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state_dict: StateDict, strict: bool = True) -> None:
        """Restore state and position; options, curve and implementation stay this object's own, with a warning.

        Parameters are matched by name where both sides have names, else by position.

        Args:
            state_dict: as `state_dict` returns it, here or on a plain optimizer of the class.
            strict: whether `state_dict` must have the schedule's position, which a plain optimizer's lacks; False:
                without one the schedule stays where it is.

        Raises:
            StateMismatchError: a ValueError, if names, shapes, groups or entries do not fit; nothing is changed.
            ValueError: if a position is missing or not a whole number, or for an invalid warp of the curve.
        """
        state_dict = apply_load_pre_hooks(self, state_dict)  # the checks are for the state dict that they make
        check_state_dict(state_dict)
        position = position_in(state_dict)
        if position is None and strict:
            raise ValueError(NO_POSITION.format(here=self.scheduler.last_epoch))
        state_dict = fit_state_dict(self, state_dict, self.scheduler.moved)
        with without_load_pre_hooks(self):
            super().load_state_dict(state_dict)
        restore_types(self, state_dict)
        if self.kernel is not None and self.kernel.after_load is not None:
            self.kernel.after_load(self)
        if position is not None:
            self.scheduler.load_state_dict(position)
        self.scheduler.take_over(self.param_groups)

    def _forget_placement(self) -> None:
        for name in ("is_on_shards", "checked_tensors", "prepared_step"):  # the last two keep state alive
            self.__dict__.pop(name, None)

    def _register_own_hooks(self) -> None:
        if self.caution is not None:
            register_exact_loads(self)
        if self.grad_clip_norm:
            self.register_step_pre_hook(clip_before_step)

    def __getstate__(self) -> dict[str, object]:
        names = [*self._made_with, "_made_with", "scheduler", "step_options", "kernel"]
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names if name in self.__dict__}}

    def __setstate__(self, state: dict[str, object]) -> None:
        if "scheduler" in state and "step_options" not in state:
            raise ValueError(OTHER_VERSION.format(name=type(self).__name__))
        super().__setstate__(state)
        self._forget_placement()
        if "scheduler" in state:  # a copy or an unpickled object; load_state_dict comes here without
            self._register_own_hooks()
            self.scheduler.write(self.param_groups)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "step" and hasattr(value, "_wrapped_by_lr_sched"):  # the mark of torch's LRScheduler
            raise RuntimeError(
                f"{type(self).__name__} has its schedule inside ({self.scheduler.schedule.key}): step() moves it."
                " Do not attach another scheduler; give the curve as the optimizer's `schedule` instead."
            )
        super().__setattr__(name, value)


ScheduledOptimizer.step.hooked = True  # type: ignore[attr-defined]  # torch wraps no step that has this mark


def _scaled_step(
    optimizer: ScheduledOptimizer, step: Callable[..., object], *args: object, **options: object
) -> object:
    """Take `step` with gradients times `gradient_scale`: in the step, or in place before it."""
    if optimizer.gradient_scale is not None and (args or options or not scales_in_step(optimizer)):
        scale_in_place(optimizer)
    try:
        return step(optimizer, *args, **options)
    finally:
        optimizer.__dict__.pop("gradient_scale", None)
        optimizer.__dict__.pop("known_norm", None)


@hooked(clip_before_step)
def _kernel_step(optimizer: ScheduledOptimizer, closure: Closure | None = None) -> object:
    kernel = optimizer.kernel
    assert kernel is not None  # or another step would have been picked
    if kernel.before is not None:
        kernel.before(optimizer)
    loss = None if closure is None else evaluate(closure)
    if optimizer.is_on_shards:
        with on_local_shards(optimizer):
            kernel.step(optimizer)
    else:
        kernel.step(optimizer)
    return loss


@Optimizer.profile_hook_step
def _step_on_shards(optimizer: ScheduledOptimizer, *args: object, **options: object) -> object:
    def step(*rest: object, **others: object) -> object:
        with on_local_shards(optimizer):
            return type(optimizer).class_step(optimizer, *rest, **others)

    return after_closure(step, args, options)


@Optimizer.profile_hook_step
def _cautious_step(optimizer: ScheduledOptimizer, *args: object, **options: object) -> object:
    caution = optimizer.step_options.caution
    assert caution is not None  # or another step would have been picked
    return step_after_closure(optimizer, caution, type(optimizer).class_step, args, options)


def _move_schedule(optimizer: ScheduledOptimizer) -> None:
    if optimizer.kernel or optimizer.is_on_shards:
        # torch's fused operations do not bump the parameters' versions: backward would accept a graph from before.
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.autograd.graph.increment_version(moved)
    # GradScaler calls a fused step for a batch that it skips, too, and leaves found_inf on the optimizer.
    if not has_overflowed(optimizer):
        optimizer.scheduler.advance(optimizer.param_groups)
