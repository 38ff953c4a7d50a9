"""The plan: a table of components, optimizers and schedules, shown before the first batch."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optimizer import EmbeddedScheduler, Horizon, ScheduledFactory
from optimizer.analysis import schedule_warnings
from optimizer.config import counted
from optimizer.factories import trainable_parameters
from optimizer.kernels import implementation_of
from optimizer.types import HasSchedule

from ..config.schema import ExperimentConfig, ModelConfig
from ..interfaces.component import is_frozen
from ..splitting.parts import REST
from ..splitting.share import is_in_parts
from .tables import align_columns, count

_BY_GROUP = ("betas", "momentum", "eps", "part")
_HEADER = ("component", "params", "trains", "optimizer", "step", "schedule")


def plan(
    config: ExperimentConfig,
    components: nn.ModuleDict,
    optimizers: Mapping[str, Optimizer],
    horizon: Horizon,
    samples: int,
) -> str:
    """Return the plan table as text, with a line for each optimizer that is skipped and for each suspicious value.

    Args:
        optimizers: By component; a frozen component has none.
        samples: Number of samples in the training data.
    """
    rows = [_HEADER, *(_component_row(name, config, components[name], optimizers.get(name)) for name in components)]
    lines = align_columns(_with_placements(_with_places(rows, config.model), config.model), right=[1])
    epochs = horizon.total_steps / (horizon.steps_per_epoch or 1)
    batches = f"{config.train.accumulate} batches of " if config.train.accumulate > 1 else ""
    batches += counted(config.data.batch_size, "sample")
    lines.append(f"{counted(horizon.total_steps, 'update')} of {batches}, {epochs:.1f} epochs")
    if config.data.batch_size > samples:
        lines.append(
            f"warning: data.batch_size: {config.data.batch_size} is more than the {counted(samples, 'sample')} of the"
            f" training data: each batch has these {samples}"
        )
    lines += [line for name, optimizer in optimizers.items() for line in _group_lines(name, optimizer)]
    lines += [
        f"{name} {_reason(components[name])}: its optimizer {optim.type} is skipped"
        for name, optim in config.model.component_optims.items()
        if name not in optimizers
    ]
    for name, optimizer in optimizers.items():
        if isinstance(optimizer, HasSchedule):
            own = config.model.turns(name, horizon).horizon(horizon)
            factory = config.model.component_optims[name].factory
            usual = factory.usual_options() if isinstance(factory, ScheduledFactory) else None
            lines += warning_lines(name, optimizer.scheduler, own.total_steps, usual)
    return "\n".join(lines)


def _with_places(rows: Sequence[tuple[str, ...]], model: ModelConfig) -> list[tuple[str, ...]]:
    """Return the rows of the table with the place of each component in the policy, if there are parts of one."""
    if model.policy is None or not model.policy.parts:
        return list(rows)
    places = {name: ", ".join(part.modules) for name, part in model.policy.parts.items()}
    places |= {_HEADER[0]: "of the policy", REST: "the rest"}
    return [(*row[:2], places.get(row[0], "-"), *row[2:]) for row in rows]


def _with_placements(rows: Sequence[tuple[str, ...]], model: ModelConfig) -> list[tuple[str, ...]]:
    """Return the rows of the table with the placement of each component, if one of them is sharded."""
    if all(entry.placement == "replicate" for entry in model.entries.values()):
        return list(rows)
    texts = {_HEADER[0]: "placement"}
    for name, entry in model.entries.items():
        units = f", units {', '.join(entry.shard_units)}" if entry.shard_units else ""
        texts[name] = entry.placement + units
    return [(*row, texts[row[0]]) for row in rows]


def _reason(component: nn.Module) -> str:
    return "has no parameters" if next(component.parameters(), None) is None else "is frozen"


def warning_lines(
    name: str, scheduler: EmbeddedScheduler, total_steps: int, usual: Mapping[str, Any] | None
) -> list[str]:
    """Return a line for each suspicious value in a component's schedules.

    Args:
        name: The component.
        scheduler: Its schedules.
        total_steps: The length of the run in steps of the component.
        usual: The optimizer's default options, as `schedule_warnings` takes them.
    """
    return [f"warning: {name}: {line}" for line in schedule_warnings(scheduler, total_steps, usual)]


def _component_row(
    name: str, config: ExperimentConfig, component: nn.Module, optimizer: Optimizer | None
) -> tuple[str, ...]:
    total = sum(parameter.numel() for parameter in component.parameters())
    trainable = sum(parameter.numel() for parameter in trainable_parameters(component).values())
    entry = config.model.components.get(name)
    if entry is not None and entry.ema_of is not None:
        mover = "" if entry.moves_with is None else f", moves with {entry.moves_with}"
        return name, count(total), f"average of {entry.ema_of}, tau {entry.tau:g}{mover}", "-", "-", "-"
    if optimizer is None:
        trains = "-" if total == 0 and is_in_parts(component) else "frozen" if is_frozen(component) else "yes"
        return name, count(total), trains, "-", "-", "-"
    trains = "yes" if trainable == total else f"{count(trainable)} of it"
    schedule = _schedule_text(optimizer.scheduler) if isinstance(optimizer, HasSchedule) else "-"
    optim = config.model.component_optims[name]
    schedule += f", stepped every {optim.every} updates" if optim.every > 1 else ""
    return name, count(total), trains, optim.type, implementation_of(optimizer), schedule


def _group_lines(name: str, optimizer: Optimizer) -> list[str]:
    """Return a line for each parameter group, if there are several, with the options that differ."""
    groups = optimizer.param_groups
    if len(groups) == 1:
        return []
    lines = []
    for index, group in enumerate(groups, start=1):
        tensors = f"{len(group['params'])} tensor{'s' if len(group['params']) > 1 else ''}"
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
        lines.append(f"{name}, group {index} of {len(groups)}: {tensors}, {values}")
    return lines


def _schedule_text(scheduler: EmbeddedScheduler) -> str:
    lr = scheduler.schedule.full_summary()
    others = [f"; {option} {schedule.full_summary()}" for option, schedule in scheduler.option_schedules.items()]
    return lr + "".join(others)
