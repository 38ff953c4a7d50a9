"""The content of a checkpoint: the state of each component and its optimizer, and the trainer's own state.

To add a file, name it in run_layout.py, add its row to `COMPONENT_STATE` or `RUN_STATE`, and write and load it here.
The commands on checkpoints walk over the rows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer import NamedState, load_named_state, named_state
from optimizer.config import joined, shown_value
from optimizer.state import (
    compare_shapes,
    from_json,
    has_default_strides,
    shapes_by_name,
    to_json,
)
from optimizer.types import JsonObject

from ..distributed.placement import is_sharded
from ..errors import raised
from ..interfaces.component import config_path, config_paths
from ..loop.weight_ema import WeightEma
from ..run_layout import (
    DATA_TENSORS,
    DATA_VALUES,
    EMA_TENSORS,
    EMA_VALUES,
    EXTRA_TENSORS,
    EXTRA_VALUES,
    OBJECTIVE_TENSORS,
    OBJECTIVE_VALUES,
    OPTIMIZER_TENSORS,
    OPTIMIZER_VALUES,
    RNG_TENSORS,
    TRAINER,
    WEIGHTS,
)
from ..runtime.files import DamagedCheckpointError, opened_tensors, read_json, read_tensors
from ..runtime.rng import rng_state, set_rng_state
from .fingerprint import leaves
from .names import is_file
from .savable import check_savable

Contents = dict[str, JsonObject]
"""The content of files by path: tensors for .safetensors, plain values for .json."""


@dataclass(frozen=True)
class StateFiles:
    """One kind of state, and its files in the folder of a component or of the checkpoint."""

    name: str
    """How the paths of its plain values begin."""
    label: str
    """How tables call its tensors."""
    tensors: str
    """The safetensors file; empty if the state has none."""
    values: str = ""
    """The JSON file; empty if the state has none."""
    flatten: Callable[[JsonObject, Mapping[str, Tensor]], JsonObject] = lambda values, _: leaves(values)
    """Returns the plain values to show and to compare, by dotted path, from the content of both files."""


def user_state(values: JsonObject, tensors: Mapping[str, Tensor]) -> JsonObject:
    """Return the state of the objective or the data set from the content of its two files.

    Raises:
        ValueError: The values describe something else than a dict. Other exceptions are possible, too.
    """
    state = from_json(values["state"], tensors)
    if not isinstance(state, dict):
        raise ValueError("state must be a dict")
    return state


def _flat_user_state(values: JsonObject, tensors: Mapping[str, Tensor]) -> JsonObject:
    return dict(_plain_leaves(user_state(values, tensors)))


def _flat_extra_state(values: JsonObject, tensors: Mapping[str, Tensor]) -> JsonObject:
    return dict(_plain_leaves({key: from_json(spec, tensors) for key, spec in values.items()}))


def _flat_optimizer_values(values: JsonObject, _: Mapping[str, Tensor]) -> JsonObject:
    """Return positions and options: shapes are those of the tensors, and the schedule's config is the run's."""
    scheduler = {key: value for key, value in values.get("scheduler", {}).items() if "config" not in key}
    return leaves({key: value for key, value in values.items() if key != "shapes"} | {"scheduler": scheduler})


WEIGHTS_STATE = StateFiles("weights", "weights", WEIGHTS)
EXTRA_STATE = StateFiles("extra_state", "extra state", EXTRA_TENSORS, EXTRA_VALUES, _flat_extra_state)
OPTIMIZER_STATE = StateFiles("optimizer", "state", OPTIMIZER_TENSORS, OPTIMIZER_VALUES, _flat_optimizer_values)
EMA_STATE = StateFiles("ema", "average", EMA_TENSORS, EMA_VALUES)
COMPONENT_STATE = (WEIGHTS_STATE, EXTRA_STATE, EMA_STATE, OPTIMIZER_STATE)
"""The kinds of state in a component's folder. The weights are always there, the others where there is such state."""

