"""Loads components and their optimizers from a checkpoint, also if an optimizer's config has changed since."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optimizer import SCHEDULE_REGISTRY
from optimizer.config import counted
from optimizer.scheduling import NO_CURVE
from optimizer.types import HasSchedule, JsonObject

from ..config.turns import Turns
from ..errors import ConfigError
from ..loop.averaged_weights import MovingAverages
from ..run_layout import EMA_TENSORS, OPTIMIZER_VALUES, WEIGHTS
from .contents import expected_content, load_averages, load_component, load_optimizer, read_optimizer, read_progress
from .directory import read_manifest
from .fingerprint import Row


def restore_components(
    folder: Path,
    components: nn.ModuleDict,
    optimizers: Mapping[str, Optimizer],
    turns: Mapping[str, Turns],
    rows: list[Row],
    on_change: str | None,
    log: Callable[[str], None],
) -> None:
    """Load weights and optimizers from the checkpoint in `folder`.

    Args:
        folder: The checkpoint's.
        components: The components to load into.
        optimizers: Their optimizers, by component.
        turns: The updates at which each is stepped, by component.
        rows: The differences from the config that the checkpoint was made with.
        on_change: How to restore an optimizer whose config differs: `override` or `rescale`.
        log: Prints a line.

    Raises:
        ValueError: The checkpoint does not fit the components or the optimizers.
    """
    step, listed = read_progress(folder).step, read_manifest(folder)["files"]
    for name, component in components.items():
        if f"{name}/{WEIGHTS}" not in listed:  # other files in the folder were not verified
            raise ValueError(f"{folder}: has no component {name!r}")
        load_component(folder / name, component)
    for name, optimizer in optimizers.items():
        prefix = f"model.component_optims.{name}."
        differing = {path.removeprefix(prefix) for path, _, _ in rows if path.startswith(prefix)}
        if not differing:
            load_optimizer(folder / name, optimizer)
        elif "type" in differing:  # another class, or a component that was frozen
            log(_start_again(name, optimizer, step, turns[name]))
        else:
            with _ignored_curve_warnings():
                load_optimizer(folder / name, optimizer, own_options=True)
            if on_change == "rescale" and isinstance(optimizer, HasSchedule):
                log(_resume_at_saved_lr(name, optimizer, folder / name))


def restore_averages(
    folder: Path, components: nn.ModuleDict, averages: MovingAverages, on_change: str | None, log: Callable[[str], None]
) -> None:
    """Load the averages of `train.ema` from the checkpoint in `folder`, after the weights.

    Args:
        folder: The checkpoint's.
        components: By name, with the weights of the checkpoint.
        averages: The run's.
        on_change: The run's `resume.on_change`. If it takes the config's values, averages that the checkpoint lacks
            start at the weights.
        log: Prints a line.

    Raises:
        ValueError: The averages do not fit, or are missing.
    """
    listed = read_manifest(folder)["files"]
    for name, ema in averages.ema.items():
        if f"{name}/{EMA_TENSORS}" in listed:
            load_averages(folder / name, components[name], ema)
        elif on_change in ("override", "rescale"):
            ema.restart()
            log(f"train.ema: the checkpoint has no averages of {name}: they start at its weights")
        else:
            raise ValueError(f"{folder}: has no averages of {name!r}, which train.ema asks for")


def _start_again(name: str, optimizer: Optimizer, updates: int, turns: Turns) -> str:
    """Set the position of a new optimizer's schedule, if it has one; return a line that reports it."""
    step = turns.before(updates)
    if isinstance(optimizer, HasSchedule):
        optimizer.load_state_dict({**optimizer.state_dict(), "scheduler": {"last_epoch": step}})
    position = f"update {updates}" if step == updates else f"step {step}, after {counted(updates, 'update')}"
    return f"{name}: its optimizer starts again, with its schedule at {position}"


def _resume_at_saved_lr(name: str, optimizer: Any, component_folder: Path) -> str:
    """Enter the schedule of `optimizer` where its lr is the saved one; return a line that reports it."""
    first = optimizer.param_groups[0]["param_names"][0]
    with expected_content(component_folder / OPTIMIZER_VALUES):
        values = read_optimizer(component_folder).values
        lr = float(next(group["lr"] for group in values["param_groups"] if first in group["param_names"]))
        rising = _was_rising(values.get("scheduler"))
    try:
        optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups, rising)
    except ValueError as error:
        raise ConfigError(f"model.component_optims.{name}: resume.on_change=rescale: {error}") from error
    state = optimizer.scheduler.state_dict()
    position = state["entry"]["position"] if "entry" in state else state["last_epoch"]
    now = optimizer.param_groups[0]["lr"]
    return f"{name}: lr continues at {now:.3g}: rescaled, its schedule is entered at step {position}"


def _was_rising(scheduler: JsonObject | None) -> bool | None:
    """Return whether the saved curve was rising; None if that is unknown."""
    if scheduler is None or {"curves", "entry"} & scheduler.keys():
        return None
    fields = dict(scheduler["config"] or NO_CURVE)
    if (key := fields.pop("type", "")) not in SCHEDULE_REGISTRY:
        return None
    curve = SCHEDULE_REGISTRY[key](**fields).bind()
    here, next_one = (curve.lr_at(scheduler["last_epoch"] + step) for step in (0, 1))
    return None if here == next_one else next_one > here


@contextmanager
def _ignored_curve_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the position is loaded, but the schedule is another", UserWarning)
        yield
