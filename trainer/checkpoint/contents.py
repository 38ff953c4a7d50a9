"""What a checkpoint holds: each component's weights and optimizer, and the trainer's own state."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

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
    without_sharing,
)

from ..errors import raised
from ..run_layout import EXTRA_TENSORS, EXTRA_VALUES, OPTIMIZER_TENSORS, OPTIMIZER_VALUES, RNG_TENSORS, TRAINER, WEIGHTS
from ..runtime.files import DamagedCheckpointError, read_json, read_tensors
from ..runtime.rng import RngState, rng_state
from .savable import check_savable


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides weights and optimizers. Everything in `values` is plain.

    step: updates done. values: position in the data, scaler, horizon, component table.
    """

    step: int
    values: dict[str, Any]


def contents(
    components: nn.ModuleDict, optimizers: Mapping[str, Optimizer], progress: Progress
) -> dict[str, dict[str, Any]]:
    """Return everything that a resume needs, as files by path; the tensors are the run's own, not copies.

    Schedule-free optimizers must be in eval mode. Raises ValueError, with a line for each tensor and value that
    cannot be saved.
    """
    files: dict[str, dict[str, Any]] = {}
    for name, component in components.items():
        with _saving(f"model.components.{name}"):
            files |= {f"{name}/{file}": content for file, content in _component_files(component).items()}
        if name in optimizers:
            with _saving(f"model.component_optims.{name}"):
                state = named_state(optimizers[name])
            files[f"{name}/{OPTIMIZER_TENSORS}"] = state.tensors
            files[f"{name}/{OPTIMIZER_VALUES}"] = state.values
    rng_tensors, rng_values = rng_state()
    files[RNG_TENSORS] = rng_tensors
    names = {"tensors": sorted(rng_tensors), **rng_values}
    files[TRAINER] = {"step": progress.step, **progress.values, "rng": names}
    check_savable(files)
    tensor_files = (OPTIMIZER_TENSORS, WEIGHTS, EXTRA_TENSORS)
    return {
        path: without_sharing(content) if path.endswith(tensor_files) else content for path, content in files.items()
    }


def read_rng(folder: Path) -> RngState:
    """Return the state of the random number generators. Raises DamagedCheckpointError."""
    return read_tensors(folder / RNG_TENSORS), read_progress(folder).values["rng"]


def read_progress(folder: Path) -> Progress:
    """Return the trainer's own state. Raises DamagedCheckpointError."""
    values = read_json(folder / TRAINER)
    with expected_content(folder / TRAINER):
        step = values.pop("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"step is {shown_value(step)}")
        for name in ("data", "horizon", "components", "config", "scaler", "rng"):
            if not isinstance(values[name], dict):
                raise ValueError(f"{name} is no object")
        if not all(isinstance(fields, dict) for fields in values["config"]["model"]["component_optims"].values()):
            raise ValueError("component_optims is no table of objects")
        if not isinstance(values.setdefault("provenance", {}), dict):
            raise ValueError("provenance is not a table")
        best = values.setdefault("best", {})
        if best and (type(best["step"]) is not int or not isinstance(best["value"], float | int)):
            raise ValueError(f"best is {shown_value(best)}")
        if not isinstance(best, dict):
            raise ValueError("best is no object")
        return Progress(step, values)


def read_optimizer(component_folder: Path) -> NamedState:
    """Return the optimizer's state in a component's folder. Raises DamagedCheckpointError."""
    tensors = read_tensors(component_folder / OPTIMIZER_TENSORS)
    return NamedState(tensors, read_json(component_folder / OPTIMIZER_VALUES))


def load_weights(component_folder: Path, component: nn.Module) -> None:
    """Load the weights in a component's folder into `component`.

    Raises ValueError, naming everything that does not fit, before anything is changed.
    """
    path = component_folder / WEIGHTS
    tensors, extra = read_tensors(path), _read_extra(component_folder)
    state = component.state_dict()
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    problems = compare_shapes(shapes_by_name(tensors), shapes_by_name(own))
    if extra.keys() != state.keys() - own.keys():
        here = ", ".join(sorted(state.keys() - own.keys())) or "nothing"
        problems.append(f"{EXTRA_VALUES} has {', '.join(sorted(extra)) or 'nothing'}, and the component {here}")
    problems += [
        f"{name} is {tensor.dtype}, here {own[name].dtype}"
        for name, tensor in tensors.items()
        if name in own and tensor.dtype != own[name].dtype
    ]
    if problems:
        raise ValueError(f"{path}: the weights do not fit: {joined(problems)}")
    try:
        component.load_state_dict({**tensors, **extra})
    except Exception as error:  # its hooks are the user's code, which may raise anything
        raise ValueError(f"{path}: the component cannot load its weights: {raised(error)}") from error
    _lay_out(component, tensors)


def weights_files(components: nn.ModuleDict) -> dict[str, dict[str, Tensor]]:
    """Return the tensors in the weights file of each component; they are the component's own."""
    return {f"{name}/{WEIGHTS}": _component_files(component)[WEIGHTS] for name, component in components.items()}


def _component_files(component: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what the folder of a component holds of its state dict."""
    state, nested = component.state_dict(), dict[str, Tensor]()
    extra = {key: to_json(value, key, nested) for key, value in state.items() if not isinstance(value, Tensor)}
    files = {WEIGHTS: {key: value for key, value in state.items() if isinstance(value, Tensor)}}
    return {**files, EXTRA_VALUES: extra, EXTRA_TENSORS: nested} if extra else files


def _read_extra(component_folder: Path) -> dict[str, Any]:
    if not (component_folder / EXTRA_VALUES).is_file():
        return {}
    specs, tensors = read_json(component_folder / EXTRA_VALUES), read_tensors(component_folder / EXTRA_TENSORS)
    with expected_content(component_folder / EXTRA_VALUES):
        return {key: from_json(spec, tensors) for key, spec in specs.items()}


@contextmanager
def _saving(path: str) -> Iterator[None]:
    """Run the body, which asks a part for its state. Raises ValueError with `path` and what failed."""
    try:
        yield
    except Exception as error:  # a component or an optimizer may be the user's code
        reason = str(error) if isinstance(error, ValueError) else raised(error)
        raise ValueError(f"{path}: its state cannot be saved: {reason}") from error


def _lay_out(component: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the strides of the saved tensors, where those are not the usual ones."""
    own = chain(component.named_parameters(remove_duplicate=False), component.named_buffers(remove_duplicate=False))
    for name, tensor in own:
        saved = tensors.get(name)
        if saved is not None and not has_default_strides(saved) and tensor.stride() != saved.stride():
            tensor.data = torch.empty_strided(
                saved.shape, saved.stride(), dtype=tensor.dtype, device=tensor.device
            ).copy_(tensor.data)


def load_optimizer(component_folder: Path, optimizer: Optimizer, own_options: bool = False) -> None:
    """Load the optimizer's state in a component's folder into `optimizer`.

    own_options: whether `optimizer` keeps its own lr, betas and so on. Raises ValueError for what does not fit.
    """
    state = read_optimizer(component_folder)
    with expected_content(component_folder / OPTIMIZER_VALUES):
        load_named_state(optimizer, state, own_options)


@contextmanager
def expected_content(path: Path) -> Iterator[None]:
    """Run the body, in which what was read from `path` is used; whatever it stumbles over, say that it is the file's.

    Raises DamagedCheckpointError.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ArithmeticError) as error:
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DamagedCheckpointError(f"{path}: {what}") from error
