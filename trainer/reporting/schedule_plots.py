"""Plots of schedules over a run that has not started: those of a config, or of one key."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    SCHEDULE_REGISTRY,
    Horizon,
    Schedule,
    ScheduledFactory,
    UnknownKeyError,
)
from optimizer.analysis import Preview, panels
from optimizer.config import NotImportedError, counted, explain, nearest
from optimizer.schedules import sample_steps

from ..config.override_fields import FieldsOf
from ..config.overrides import apply_overrides
from ..config.placed import naming_places
from ..config.schema import ExperimentConfig
from ..config.turns import Turns
from ..errors import ConfigError
from ..interfaces.dataset import DataSet
from ..loop.batches import shuffled_batches
from ..setup.optimizers import factory_errors
from .plan import schedule_warning_lines
from .plot_files import draw

WITHOUT_RUN = 1000
"""Updates that a key is drawn over by default."""


@naming_places
def plot_config(config: ExperimentConfig, out: Path | None) -> list[str]:
    """Draw the scheduled options of every component over the run; return lines to print.

    Args:
        config: The experiment.
        out: A .png, .svg or .pdf to write; None: the plot is text.

    Raises:
        ConfigError: A schedule cannot work, or there is none.
    """
    if config.train.total_steps is not None:
        try:  # without the data, which may be large, or on another machine
            horizon = Horizon(config.train.total_steps)
            previews = _previews(config, horizon)
        except ConfigError:  # a length is in epochs; or there is a mistake, which is reported below
            horizon, previews = _previews_over_data(config)
    else:
        horizon, previews = _previews_over_data(config)
    return _draw_previews(previews, horizon.total_steps, out)


def plot_key(key: str, parameters: Mapping[str, object], out: Path | None) -> list[str]:
    """Draw a schedule or an optimizer of the registries; return lines to print.

    Args:
        key: Its key or dotted path.
        parameters: Its parameters by dotted name. If it has no parameters of these names: `total_steps` and
            `steps_per_epoch` of the run, and `lr` for a schedule.
        out: A .png, .svg or .pdf to write; None: the plot is text.

    Raises:
        ConfigError: There is no such key, or a parameter is wrong.
    """
    cls = _class_of(key)
    own = apply_overrides({}, parameters, FieldsOf(cls))
    run = {name: own.pop(name) for name in _RUN if name in own and name not in cls.model_fields}
    try:
        lengths = (run.get("total_steps"), _as_integer(own.get("total_steps")), WITHOUT_RUN)
        total_steps = int(next(length for length in lengths if length is not None))
        horizon = Horizon(total_steps, int(run["steps_per_epoch"]) if "steps_per_epoch" in run else None)
        made = cls(**own)
        if isinstance(made, Schedule):
            preview = Preview(made.resolved(horizon), {"lr": float(run.get("lr", 1.0)), "betas": (0.9, 0.999)}, {})
        else:
            preview = made.preview(horizon)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{key}: {line}" for line in explain(error))) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    return _draw_previews({key: preview}, horizon.total_steps, out)


_RUN = ("total_steps", "steps_per_epoch", "lr")


def _class_of(key: str) -> type[Schedule] | type[ScheduledFactory]:
    for registry in (SCHEDULE_REGISTRY, OPTIMIZER_BUILDER_REGISTRY):
        try:
            cls: type[object] = registry[key]
        except UnknownKeyError as error:
            if isinstance(error.__cause__, NotImportedError):
                raise ConfigError(f"{key!r}: {error.__cause__}") from error
            continue
        if issubclass(cls, Schedule | ScheduledFactory):
            return cls
        raise ConfigError(f"{key}: has no curve that could be drawn")
    keys = [*SCHEDULE_REGISTRY, *OPTIMIZER_BUILDER_REGISTRY]
    raise ConfigError(f"{key}: neither a config file nor a key{nearest(key, keys)} `innerstep list` shows them all.")


def _previews_over_data(config: ExperimentConfig) -> tuple[Horizon, dict[str, Preview]]:
    data: DataSet = config.data.make("data")
    horizon = config.train.horizon(shuffled_batches(config, data.train).steps_per_epoch)
    return horizon, _previews(config, horizon)


def _previews(config: ExperimentConfig, horizon: Horizon) -> dict[str, Preview]:
    previews = {}
    for name, optim in config.model.component_optims.items():
        if config.model.entries[name].freeze is True or not isinstance(optim.factory, ScheduledFactory):
            continue
        with factory_errors(name, optim):
            turns = config.model.turns(name, horizon)
            previews[name] = optim.factory.preview(turns.horizon(horizon))
            previews[name].every, previews[name].first = turns.every, turns.first
    if not previews:
        raise ConfigError("model.component_optims: there is no schedule to draw")
    return previews


def _draw_previews(previews: Mapping[str, Preview], total_steps: int, out: Path | None) -> list[str]:
    try:
        drawn = panels(previews, sample_steps(total_steps), f"over {counted(total_steps, 'update')}")
    except ValueError as error:  # a function of the user's returned a value that is not an lr
        raise ConfigError(str(error)) from error
    lines = draw(drawn, out)
    for name, preview in previews.items():
        lines += [
            f"note: {name} waits for {monitor}, and is drawn as before its first report" for monitor in preview.monitors
        ]
        own_steps = Turns(preview.every, preview.first).before(total_steps)
        found = schedule_warning_lines(name, preview.scheduler, own_steps, preview.usual)
        lines += [f"warning: {line}" for line in found]
    return lines


def _as_integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
