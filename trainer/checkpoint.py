"""What a checkpoint holds: each component's weights and optimizer, and the trainer's own state."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer import NamedState, load_named_state, named_state
from optimizer.named_state import compare_shapes
from optimizer.state_files import independent
from trainer.checkpoint_files import DamagedCheckpointError, read_json
from trainer.rng import RngState, rng_state

WEIGHTS = "model.safetensors"
OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_VALUES = "optimizer.json"
TRAINER = "trainer.json"
RNG_TENSORS = "rng.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run stands, besides weights and optimizers. Everything in `values` is plain.

    step: updates done. values: position in the data, scaler, horizon, component table.
    """

    step: int
    values: dict[str, Any]


def save(folder: Path, components: nn.ModuleDict, optimizers: Mapping[str, Optimizer], progress: Progress) -> None:
    """Write everything that a resume needs into `folder`. Schedule-free optimizers are to be in eval mode."""
    for name, component in components.items():
        (folder / name).mkdir()
        save_file(independent(component.state_dict()), folder / name / WEIGHTS)
        if name in optimizers:
            state = named_state(optimizers[name])
            save_file(independent(state.tensors), folder / name / OPTIMIZER_TENSORS)
            _write_json(folder / name / OPTIMIZER_VALUES, state.values)
    rng_tensors, rng_values = rng_state()
    save_file(rng_tensors, folder / RNG_TENSORS)
    names = {"tensors": sorted(rng_tensors), **rng_values}
    _write_json(folder / TRAINER, {"step": progress.step, **progress.values, "rng": names})


def load(folder: Path, components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> RngState:
    """Load weights and optimizers from `folder`; return the generators' state, to be set last.

    Raises ValueError, naming what is missing, extra or mis-shaped, if `folder` does not fit.
    """
    for name, component in components.items():
        load_weights(folder / name, component)
        if name in optimizers:
            tensors = _read_tensors(folder / name / OPTIMIZER_TENSORS)
            values = read_json(folder / name / OPTIMIZER_VALUES)
            try:
                load_named_state(optimizers[name], NamedState(tensors, values))
            except ValueError as error:
                raise ValueError(f"{folder / name}: {error}") from error
    return _read_tensors(folder / RNG_TENSORS), read_progress(folder).values["rng"]


def read_progress(folder: Path) -> Progress:
    """Return the trainer's own state. Raises DamagedCheckpointError."""
    values = read_json(folder / TRAINER)
    return Progress(values.pop("step"), values)


def load_weights(component_folder: str | Path, component: nn.Module) -> None:
    """Load the weights in a component's checkpoint folder into `component`.

    Raises ValueError, naming everything that does not fit, before anything is changed.
    """
    path = Path(component_folder) / WEIGHTS
    tensors = _read_tensors(path)
    own = {name: list(tensor.shape) for name, tensor in component.state_dict().items()}
    if problems := compare_shapes({name: list(tensor.shape) for name, tensor in tensors.items()}, own):
        raise ValueError(f"{path}: the weights do not fit: {'; '.join(problems)}")
    component.load_state_dict(tensors)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error}") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
