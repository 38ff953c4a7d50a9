"""Initialises components and optimizers from other runs and files, as `init_from` in the config names them."""

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer import NamedState, StateMismatchError, load_named_state
from optimizer.config import bounded, counted, joined, listed, nearest, shown, shown_value
from optimizer.state import (
    Shapes,
    check_is_file,
    compare_shapes,
    number_kind,
    parameter_shapes,
    rename_parameters,
    restrict_parameters,
    shapes_by_name,
)
from optimizer.types import HasSchedule

from ..config.init_from import InitConfig
from ..config.schema import ModelConfig
from ..errors import ConfigError
from ..loop.nonfinite import has_nonfinite
from ..run_layout import EMA_TENSORS, MANIFEST, OPTIMIZER_VALUES, WEIGHTS
from ..runtime.files import DamagedCheckpointError, read_tensors, reading, stat_of
from ..runtime.hub import is_reference, local_folder
from .contents import expected_content, read_averages, read_optimizer
from .directory import checkpoint_at, damages, read_manifest
from .health import shorten_names
from .names import is_file
from .policy_weights import joined_weights

Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """The place that a component is initialised from."""

    folder: Path | None
    """A component's folder in a checkpoint; None: there is only a file of weights."""
    weights: Path
    """The safetensors file."""
    prefix: str = ""
    """Prefix of the names of the component's tensors in the file."""


def init_component(
    name: str, init: InitConfig, component: nn.Module, is_policy: bool = False
) -> tuple[list[str], list[str]]:
    """Load the weights that `init` names into `component`. Its extra state stays as it is.

    Args:
        name: The component's.
        init: The component's `init_from`.
        component: The component to load into.
        is_policy: Whether it is a whole policy. It is joined then, if the source has it in parts.

    Returns:
        The names of the loaded tensors, and lines on tensors that were loaded and that were not.

    Raises:
        ValueError: The weights are missing, damaged, or do not fit.
    """
    if not init.weights:
        return [], []
    place, saved = _saved_weights(name, init, is_policy)
    saved = rename_values(saved, init.rename)
    state = component.state_dict()
    own = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    chosen = _fitting_names(shapes_by_name(saved), shapes_by_name(own), init, place, "weights")
    check_kinds(saved, own, chosen, place)
    component.load_state_dict({**state, **{key: saved[key] for key in chosen}}, strict=init.strict)
    source = f"the averages in {place}" if init.ema else place
    lines = _report_lines(f"{name}: {len(chosen)} of {counted(len(own), 'tensor')} from {source}", chosen, saved, own)
    trained = {key for key, _ in component.named_parameters()}
    nonfinite = [key for key in chosen if has_nonfinite(saved[key], infinities_too=key in trained)]
    if nonfinite:
        lines.append(f"  not finite: {shorten_names(nonfinite)}")
    return chosen, lines


def _saved_weights(name: str, init: InitConfig, is_policy: bool) -> tuple[Path, dict[str, Tensor]]:
    """Return the place that `init` names for component `name`, and the tensors in it by the component's names.

    Raises:
        ValueError: There is no such place, or it is damaged.
    """
    folder = checkpoint_at(_place_of(init)) if is_policy and init.component is None else None
    if folder is not None and (joint := joined_weights(folder, init.ema)):
        return folder, joint
    source = find_source(init, name)
    tensors = _read_weights(source, init.ema)
    place = source.folder if init.ema and source.folder is not None else source.weights
    return place, {
        key.removeprefix(source.prefix): tensor for key, tensor in tensors.items() if key.startswith(source.prefix)
    }


