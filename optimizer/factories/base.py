"""Factories: an optimizer's validated hyperparameters, and `build`."""

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from ..analysis.preview import Preview, panels
from ..charts import svg
from ..config.messages import nearest
from ..config.registry import Registry
from ..config.validation import Config, Fraction, NonNegativeNumber, PositiveFraction, PositiveNumber, nest, refusal
from ..kernels.registry import classes_with_state_dtype, kernel_for
from ..schedules.base import NOTEBOOK, AnySchedule, Schedule
from ..schedules.basic import Constant
from ..schedules.horizon import Horizon
from ..schedules.sampling import sample_steps
from ..scheduling.optimizer import ScheduledOptimizer
from ..scheduling.scheduled_class import scheduled
from ..transforms.cautious import Caution
from ..transforms.memory_layout import is_dense
from ..transforms.step_options import StepOptions
from ..types import ParamGroup
from .parameter_groups import Grouping, GroupRule, Params, parameter_groups, regrouped


@runtime_checkable
class OptimizerFactory(Protocol):
    """An entry of the registry: the hyperparameters as constructor arguments, and `build`."""

    if TYPE_CHECKING:  # so that a type checker accepts `OPTIMIZER_BUILDER_REGISTRY[key](lr=1e-3)`

        def __init__(self, **hyperparameters: Any) -> None: ...

    def build(self, params: Any, horizon: Horizon | None = None) -> Optimizer:
        """Return an optimizer over `params`.

        Args:
            params: a module, parameters, named parameters or parameter groups.
            horizon: the length of the run.
        """
        ...


OPTIMIZER_BUILDER_REGISTRY: Registry[OptimizerFactory] = Registry(
    "optimizer", OptimizerFactory, entry_points="innerstep.optimizers"
)