OBJECTIVE_STATE = StateFiles("objective", "state", OBJECTIVE_TENSORS, OBJECTIVE_VALUES, _flat_user_state)
DATA_STATE = StateFiles("data", "state", DATA_TENSORS, DATA_VALUES, _flat_user_state)
RUN_STATE = (OBJECTIVE_STATE, DATA_STATE)
"""The kinds of state of the run as a whole, where there is such state; random number generators are apart."""


@dataclass(frozen=True)
class Progress:
    """The position of a run, apart from the state of its components."""

    step: int
    """Updates done."""
    values: JsonObject
    """Plain values: position in the data, scaler, horizon, component table."""


def checkpoint_files(
    components: nn.ModuleDict,
    optimizers: Mapping[str, Optimizer],
    averages: Mapping[str, WeightEma],
    progress: Progress,
) -> Contents:
    """Return everything that a resume needs, as files by path; the tensors are the run's own, and may share memory.

    Args:
        components: By name.
        optimizers: By component. Schedule-free ones must be in eval mode.
        averages: Those of `train.ema`, by component.
        progress: The position of the run.

    Raises:
        ValueError: Something cannot be saved. The message has a line for each such tensor and value.
    """
    files: Contents = {}
    for name, component in components.items():
        with _naming_the_owner(config_path(components, name)):
            files |= {f"{name}/{file}": content for file, content in _component_files(component).items()}
            if (ema := averages.get(name)) is not None:
                files |= {f"{name}/{EMA_TENSORS}": ema.state(component), f"{name}/{EMA_VALUES}": {"steps": ema.steps}}
        if name in optimizers:
            with _naming_the_owner(f"model.component_optims.{name}"):
                files |= {f"{name}/{file}": content for file, content in _optimizer_files(optimizers[name]).items()}
    files |= _run_files(progress)
    check_savable(files, config_paths(components))
    return files