def init_optimizers(model: ModelConfig, optimizers: Mapping[str, Optimizer], log: Callable[[str], None]) -> None:
    """Load the states of optimizers and positions of schedules that `init_from` names.

    Args:
        model: The run's `model`.
        optimizers: By component.
        log: Prints a line.

    Raises:
        ConfigError: A state is missing, damaged, or does not fit.
    """
    for name, config in model.entries.items():
        init, path = config.init_from, f"{model.config_paths[name]}.init_from"
        if init is None or not (init.optimizer or init.schedule):
            continue
        if name not in optimizers:
            raise ConfigError(f"{path}: {name} is frozen and has no optimizer. Set optimizer and schedule to false.")
        try:
            for line in _init_optimizer(name, init, optimizers[name]):
                log(line)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error


def _init_optimizer(name: str, init: InitConfig, optimizer: Optimizer) -> list[str]:
    """Load the optimizer's state, its schedule's position or both, as `init` asks; return lines to log.

    Options (lr, betas …) stay the config's. Raises ValueError if the state is missing, damaged, or does not fit.
    """
    source = find_source(init, name)
    if source.folder is None or not is_file(source.folder / OPTIMIZER_VALUES):
        raise ValueError(f"{source.folder or source.weights}: holds no optimizer's state")
    file = source.folder / OPTIMIZER_VALUES
    with expected_content(file):
        state = rename_parameters(read_optimizer(source.folder), _compile_rules(init.rename))
        position = state.values.get("scheduler", {}).get("last_epoch")
    lines = []
    if init.optimizer:
        own = parameter_shapes(optimizer)
        chosen = _fitting_names(state.values["shapes"], own, init, file, "optimizer's state")
        with expected_content(file):
            chosen_state = restrict_parameters(state, chosen, optimizer)
            load_named_state(optimizer, _with_position_of(optimizer, chosen_state), own_options=True)
        of_own = counted(len(own), "parameter")
        lines.append(f"{name}: the optimizer's state of {len(chosen)} of {of_own} from {source.folder}")
    if init.schedule:
        with expected_content(file):
            optimizer.load_state_dict({**optimizer.state_dict(), "scheduler": {"last_epoch": position}})
        lines.append(f"{name}: its schedule continues at update {position}")
    return lines


def find_source(init: InitConfig, name: str) -> Source:
    """Return the place that `init` names for component `name`.

    Raises:
        ValueError: There is no such place, or it is damaged.
    """
    path = _place_of(init)
    if is_file(path) and path.suffix == ".safetensors":
        return Source(None, path, f"{init.component}." if init.component else "")
    if (folder := checkpoint_at(path)) is not None:
        return _component_source(folder, init.component or name)
    if (found := stat_of(path, NotADirectoryError)) is not None and not stat.S_ISDIR(found.st_mode):
        with reading(path):
            check_is_file(path)
        raise ValueError(
            f"{path}: must end in .safetensors. `innerstep checkpoint convert` takes the files of torch.save over."
        )
    if not is_file(path / WEIGHTS):
        raise ValueError(
            f"{path / WEIGHTS}: is missing. Give a run, a checkpoint, a component's folder in one, or a"
            " .safetensors file."
        )
    if init.component is not None:
        raise ValueError(f"{path}: is one component's folder, and has no component {init.component!r}")
    if is_file(path.parent / MANIFEST):
        return _component_source(path.parent, path.name)
    return Source(path, path / WEIGHTS)


def _read_weights(source: Source, averages: bool) -> dict[str, Tensor]:
    """Return the tensors of a source. averages: whether those of `train.ema`. Raises ValueError if there are none."""
    if not averages:
        return read_tensors(source.weights)
    if source.folder is None or not is_file(source.folder / EMA_TENSORS):
        place = source.folder or source.weights
        raise ValueError(f"ema: {place} has no averages of train.ema. Set it to false for the weights of training.")
    return read_averages(source.folder)


def _place_of(init: InitConfig) -> Path:
    """Return the path of `init`, downloaded if it is on the hub. Raises ConfigError."""
    return local_folder(init.path, "path") if is_reference(init.path) else Path(init.path)


