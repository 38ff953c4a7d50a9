"""Taking a run up from a checkpoint, also where the config has changed since."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from optimizer import SCHEDULE_REGISTRY, Horizon
from optimizer.config import bounded, counted, shown, shown_value
from optimizer.scheduled import NO_CURVE
from optimizer.types import HasSchedule

from ..config.schema import ComponentConfig, DataConfig, ExperimentConfig, OptimConfig, TrainConfig
from ..errors import ConfigError
from ..run_layout import OPTIMIZER_VALUES, WEIGHTS
from ..setup.optimizers import resolved_fields
from . import contents as checkpoint
from .directory import read_manifest
from .upgrades import LASTING, brought_up, strings, unknown_fields

Row = tuple[str, Any, Any]
"""The path of a value in the config, what the checkpoint was made with, and what it is now."""

_WAYS = (
    "Say which values hold: --resume.on_change=keep (the saved ones), override (the new ones), or rescale (the new"
    " ones, each schedule entered where the lr is continuous). Or start a new run."
)


def lasting(config: ExperimentConfig, trained: Collection[str], horizon: Horizon) -> dict[str, Any]:
    """Return what of a config makes the training what it is, and does not change in a run, resolved.

    trained: the components that have an optimizer.
    """
    raw = config.model_dump(mode="json")
    optims = {}
    for name in trained:
        fields = resolved_fields(config.model.component_optims[name], horizon)
        params = {field: value for field, value in fields.items() if field != "type"}
        entry = raw["model"]["component_optims"][name] | {"type": fields["type"], "params": params}
        optims[name] = _of(entry, *LASTING[OptimConfig])
    components = {name: _of(fields, *LASTING[ComponentConfig]) for name, fields in raw["model"]["components"].items()}
    return {
        "seed": config.seed,
        "data": _of(raw["data"], *LASTING[DataConfig]),
        "model": {"components": components, "component_optims": optims},
        "train": _of(raw["train"], *LASTING[TrainConfig]),
    }


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """Return what differs between the state of a checkpoint and that of the run as it is configured now.

    saved, now: the trainer's values, of which `config` and, but for the place in it, `data` matter.
    """
    before, after = (leaves(values["config"]) | leaves(facts(values["data"])) for values in (saved, now))
    rows = [(path, before.get(path), after.get(path)) for path in sorted({**before, **after})]
    return [row for row in rows if row[1] != row[2]]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings, and of lists that hold some, by dotted path."""
    if isinstance(value, Mapping):
        named = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        named = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {
        leaf: item for key, inner in named for leaf, item in leaves(inner, f"{path}.{key}" if path else key).items()
    }


def table(rows: list[Row]) -> str:
    """Return the differences as lines."""
    lines = [f"  {shown(path)}: saved {shown_value(before)}, now {shown_value(after)}" for path, before, after in rows]
    return bounded("\n".join(lines))


def refuse(rows: list[Row], on_change: str | None, saved: Mapping[str, Any], config: ExperimentConfig) -> None:
    """Raise ConfigError with the differences, if there are any, and the ways to go on.

    saved: the trainer's values in the checkpoint, of which those that this version does not know are named.
    """
    if rows:
        ways = _WAYS if on_change is None else "These cannot be kept. Resume with what was there, or start a new run."
        told = "\n".join([table(rows), *unknown_fields(saved, config), ways])
        raise ConfigError(f"the config differs from the one that the checkpoint was made with:\n{told}")