def load_component(component_folder: Path, component: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
    """Load the state in a component's folder, apart from the optimizer's, into `component`.

    Args:
        component_folder: The component's folder in a checkpoint.
        component: The component; of sharded tensors, this process takes its part.
        weights: In place of those in the file.

    Raises:
        ValueError: Something does not fit. The message names all that does not; nothing is changed.
    """
    path, state = component_folder / WEIGHTS, component.state_dict()
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    tensors = read_tensors(path, own) if weights is None else weights
    extra = _read_extra(component_folder)
    problems = _misfits(tensors, own)
    if extra.keys() != state.keys() - own.keys():
        here = ", ".join(sorted(state.keys() - own.keys())) or "nothing"
        problems.append(f"{EXTRA_VALUES} has {', '.join(sorted(extra)) or 'nothing'}, and the component {here}")
    if problems:
        raise ValueError(f"{path}: the weights do not fit: {joined(problems)}")
    try:
        component.load_state_dict({**tensors, **extra})
    except Exception as error:  # its hooks are the user's code, which may raise anything
        raise ValueError(f"{path}: the component cannot load its weights: {raised(error)}") from error
    _restore_strides(component, tensors)


def read_averages(component_folder: Path, exact: bool = False) -> dict[str, Tensor]:
    """Return the averages of `train.ema` in a component's folder, and the other tensors in its file of weights.

    Args:
        component_folder: The component's folder in a checkpoint.
        exact: Whether an average in float32 of a weight in another type stays in float32.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
    """
    weights, averages = read_tensors(component_folder / WEIGHTS), read_tensors(component_folder / EMA_TENSORS)
    if strange := averages.keys() - weights.keys():
        raise DamagedCheckpointError(f"{component_folder / EMA_TENSORS}: {min(strange)} is not in {WEIGHTS}")
    rounded = {name: average if exact else average.to(weights[name].dtype) for name, average in averages.items()}
    return {**weights, **rounded}


def averaged_components(manifest: JsonObject) -> list[str]:
    """Return the components of which a checkpoint has averages of `train.ema`, from its manifest."""
    return [name.removesuffix(f"/{EMA_TENSORS}") for name in manifest["files"] if name.endswith(f"/{EMA_TENSORS}")]


def load_averages(component_folder: Path, component: nn.Module, ema: WeightEma) -> None:
    """Load the averages of `train.ema` in a component's folder into `ema`.

    Raises:
        ValueError: Something does not fit.
    """
    if is_sharded(component):  # loading state makes FSDP take the parameters that are in the component then
        _copy_averages(component_folder / EMA_TENSORS, ema.state(component))
    else:
        with ema.exchanged(exact=True):
            load_component(component_folder, component, read_averages(component_folder, exact=True))
    values = read_json(component_folder / EMA_VALUES)
    with expected_content(component_folder / EMA_VALUES):
        if type(values["steps"]) is not int or values["steps"] < 0:
            raise ValueError(f"steps is {shown_value(values['steps'])}")
        ema.steps = values["steps"]


def _copy_averages(path: Path, averages: Mapping[str, Tensor]) -> None:
    """Copy the averages in a file into `averages`; of sharded ones, the part of this process. Raises ValueError."""
    saved = read_tensors(path, averages)
    if problems := _misfits(saved, averages):
        raise ValueError(f"{path}: the averages do not fit: {joined(problems)}")
    with torch.no_grad():
        for name, average in averages.items():
            average.copy_(saved[name])


def _misfits(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return a text for each tensor that is missing, or has another shape or type."""
    return compare_shapes(shapes_by_name(saved), shapes_by_name(own)) + [
        f"{name} is {tensor.dtype}, here {own[name].dtype}"
        for name, tensor in saved.items()
        if name in own and tensor.dtype != own[name].dtype
    ]


def load_optimizer(component_folder: Path, optimizer: Optimizer, own_options: bool = False) -> None:
    """Load the optimizer's state in a component's folder into `optimizer`.

    Args:
        component_folder: The component's folder in a checkpoint.
        optimizer: The component's.
        own_options: Whether `optimizer` keeps its own lr, betas and so on.

    Raises:
        ValueError: The state does not fit.
    """
    state = read_optimizer(component_folder)
    with expected_content(component_folder / OPTIMIZER_VALUES):
        load_named_state(optimizer, state, own_options)


def load_rng(folder: Path) -> None:
    """Set the random number generators to their state in the checkpoint in `folder`.

    Raises:
        DamagedCheckpointError: A file is not as it was written. Content that is not such a state raises others, too.
    """
    set_rng_state((read_tensors(folder / RNG_TENSORS), read_progress(folder).values["rng"]))


def read_progress(folder: Path) -> Progress:
    """Return the trainer's own state.

    Raises:
        DamagedCheckpointError: The file is not as it was written.
    """
    values = read_json(folder / TRAINER)
    with expected_content(folder / TRAINER):
        step, best = values.pop("step"), values.setdefault("best", {})
        values.setdefault("provenance", {})
        if type(step) is not int or step < 0:
            raise ValueError(f"step is {shown_value(step)}")
        for name in ("data", "horizon", "components", "config", "scaler", "rng", "provenance", "best"):
            if not isinstance(values[name], dict):
                raise ValueError(f"{name} must be an object; got {shown_value(values[name])}")
        if not all(isinstance(fields, dict) for fields in values["config"]["model"]["component_optims"].values()):
            raise ValueError("component_optims must be a table of objects")
        if best and (type(best["step"]) is not int or not isinstance(best["value"], float | int)):
            raise ValueError(f"best is {shown_value(best)}")
        return Progress(step, values)


def read_optimizer(component_folder: Path) -> NamedState:
    """Return the optimizer's state in a component's folder.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
    """
    tensors = read_tensors(component_folder / OPTIMIZER_TENSORS)
    return NamedState(tensors, read_json(component_folder / OPTIMIZER_VALUES))


def read_flat_values(folder: Path, state: StateFiles) -> JsonObject:
    """Return the plain values of one kind of state by dotted path; empty if there is no such file in `folder`.

    Of tensors only the names are read.

    Raises:
        DamagedCheckpointError: A file is not as it was written.
    """
    if not state.values or not is_file(folder / state.values):
        return {}
    values = read_json(folder / state.values)
    placeholders: dict[str, Tensor] = {}
    if state.tensors:
        with opened_tensors(folder / state.tensors) as file:
            placeholders = {name: torch.empty(0) for name in file.keys()}  # noqa: SIM118 not a dict
    with expected_content(folder / state.values):
        return state.flatten(values, placeholders)


def weights_files(components: nn.ModuleDict) -> dict[str, dict[str, Tensor]]:
    """Return the tensors in the weights file of each component; they are the component's own."""
    return {f"{name}/{WEIGHTS}": _component_files(component)[WEIGHTS] for name, component in components.items()}


@contextmanager
def expected_content(path: Path) -> Iterator[None]:
    """Run the body, which uses values read from `path`, and report its errors as those of the file.

    Raises:
        DamagedCheckpointError: The body raised an error that unexpected values can cause.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ArithmeticError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DamagedCheckpointError(f"{path}: {reason}") from error


def _component_files(component: nn.Module) -> Contents:
    """Return the files of the component's state dict."""
    state, nested = component.state_dict(), dict[str, Tensor]()
    extra = {key: to_json(value, key, nested) for key, value in state.items() if not isinstance(value, Tensor)}
    files = {WEIGHTS: {key: value for key, value in state.items() if isinstance(value, Tensor)}}
    return {**files, EXTRA_VALUES: extra, EXTRA_TENSORS: nested} if extra else files


def _optimizer_files(optimizer: Optimizer) -> Contents:
    state = named_state(optimizer)
    return {OPTIMIZER_TENSORS: state.tensors, OPTIMIZER_VALUES: state.values}


def _run_files(progress: Progress) -> Contents:
    """Return the files of the run as a whole, apart from the state of the user's classes."""
    tensors, values = rng_state()
    rng = {"tensors": sorted(tensors), **values}
    return {RNG_TENSORS: tensors, TRAINER: {"step": progress.step, **progress.values, "rng": rng}}


def _read_extra(component_folder: Path) -> JsonObject:
    if not (component_folder / EXTRA_VALUES).is_file():
        return {}
    specs, tensors = read_json(component_folder / EXTRA_VALUES), read_tensors(component_folder / EXTRA_TENSORS)
    with expected_content(component_folder / EXTRA_VALUES):
        return {key: from_json(spec, tensors) for key, spec in specs.items()}


def _plain_leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested dicts, lists and tuples by dotted path, without tensors."""
    if isinstance(value, dict | list | tuple) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _plain_leaves(item, f"{path}.{key}" if path else str(key))
    elif not isinstance(value, Tensor):
        yield path, value


@contextmanager
def _naming_the_owner(path: str) -> Iterator[None]:
    """Run the body, which reads a state dict. Raises ValueError with `path`, the owner's in the config."""
    try:
        yield
    except Exception as error:  # a component or an optimizer may be the user's code
        reason = str(error) if isinstance(error, ValueError) else raised(error)
        raise ValueError(f"{path}: its state cannot be saved: {reason}") from error


def _restore_strides(component: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the strides of the saved tensors, where those are not the default ones."""
    own = chain(component.named_parameters(remove_duplicate=False), component.named_buffers(remove_duplicate=False))
    for name, tensor in own:
        saved = tensors.get(name)
        if saved is not None and not has_default_strides(saved) and tensor.stride() != saved.stride():
            tensor.data = torch.empty_strided(
                saved.shape, saved.stride(), dtype=tensor.dtype, device=tensor.device
            ).copy_(tensor.data)
