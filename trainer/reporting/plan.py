"""The plan of a run: components, optimizers, data, device and sizes, with a warning for each suspicious value."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from optimizer import EmbeddedScheduler, Horizon, ScheduledFactory
from optimizer.analysis import schedule_warnings
from optimizer.config import counted
from optimizer.factories import trainable_parameters
from optimizer.kernels import implementation_of, uncompiled_reason
from optimizer.types import HasSchedule, JsonObject

from ..config.entries import OptimConfig
from ..config.freeze import FreezeUntil
from ..config.schema import ExperimentConfig, ModelConfig
from ..distributed.world import World
from ..interfaces.component import is_frozen
from ..interfaces.dataset import DataSet
from ..loop.averaged_weights import MovingAverages
from ..loop.batches import ShuffledBatches
from ..setup.checkpoint_size import CheckpointBytes, checkpoint_bytes
from ..splitting.parts import REST
from ..splitting.share import is_in_parts
from .tables import count

_BY_GROUP = ("betas", "momentum", "eps", "part")


@dataclass(frozen=True)
class ComponentPlan:
    """A component, its optimizer and its schedule."""

    name: str
    parameters: int
    trained: int
    """Parameters that its optimizer moves."""
    trains: str
    """`yes`, `frozen`, the part that trains, or what it is the average of."""
    optimizer: str | None
    """The key of its optimizer."""
    step: str | None
    """The implementation of the optimizer's steps."""
    schedule: str | None
    """One line on its curve."""
    modules: str | None
    """Its place in the policy; None: there are no parts."""
    placement: str | None
    """Whether it is replicated or sharded; None: no component is sharded."""


@dataclass(frozen=True)
class DataPlan:
    """The data, and how they become batches."""

    type: str
    samples: int
    held_out: int
    batch_size: int
    batches_per_epoch: int


@dataclass(frozen=True)
class Plan:
    """The plan of a run. Its fields are those of `innerstep plan --json`."""

    components: list[ComponentPlan]
    parameters: dict[str, int]
    """`total`, `trained` and `frozen`. A parameter that several components share counts once."""
    data: DataPlan
    updates: int
    epochs: float
    updates_per_epoch: int
    batches_per_update: int
    device: str
    device_name: str
    precision: str
    processes: int
    checkpoint_bytes: CheckpointBytes
    notes: list[str]
    """A line for each optimizer that is skipped or could not be compiled, parameter group, and average of weights."""
    warnings: list[str]
    """A line for each suspicious value."""

    def as_json(self) -> JsonObject:
        """Return the fields as plain values."""
        values = asdict(self)
        values["checkpoint_bytes"]["total"] = self.checkpoint_bytes.total
        return values


class Planned(Protocol):
    """A run that can be planned: its parts are built."""

    config: ExperimentConfig
    world: World
    data: DataSet
    components: nn.ModuleDict
    batches: ShuffledBatches
    horizon: Horizon
    averages: MovingAverages

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """The optimizers by component."""
        ...


def plan_of(run: Planned) -> Plan:
    """Return the plan of a run."""
    config, components, optimizers, train = run.config, run.components, run.optimizers, run.config.train
    trained = _numel(trainable_parameters(components[name]).values() for name in optimizers)
    total = _numel(component.parameters() for component in components.values())
    held_out = 0 if run.data.held_out is None else len(run.data.held_out)
    samples, batch_size = len(run.data.train), config.data.batch_size
    return Plan(
        components=[_component(name, config, components[name], optimizers.get(name)) for name in components],
        parameters={"total": total, "trained": trained, "frozen": total - trained},
        data=DataPlan(config.data.type, samples, held_out, batch_size, run.batches.batches_per_epoch),
        updates=run.horizon.total_steps,
        epochs=run.horizon.total_steps / run.batches.steps_per_epoch,
        updates_per_epoch=run.batches.steps_per_epoch,
        batches_per_update=train.accumulate,
        device=str(run.world.device),
        device_name=_device_name(run.world.device),
        precision=train.precision,
        processes=run.world.size,
        checkpoint_bytes=checkpoint_bytes(config, components, optimizers, run.averages, run.horizon),
        notes=[*_notes(config, components, optimizers), *run.averages.plan_lines()],
        warnings=_warnings(config, optimizers, run.horizon, samples),
    )


def schedule_warning_lines(
    name: str, scheduler: EmbeddedScheduler, total_steps: int, usual: Mapping[str, Any] | None
) -> list[str]:
    """Return a line for each suspicious value in a component's schedules.

    Args:
        name: The component.
        scheduler: Its schedules.
        total_steps: The length of the run in steps of the component.
        usual: The optimizer's default options, as `schedule_warnings` takes them.
    """
    return [f"{name}: {line}" for line in schedule_warnings(scheduler, total_steps, usual)]


def _numel(several: Iterable[Iterable[nn.Parameter]]) -> int:
    return sum({id(parameter): parameter.numel() for parameters in several for parameter in parameters}.values())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return counted(torch.get_num_threads(), "thread") if device.type == "cpu" else device.type