class ScheduledFactory(Config):
    """Base of innerstep's factories: the fields that all of them share, and `build`.

    A subclass names its `optimizer_class` and has that class's options as fields.
    """

    optimizer_class: ClassVar[type[Optimizer]]
    fused_by_default: ClassVar[bool] = False

    grad_clip_norm: NonNegativeNumber | None = None
    """Joint L2 norm that this optimizer's gradients are scaled down to; 0 or null: no clipping."""
    implementation: Literal["auto", "fused", "foreach", "single", "compiled"] = "auto"
    """Which implementation of the step runs; auto: innerstep's own where there is one, else PyTorch's choice."""
    state_dtype: Literal["bfloat16"] | None = None
    """Type of Adam's two moments in memory; bfloat16 takes half of float32's; left out: that of the parameters."""

    option_schedules: dict[str, AnySchedule] = Field(default_factory=dict)
    """Schedules of other options than the lr, by option: {weight_decay: {type: KEY, …}, beta1: …}."""

    use_cautious_optimizer: bool = False
    """Whether only coordinates in which update and gradient agree are updated (arXiv:2411.16085)."""
    cautious_eps: PositiveNumber = 1e-8
    """With `use_cautious_optimizer`: added to the share of coordinates that are updated, which divides the step."""
    cautious_min_mean: Fraction = 0.0
    """With `use_cautious_optimizer`: what that share is taken to be at least; peers have 1e-3."""
    param_groups: list[GroupRule] = Field(default_factory=list)
    """Rules by name for some of the parameters: {match: "encoder.*", lr_multiplier: 0.1, weight_decay: 0}."""
    no_decay: bool | list[str] = False
    """Parameters without weight decay: true for those of at most one dimension (biases, norms) and those that
    the module's no_weight_decay() names; or a list of names with * and ?."""
    layer_decay: PositiveFraction | None = None
    """Factor on the lr of each numbered layer against the one above it."""

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        for index, rule in enumerate(self.param_groups):
            self._checked_rule(index, rule)
        if self.no_decay and "weight_decay" not in self.option_names():
            self.refuse("no_decay", f"{self.optimizer_class.__name__} has no weight_decay")
        if self.state_dtype is not None and self.optimizer_class not in (classes := classes_with_state_dtype()):
            names = " and ".join(cls.__name__ for cls in classes)
            self.refuse("state_dtype", f"is for {names}, and not for {self.optimizer_class.__name__}")
        for name in ("cautious_eps", "cautious_min_mean"):
            if not self.use_cautious_optimizer and getattr(self, name) != type(self).model_fields[name].default:
                self.refuse(name, "does nothing without use_cautious_optimizer: true")
        return self

    @property
    @abstractmethod
    def curve(self) -> Schedule:
        """The schedule that goes into the optimizer."""

    @property
    def base_lr(self) -> float:
        """The lr of a parameter group without an lr."""
        return float(self.options()["lr"])

    def resolved(self, horizon: Horizon | None = None) -> Self:
        """Return this factory with omitted lengths taken from `horizon`.

        Only the schedules change, and each is validated as it is filled in; the factory is not validated again.

        Raises:
            ValidationError: if something is still missing, or does not fit the horizon.
        """
        schedules = {}
        for option, schedule in self.option_schedules.items():
            try:
                schedules[option] = schedule.resolved(horizon)
            except ValidationError as error:
                raise nest(error, ("option_schedules", option)) from None
        return self.model_copy(update={"option_schedules": schedules}) if schedules else self

    def build(self, params: Params, horizon: Horizon | None = None) -> ScheduledOptimizer:
        """Return the optimizer with its schedule inside.

        Args:
            params: a module (of which the trainable parameters are taken), parameters, named parameters or parameter
                groups.
            horizon: gives the lengths that the config left out.

        Raises:
            ValueError: if there are no parameters, a group has an unknown option, a rule does not fit, or no kernel
                supports the `state_dtype`.
            ValidationError: as `resolved` does.
        """
        if not (horizon is None or isinstance(horizon, Horizon)):
            raise ValueError(f"horizon: must be a Horizon(total_steps, steps_per_epoch); got {horizon!r}")
        factory = self.resolved(horizon)
        groups = parameter_groups(params)
        _check_group_options(groups, [*inspect.signature(self.optimizer_class).parameters][1:])  # the first: parameters
        rules = [factory._checked_rule(index, rule) for index, rule in enumerate(factory.param_groups)]
        grouping = Grouping(factory.lr_of, rules, factory.no_decay, factory.layer_decay)
        groups = regrouped(groups, grouping, params if isinstance(params, nn.Module) else None)
        optimizer = factory._make(groups, factory.class_options(groups))
        kernel = kernel_for(optimizer, factory.implementation)
        if kernel is not None:
            optimizer.use_kernel(kernel)
        return optimizer

    def preview(self, horizon: Horizon | None = None) -> Preview:
        """Return the options of a parameter group without custom values, from update to update.

        Raises:
            ValidationError: as `resolved` does.
        """
        factory = self.resolved(horizon)
        defaults = {name: getattr(factory, name) for name in factory.option_names()} | {"lr": factory.base_lr}
        preview = Preview(factory.curve, defaults, factory.option_schedules)
        preview.usual = self.usual_options()
        return preview

    def _repr_svg_(self) -> str | None:
        """Return the curves as a notebook shows them: a picture, or nothing without matplotlib."""
        key = OPTIMIZER_BUILDER_REGISTRY.key_of(type(self))
        drawn = panels({key: self.preview(NOTEBOOK)}, sample_steps(NOTEBOOK.total_steps), f"of {key}")
        try:
            return svg(drawn)
        except ImportError:
            return None

    def lr_of(self, name: str, parameter: Tensor) -> float:
        """Return the lr of a parameter that no rule gives another lr."""
        return self.base_lr

    def config(self) -> dict[str, Any]:
        """Return the flat dict that builds this factory again: its key as `type`, and its fields."""
        return {"type": OPTIMIZER_BUILDER_REGISTRY.key_of(type(self)), **self.model_dump()}

    def option_names(self) -> list[str]:
        """Return the fields that are arguments of the optimizer class."""
        accepted = inspect.signature(self.optimizer_class).parameters
        return [name for name in type(self).model_fields if name in accepted]

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the optimizer class."""
        return {name: getattr(self, name) for name in self.option_names()}

    def usual_options(self) -> dict[str, Any]:
        """Return the options of the optimizer class that have a default, with it."""
        fields = type(self).model_fields
        return {name: fields[name].default for name in self.option_names() if not fields[name].is_required()}

    def class_options(self, groups: list[ParamGroup]) -> dict[str, Any]:
        """Return `options` and the implementation that is right for `groups`. Raises ValueError if there is none."""
        return {**self.options(), **self._implementation_options(groups)}

    def _make(self, groups: list[ParamGroup], options: dict[str, Any]) -> ScheduledOptimizer:
        make: Any = scheduled(self.optimizer_class)  # mypy knows Optimizer's own signature only
        optimizer: ScheduledOptimizer = make(groups, **options)
        return optimizer.embed(self.curve, **self._embedded())

    def _embedded(self) -> dict[str, Any]:
        """Return the arguments of `embed` after the curve."""
        caution = Caution(self.cautious_eps, self.cautious_min_mean) if self.use_cautious_optimizer else None
        state_dtype = None if self.state_dtype is None else getattr(torch, self.state_dtype)
        step_options = StepOptions(self.grad_clip_norm, caution, state_dtype)
        return {"step_options": step_options, "option_schedules": self.option_schedules}

    def _checked_rule(self, index: int, rule: GroupRule) -> GroupRule:
        """Return `rule` with its options as this factory's own fields read them."""
        known = [name for name in self.option_names() if name not in ("lr", "foreach", "fused")]
        checked: dict[str, Any] = {}
        for name, value in (rule.model_extra or {}).items():
            path = ("param_groups", index)
            if name not in known:
                rule_fields = [*GroupRule.model_fields, *known]
                raise refusal(
                    f"unknown name{nearest(name, rule_fields)} Known: {', '.join(rule_fields)}", (*path, name)
                )
            try:
                checked[name] = getattr(self.replaced(param_groups=[], **{name: value}), name)
            except ValidationError as error:
                raise nest(error, path) from None
        return rule.replaced(**checked)

    def _implementation_options(self, groups: list[ParamGroup]) -> dict[str, bool]:
        switches = {"fused", "foreach"} & set(inspect.signature(self.optimizer_class).parameters)
        if self.implementation == "auto":
            fused = self.fused_by_default and not self.use_cautious_optimizer and _fusable(groups)
            return {"fused": True} if fused else {}
        if self.implementation == "compiled":
            return {}
        if self.implementation == "single":
            return dict.fromkeys(switches, False)
        if self.implementation not in switches:
            raise ValueError(f"implementation: {self.optimizer_class.__name__} has no {self.implementation} one")
        if self.implementation == "fused" and not _fusable(groups):
            raise ValueError("implementation: fused needs dense floating-point parameters on the CPU or a CUDA device")
        return {self.implementation: True}


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
        return super().resolved(horizon).model_copy(update={"schedule": schedule})


def _check_group_options(groups: list[ParamGroup], options: Sequence[str]) -> None:
    """Refuse a misspelt option: PyTorch would keep it in the group and never read it."""
    for index, group in enumerate(groups):
        for name in group.keys() - {"params", "param_names", "name", *options}:
            raise ValueError(f"parameter group {index}: unknown option {name!r}{nearest(name, options)}")


def _fusable(groups: list[ParamGroup]) -> bool:
    tensors = [p[1] if isinstance(p, tuple) else p for group in groups for p in group["params"]]
    return all(torch.is_floating_point(p) and p.device.type in ("cpu", "cuda") and is_dense(p) for p in tensors)