def rename_values(values: Mapping[str, Value], rules: Mapping[str, str]) -> dict[str, Value]:
    """Return `values` under the names that the first matching rule gives them; others keep their names.

    Args:
        values: By name.
        rules: New pattern by old pattern, with the same number of *. The text that a * of the old pattern matches
            takes the place of the same * in the new one.

    Raises:
        ValueError: A rule matches nothing, or two values get the same name.
    """
    new_name = _compile_rules(rules)
    result: dict[str, Value] = {}
    for name, value in values.items():
        if new_name(name) in result:
            raise ValueError(f"rename: two tensors would be called {shown_value(new_name(name))}")
        result[new_name(name)] = value
    for pattern in rules:
        if not any(_compile_pattern(pattern).fullmatch(name) for name in values):
            raise ValueError(f"rename: {pattern!r} matches no name{nearest(pattern, list(values))}")
    return result


def _compile_rules(rules: Mapping[str, str]) -> Callable[[str], str]:
    compiled = [(_compile_pattern(pattern), new.split("*")) for pattern, new in rules.items()]

    def new_name(name: str) -> str:
        for pattern, pieces in compiled:
            if match := pattern.fullmatch(name):
                stars = [*match.groups(), ""]
                return "".join(piece + star for piece, star in zip(pieces, stars, strict=True))
        return name

    return new_name


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*"))))


def _component_source(folder: Path, component: str) -> Source:
    """Return a component of a checkpoint after checking its files."""
    manifest = read_manifest(folder)
    there = {name.rpartition("/")[0] for name in manifest["files"]} - {""}
    if component not in there:
        names = sorted(there)
        raise ValueError(f"{folder}: has no component {component!r}{nearest(component, names)} It has {listed(names)}.")
    if problems := damages(folder, manifest, f"{component}/"):
        raise DamagedCheckpointError(bounded("\n".join(problems)))
    return Source(folder / component, folder / component / WEIGHTS)


def _fitting_names(saved: Shapes, own: Shapes, init: InitConfig, path: Path, what: str) -> list[str]:
    """Return the names to load: all, or with `strict: false` those that fit."""
    problems = compare_shapes(saved, own)
    if init.strict and problems:
        raise StateMismatchError(
            f"{path}: the {what} {'do' if what == 'weights' else 'does'} not fit: {joined(problems)}"
        )
    chosen = [name for name in own if saved.get(name) == own[name]]
    if not chosen:
        raise StateMismatchError(f"{path}: nothing of the {what} fits: {joined(problems) or 'it is empty'}")
    return chosen


def check_kinds(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Sequence[str], path: Path) -> None:
    """Check that no tensor changes its kind of number: whole, real and complex numbers differ.

    Args:
        saved: Tensors by name.
        own: The component's tensors by name.
        names: Names of the tensors to check.
        path: The file of `saved`.

    Raises:
        StateMismatchError: A kind differs.
    """
    wrong = [
        f"{shown(name)} (saved {saved[name].dtype}, here {own[name].dtype})"
        for name in names
        if number_kind(saved[name]) != number_kind(own[name])
    ]
    if wrong:
        raise StateMismatchError(f"{path}: the weights do not fit: of another kind of number: {listed(wrong)}")


def _with_position_of(optimizer: Optimizer, state: NamedState) -> NamedState:
    """Return `state` with the position of `optimizer`."""
    values = {key: value for key, value in state.values.items() if key != "scheduler"}
    if isinstance(optimizer, HasSchedule):
        values["scheduler"] = optimizer.scheduler.state_dict()
    return NamedState(state.tensors, values)


def _report_lines(
    headline: str, chosen: Sequence[str], saved: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> list[str]:
    kinds = {"not loaded, as it is not there": own.keys() - saved.keys(), "not used": saved.keys() - own.keys()}
    kinds["not loaded, as its shape differs"] = (own.keys() & saved.keys()) - set(chosen)
    return [headline, *(f"  {kind}: {listed(sorted(names))}" for kind, names in kinds.items() if names)]