def _component(name: str, config: ExperimentConfig, component: nn.Module, optimizer: Optimizer | None) -> ComponentPlan:
    total = _numel([component.parameters()])
    trainable = _numel([trainable_parameters(component).values()])
    optim = None if optimizer is None else config.model.component_optims[name]
    schedule = _schedule_text(optimizer)
    if schedule is not None and optim is not None and optim.every > 1:
        schedule += f", stepped every {optim.every} updates"
    return ComponentPlan(
        name=name,
        parameters=total,
        trained=0 if optimizer is None else trainable,
        trains=_trains(name, config.model, component, "yes" if trainable == total else f"{count(trainable)} of it"),
        optimizer=None if optim is None else optim.type,
        step=None if optimizer is None else implementation_of(optimizer),
        schedule=schedule,
        modules=_modules(name, config.model),
        placement=_placement(name, config.model),
    )


def _trains(name: str, model: ModelConfig, component: nn.Module, share: str) -> str:
    entry = model.components.get(name)
    if entry is not None and entry.ema_of is not None:
        mover = "" if entry.moves_with is None else f", moves with {entry.moves_with}"
        return f"average of {entry.ema_of}, tau {entry.tau:g}{mover}"
    if is_in_parts(component) and next(component.parameters(), None) is None:
        return "-"
    freeze = model.entries[name].freeze
    if isinstance(freeze, FreezeUntil):
        return f"{share}, after {counted(freeze.until, 'update') if isinstance(freeze.until, int) else freeze.until}"
    return "frozen" if is_frozen(component) else share


def _modules(name: str, model: ModelConfig) -> str | None:
    """Return the place of a component in the policy, if there are parts of one."""
    if model.policy is None or not model.policy.parts:
        return None
    places = {name: ", ".join(part.modules) for name, part in model.policy.parts.items()}
    return {**places, REST: "the rest"}.get(name, "-")


def _placement(name: str, model: ModelConfig) -> str | None:
    """Return the placement of a component, if one is sharded."""
    if all(entry.placement == "replicate" for entry in model.entries.values()):
        return None
    entry = model.entries[name]
    return entry.placement + (f", units {', '.join(entry.shard_units)}" if entry.shard_units else "")


def _schedule_text(optimizer: Optimizer | None) -> str | None:
    if not isinstance(optimizer, HasSchedule):
        return None
    lr = optimizer.scheduler.schedule.full_summary()
    schedules = optimizer.scheduler.option_schedules.items()
    return "; ".join([lr, *(f"{option} {schedule.full_summary()}" for option, schedule in schedules)])


def _notes(config: ExperimentConfig, components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> list[str]:
    lines = [line for name, optimizer in optimizers.items() for line in _group_lines(name, optimizer)]
    for name, optim in config.model.component_optims.items():
        if name in optimizers:
            lines += _uncompiled_line(name, optim, optimizers[name])
        else:
            is_empty = next(components[name].parameters(), None) is None
            reason = "has no parameters" if is_empty else "is frozen"
            lines.append(f"{name} {reason}: its optimizer {optim.type} is skipped")
    return lines


def _uncompiled_line(name: str, optim: OptimConfig, optimizer: Optimizer) -> list[str]:
    """Return a line if compiled steps would be faster than those that `auto` takes, and compiling failed."""
    is_auto = getattr(optim.factory, "implementation", None) == "auto"
    reason = uncompiled_reason(optimizer) if is_auto else None
    if reason is None:
        return []
    why = reason.partition("\n")[0]
    return [f"{name}: its steps are {implementation_of(optimizer)}; compiled they would be faster, but {why}"]


def _group_lines(name: str, optimizer: Optimizer) -> list[str]:
    """Return a line for each parameter group, if there are several, with the options that differ."""
    groups = optimizer.param_groups
    if len(groups) == 1:
        return []
    lines = []
    for index, group in enumerate(groups, start=1):
        shown = {"lr": group.get("initial_lr", group["lr"]), "weight_decay": group.get("weight_decay")}
        shown |= {
            option: value
            for option, value in group.items()
            if option in _BY_GROUP and value != groups[0].get(option, value)
        }
        values = ", ".join(
            f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"
            for option, value in shown.items()
            if value is not None
        )
        lines.append(f"{name}, group {index} of {len(groups)}: {counted(len(group['params']), 'tensor')}, {values}")
    return lines


def _warnings(
    config: ExperimentConfig, optimizers: Mapping[str, Optimizer], horizon: Horizon, samples: int
) -> list[str]:
    lines = []
    if config.data.batch_size > samples:
        lines.append(
            f"data.batch_size: {config.data.batch_size} is more than the {counted(samples, 'sample')} of the training"
            f" data: each batch has these {samples}"
        )
    for name, optimizer in optimizers.items():
        if isinstance(optimizer, HasSchedule):
            own = config.model.turns(name, horizon).horizon(horizon)
            factory = config.model.component_optims[name].factory
            usual = factory.usual_options() if isinstance(factory, ScheduledFactory) else None
            lines += schedule_warning_lines(name, optimizer.scheduler, own.total_steps, usual)
    return lines