def with_saved_values(
    config: ExperimentConfig, saved: Mapping[str, Any], trusted: Mapping[str, Any]
) -> ExperimentConfig:
    """Return `config` with all that lasts as it is in the checkpoint.

    trusted: the run's config as it was written. Only what it names may be imported: a checkpoint brings no code.
    Raises ValueError for what is no such state.
    """
    known = {*strings(trusted), *strings(config.model_dump(mode="json"))}
    for text in strings(saved["config"]):
        if "." in text and text not in known:  # it may be a dotted path
            raise ValueError(
                f"names {shown_value(text)}, which the run's config does not. Put it there, if it is yours."
            )
    raw, kept = config.model_dump(mode="json"), brought_up(saved, config)["config"]
    raw |= {"seed": kept["seed"], "data": raw["data"] | kept["data"], "train": raw["train"] | kept["train"]}
    for name, fields in kept["model"]["components"].items():
        raw["model"]["components"][name] = raw["model"]["components"].get(name, {}) | fields
    raw["model"]["component_optims"] |= kept["model"]["component_optims"]
    return ExperimentConfig.model_validate(raw)


def restore_components(
    folder: Path,
    components: nn.ModuleDict,
    optimizers: Mapping[str, Optimizer],
    every: Mapping[str, int],
    rows: list[Row],
    on_change: str | None,
    log: Callable[[str], None],
) -> None:
    """Load weights and optimizers from the checkpoint in `folder`.

    every: updates between two steps, by component. rows: what differs from the config that it was made with.
    on_change: how an optimizer that differs is restored, `override` or `rescale`.

    Raises ValueError for what does not fit.
    """
    step, listed = checkpoint.read_progress(folder).step, read_manifest(folder)["files"]
    for name, component in components.items():
        if f"{name}/{WEIGHTS}" not in listed:  # what is there besides was not verified
            raise ValueError(f"{folder}: has no component {name!r}")
        checkpoint.load_weights(folder / name, component)
    for name, optimizer in optimizers.items():
        own_step = -(-step // every.get(name, 1))
        path = f"model.component_optims.{name}."
        differing = {row_path.removeprefix(path): row for row_path, *row in rows if row_path.startswith(path)}
        if not differing:
            checkpoint.load_optimizer(folder / name, optimizer)
        elif "type" in differing:  # another class, or a component that was frozen
            _start_at(optimizer, own_step)
            at = f"update {step}" if own_step == step else f"step {own_step}, after {counted(step, 'update')}"
            log(f"{name}: its optimizer starts anew, with its schedule at {at}")
        else:
            with _without_warnings_of_another_curve():
                checkpoint.load_optimizer(folder / name, optimizer, own_options=True)
            if on_change == "rescale" and isinstance(optimizer, HasSchedule):
                _enter(name, optimizer, folder / name)


def _enter(name: str, optimizer: Any, component_folder: Path) -> None:
    """Enter the schedule of `optimizer` where its lr is the saved one."""
    first = optimizer.param_groups[0]["param_names"][0]
    with checkpoint.expected_content(component_folder / OPTIMIZER_VALUES):
        values = checkpoint.read_optimizer(component_folder).values
        lr = float(next(group["lr"] for group in values["param_groups"] if first in group["param_names"]))
        rising = _was_rising(values.get("scheduler"))
    try:
        optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups, rising)
    except ValueError as error:
        raise ConfigError(f"model.component_optims.{name}: resume.on_change=rescale: {error}") from error


def _was_rising(scheduler: Mapping[str, Any] | None) -> bool | None:
    """Return whether the saved curve was on its way up, if it can be known."""
    if scheduler is None or {"curves", "entry"} & scheduler.keys():
        return None
    fields = dict(scheduler["config"] or NO_CURVE)
    if (key := fields.pop("type", "")) not in SCHEDULE_REGISTRY:
        return None
    curve = SCHEDULE_REGISTRY[key](**fields).start()
    here, next_one = (curve.lr_at(scheduler["last_epoch"] + step) for step in (0, 1))
    return None if here == next_one else next_one > here


def _start_at(optimizer: Optimizer, step: int) -> None:
    if isinstance(optimizer, HasSchedule):
        optimizer.load_state_dict({**optimizer.state_dict(), "scheduler": {"last_epoch": step}})


@contextmanager
def _without_warnings_of_another_curve() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the position is loaded, but the schedule is another", UserWarning)
        yield


def facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the data itself says, as paths beside those of the config."""
    return {"data": _of(data, "samples", "steps_per_epoch")}


def _of(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names}
