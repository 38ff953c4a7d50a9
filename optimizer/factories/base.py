"""Factories: an optimizer's validated hyperparameters, and `build`."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, ValidationError
from torch import nn
from torch.optim import Optimizer

from ..analysis.preview import Preview, panels
from ..config.errors import nest
from ..config.messages import nearest
from ..config.registry import Registry
from ..kernels.registry import kernel_for
from ..kernels.switches import implementation_switches
from ..schedules.base import NOTEBOOK, AnySchedule, Schedule
from ..schedules.basic import Constant
from ..schedules.horizon import Horizon
from ..schedules.sampling import sample_steps
from ..scheduling.optimizer import ScheduledOptimizer
from ..scheduling.scheduled_class import scheduled
from ..scheduling.without_compiler import without_compiler
from ..transforms.shards import check_placement
from ..transforms.step_options import StepOptions
from ..types import Options, ParamGroup
from .grouping import GroupingFields
from .parameter_groups import Params, parameter_groups, tensor_of
from .step_fields import CautionFields, ClippingFields, ImplementationFields, OptionScheduleFields


@runtime_checkable
class OptimizerFactory(Protocol):
    """An entry of the registry: the hyperparameters as constructor arguments, and `build`."""

    if TYPE_CHECKING:  # so that a type checker accepts `OPTIMIZER_BUILDER_REGISTRY[key](lr=1e-3)`

        def __init__(self, **hyperparameters: Any) -> None: ...

    def build(self, params: Any, horizon: Horizon | None = None) -> Optimizer:
        """Return an optimizer over `params`.

        Args:
            params: A module, parameters, named parameters or parameter groups.
            horizon: The length of the run.
        """
        ...


OPTIMIZER_BUILDER_REGISTRY: Registry[OptimizerFactory] = Registry(
    "optimizer", OptimizerFactory, entry_points="innerstep.optimizers"
)


class ScheduledFactory(GroupingFields, CautionFields, OptionScheduleFields, ImplementationFields, ClippingFields):
    """Base of innerstep's factories: the fields that all of them share, and `build`.

    A subclass sets `optimizer_class` and has that class's options as fields.
    """

    @property
    @abstractmethod
    def curve(self) -> Schedule:
        """The schedule that goes into the optimizer."""

    def resolved(self, horizon: Horizon | None = None) -> Self:
        """Return this factory with the lengths that were left out taken from `horizon`.

        Raises:
            ValidationError: A length is missing and there is no horizon, or it does not fit the horizon or a validator
                of the factory.
        """
        schedules = self._resolved_option_schedules(horizon)
        return self._with_resolved(option_schedules=schedules) if schedules else self

    def _with_resolved(self, **values: object) -> Self:
        """Return a copy with schedules or lengths that were validated when they were filled in.

        A class of another package is validated again as a whole: it may have validators that compare lengths.
        """
        if type(self).__module__.partition(".")[0] == __name__.partition(".")[0]:
            return self.model_copy(update=values)
        return self.replaced(**values)

    def build(self, params: Params, horizon: Horizon | None = None) -> ScheduledOptimizer:
        """Return the optimizer with its schedule inside.

        Args:
            params: A module (whose trainable parameters are used), parameters, named parameters or parameter groups.
            horizon: The length of the run, for lengths that the config left out.

        Raises:
            ValueError: There are no parameters, a group has an unknown option, a rule does not fit, no step supports
                the `state_dtype`, or a parameter is sharded and the class needs the whole.
            ValidationError: As `resolved` raises it.
        """
        if not (horizon is None or isinstance(horizon, Horizon)):
            raise ValueError(f"horizon: must be a Horizon(total_steps, steps_per_epoch); got {horizon!r}")
        factory = self.resolved(horizon)
        groups = parameter_groups(params)
        _check_group_options(groups, [*inspect.signature(self.optimizer_class).parameters][1:])  # the first: parameters
        groups = factory._group(groups, params if isinstance(params, nn.Module) else None)
        with without_compiler():
            optimizer = factory._make(groups, factory.class_options(groups))
        check_placement(optimizer)  # raises for a sharded parameter whose class needs the whole
        kernel = kernel_for(optimizer, factory.implementation)
        if kernel is not None:
            optimizer.use_kernel(kernel)
        optimizer.check_in_first_step(params if isinstance(params, nn.Module) else None)
        return optimizer

    def preview(self, horizon: Horizon | None = None) -> Preview:
        """Return the values by update that the options of a group without its own would have.

        Raises:
            ValidationError: As `resolved` raises it. Errors that depend on the parameters are not raised.
        """
        factory = self.resolved(horizon)
        defaults = {name: getattr(factory, name) for name in factory.option_names()} | {"lr": factory.base_lr}
        preview = Preview(factory.curve, defaults, factory.option_schedules)
        preview.usual = self.usual_options()
        return preview

    def config(self) -> dict[str, Any]:
        """Return the flat dict that builds this factory again: its key as `type`, and its fields."""
        return {"type": OPTIMIZER_BUILDER_REGISTRY.key_of(type(self)), **self.model_dump()}

    def class_options(self, groups: list[ParamGroup]) -> Options:
        """Return `options` and the switches of the implementation that is right for `groups`.

        Raises:
            ValueError: The class has no such implementation, or it cannot update these parameters.
        """
        parameters = [tensor_of(item) for group in groups for item in group["params"]]
        prefer_fused = self.fused_by_default and not self.use_cautious_optimizer
        switches = implementation_switches(
            self.optimizer_class,
            self.implementation,
            parameters,
            prefer_fused=prefer_fused,
            in_float64=self.use_cautious_optimizer,
        )
        return {**self.options(), **switches}

    def _make(self, groups: list[ParamGroup], options: Options) -> ScheduledOptimizer:
        # mypy knows the signature of Optimizer alone
        make: Callable[..., ScheduledOptimizer] = scheduled(self.optimizer_class)
        return make(groups, **options).embed(self.curve, **self._embedded())

    def _embedded(self) -> dict[str, Any]:
        """Return the arguments of `embed` after the curve."""
        state_dtype = None if self.state_dtype is None else getattr(torch, self.state_dtype)
        step_options = StepOptions(self.grad_clip_norm, self._caution(), state_dtype, self.stochastic_rounding)
        return {"step_options": step_options, "option_schedules": self.option_schedules}

    def _repr_svg_(self) -> str | None:
        """Return the curves as an SVG for a notebook; None without matplotlib."""
        from ..charts import notebook_svg

        key = OPTIMIZER_BUILDER_REGISTRY.key_of(type(self))
        return notebook_svg(panels({key: self.preview(NOTEBOOK)}, sample_steps(NOTEBOOK.total_steps), f"of {key}"))


class FreeScheduleFactory(ScheduledFactory):
    """Base of the factories whose schedule the user chooses."""

    schedule: AnySchedule = Field(Constant(), json_schema_extra={"default": {"type": "constant"}})
    """The curve: {type: KEY, …}."""

    @property
    def curve(self) -> Schedule:
        return self.schedule

    def resolved(self, horizon: Horizon | None = None) -> Self:
        try:
            schedule = self.schedule.resolved(horizon)
        except ValidationError as error:
            raise nest(error, ("schedule",)) from None
        return super().resolved(horizon)._with_resolved(schedule=schedule)


def _check_group_options(groups: list[ParamGroup], options: Sequence[str]) -> None:
    """Refuse a misspelt option: PyTorch would keep it in the group and never read it."""
    for index, group in enumerate(groups):
        for name in group.keys() - {"params", "param_names", "name", *options}:
            raise ValueError(f"parameter group {index}: unknown option {name!r}{nearest(name, options)}")
