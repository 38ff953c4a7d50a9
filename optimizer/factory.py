"""Factories: an optimizer's validated hyperparameters, and `build`."""

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.embedding import ScheduledOptimizer, scheduled
from optimizer.horizon import Horizon
from optimizer.registry import Registry, nearest
from optimizer.schedule import AnySchedule, Schedule
from optimizer.schedules import Constant
from optimizer.validation import Config, NonNegativeNumber, nest

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


@runtime_checkable
class OptimizerFactory(Protocol):
    """What the registry holds: the hyperparameters as constructor arguments, and `build`."""

    def build(self, params: Any, horizon: Horizon | None = None) -> Optimizer:
        """Return an optimizer over `params`. horizon: the length of the run."""
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
    implementation: Literal["auto", "fused", "foreach", "single"] = "auto"
    """Which of PyTorch's implementations runs; auto: fused where that is right for the parameters."""

    option_schedules: dict[str, AnySchedule] = Field(default_factory=dict)
    """Schedules of other options than the lr, by option: {weight_decay: {type: KEY, …}, beta1: …}."""

    @property
    @abstractmethod
    def curve(self) -> Schedule:
        """The schedule that goes into the optimizer."""

    def resolved(self, horizon: Horizon | None = None) -> Self:
        """Return this factory with what was left out taken from `horizon`.

        Raises ValidationError where something is missing still, or does not fit the horizon.
        """
        schedules = {}
        for option, schedule in self.option_schedules.items():
            try:
                schedules[option] = schedule.resolved(horizon)
            except ValidationError as error:
                raise nest(error, ("option_schedules", option)) from None
        return self.replaced(option_schedules=schedules) if schedules else self

    def build(self, params: Params, horizon: Horizon | None = None) -> ScheduledOptimizer:
        """Return the optimizer with its schedule inside.

        params: a module (of which the trainable parameters are taken), parameters, named parameters or
        parameter groups. horizon: fills in what the config left out.
        Raises ValueError if there are no parameters or a group has an unknown option, ValidationError
        as `resolved` does.
        """
        factory = self.resolved(horizon)
        groups = parameter_groups(params)
        options = {**factory.options(), **factory._implementation_options(groups)}
        _check_group_options(groups, [*inspect.signature(self.optimizer_class).parameters])
        return factory._make(groups, options)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the optimizer class that the fields stand for."""
        accepted = inspect.signature(self.optimizer_class).parameters
        return {name: getattr(self, name) for name in type(self).model_fields if name in accepted}

    def _make(self, groups: list[dict[str, Any]], options: dict[str, Any]) -> ScheduledOptimizer:
        make: Any = scheduled(self.optimizer_class)  # mypy knows Optimizer's own signature only
        optimizer: ScheduledOptimizer = make(groups, **options)
        return optimizer.embed(self.curve, **self._embedded())

    def _embedded(self) -> dict[str, Any]:
        """Return what `embed` takes besides the curve."""
        return {"grad_clip_norm": self.grad_clip_norm, "option_schedules": self.option_schedules}

    def _implementation_options(self, groups: list[dict[str, Any]]) -> dict[str, bool]:
        switches = {"fused", "foreach"} & set(inspect.signature(self.optimizer_class).parameters)
        if self.implementation == "auto":
            return {"fused": True} if self.fused_by_default and _fusable(groups) else {}
        if self.implementation == "single":
            return dict.fromkeys(switches, False)
        if self.implementation not in switches:
            raise ValueError(f"implementation: {self.optimizer_class.__name__} has no {self.implementation} one")
        if self.implementation == "fused" and not _fusable(groups):
            raise ValueError("implementation: fused needs floating-point parameters on the CPU or a CUDA device")
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
            return super().resolved(horizon).replaced(schedule=self.schedule.resolved(horizon))
        except ValidationError as error:
            raise nest(error, ("schedule",)) from None


def parameter_groups(params: Params) -> list[dict[str, Any]]:
    """Return `params` as parameter groups. Of a module, only what requires a gradient is taken.

    Raises ValueError if there is nothing to optimize.
    """
    if isinstance(params, nn.Module):
        listed: list[Any] = [(name, p) for name, p in params.named_parameters() if p.requires_grad]
    else:
        listed = list(params)
    if not listed:
        frozen = " that requires a gradient" if isinstance(params, nn.Module) else ""
        raise ValueError(f"there is no parameter{frozen} to build an optimizer for")
    # The groups are copied: torch writes its defaults into the dicts that it is given.
    return [dict(group) for group in listed] if isinstance(listed[0], dict) else [{"params": listed}]


def _check_group_options(groups: list[dict[str, Any]], options: Sequence[str]) -> None:
    """Refuse a misspelt option: PyTorch would keep it in the group and never read it."""
    for index, group in enumerate(groups):
        for name in group.keys() - {"param_names", "name", *options}:
            raise ValueError(f"parameter group {index}: unknown option {name!r}{nearest(name, options)}")


def _fusable(groups: list[dict[str, Any]]) -> bool:
    for group in groups:
        group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    tensors = [p[1] if isinstance(p, tuple) else p for group in groups for p in group["params"]]
    return all(torch.is_floating_point(p) and p.device.type in ("cpu", "cuda") for p in tensors)
