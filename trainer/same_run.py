"""Comparisons of the processes of a run: before the first update, and at each checkpoint."""

import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import xxhash
from torch import nn
from torch.optim import Optimizer

from optimizer.config import counted
from optimizer.kernels import uncompiled_reason
from optimizer.state import is_sharded
from optimizer.transforms import quick_norms
from optimizer.types import HasSchedule

from .checkpoint.fingerprint import leaves
from .checkpoint.provenance import data_fingerprint, implementations, is_alike, unread_splits
from .config.schema import ExperimentConfig
from .distributed.comparison import differences
from .distributed.world import World
from .errors import ConfigError, UnsavableError
from .interfaces.component import config_paths
from .interfaces.dataset import DataSet
from .run import Run
from .runtime.files import checksum_of_tensors
from .runtime.version import innerstep_version

_REMEDY = "Start each process with the same command, files and versions."
_APART = "the processes of a run must take the same steps, or their weights come apart in the last bits. They differ:"
_PIN = (
    "Give each host the same C compiler (cc, or CC), or set params.implementation of these components to one that all"
    " have: fused, or blocks for cautious and schedule-free steps."
)


def check_same_run(world: World, config: ExperimentConfig, data: DataSet, components: nn.ModuleDict) -> None:
    """Check that all processes have the same config, code, length of the data, and weights.

    Args:
        world: The place of this process.
        config: The run's.
        data: The run's.
        components: By name, whole and with the weights that training starts at.

    Raises:
        ConfigError: A process differs. The message names it and each difference.
    """
    if world.is_alone:
        return
    paths = config_paths(components)
    lengths = {name: len(split) for name in ("train", "held_out") if (split := getattr(data, name)) is not None}
    values = {
        **leaves(config.resolved()),
        **{f"version of {name}": version for name, version in _versions().items()},
        **{f"plugins: the content of {name}": _source_checksum(name) for name in config.plugins},
        "train.device, as it was found": world.device.type,
        **{f"data: samples in {name}": length for name, length in lengths.items()},
        **{f"{paths[name]}: checksum of its weights": weights_checksum(part) for name, part in components.items()},
    }
    _refuse(differences(world, values))


def check_same_data(world: World, data: DataSet, fingerprint: Mapping[str, Any], seed: int) -> None:
    """Check that the data of all processes have the same content, as far as their fingerprint shows it.

    A split whose samples one of them cannot read now is left out: the run meets that error when it needs them.

    Args:
        world: The place of this process.
        data: The run's.
        fingerprint: That of `data`.
        seed: The run's.

    Raises:
        ConfigError: A process differs.
    """
    unread = {name for names in world.gather(unread_splits(fingerprint)) for name in names}
    compared = {name: found for name, found in fingerprint.items() if name not in unread}
    values = {f"data: fingerprint of {path}": value for path, value in leaves(compared).items()}
    lines = differences(world, values, is_alike)
    if lines and not world.any(not is_alike(data_fingerprint(data, seed), fingerprint)):
        _refuse(lines)  # else the data draw other random numbers each time


def check_same_steps(world: World, optimizers: Mapping[str, Optimizer]) -> None:
    """Check that the same implementation takes the steps of a component in all processes: others round otherwise.

    Args:
        world: The place of this process.
        optimizers: The run's, by component.

    Raises:
        ConfigError: A process differs. The message names it, and why it compiles no steps.
    """
    lines = differences(world, _steps(optimizers) if world.is_alone else _steps(optimizers) | _norms(optimizers))
    if lines:
        reasons = {reason for optimizer in optimizers.values() if (reason := uncompiled_reason(optimizer))}
        gathered = world.gather([world.name, sorted(reasons)])
        lines += [f"{name}: compiling a step failed: {reason}" for name, found in gathered for reason in found]
        raise ConfigError("\n".join([_APART, *lines, _PIN]))


def check_same_state(run: Run, values: Mapping[str, Any]) -> None:
    """Check that all processes are at the same place with the same state, of which a checkpoint holds one.

    Args:
        run: The run.
        values: The plain values of the run in a checkpoint.

    Raises:
        UnsavableError: A process differs. The message names it and each difference.
    """
    if run.world.is_alone:
        return
    paths = config_paths(run.components)
    trained = {name: run.components[name] for name in run.optimizers}
    values = {
        "updates done": run.step,
        **leaves({name: of for name, of in values.items() if name not in ("config", "provenance")}),
        **{path: value for name, optimizer in run.optimizers.items() for path, value in _positions(name, optimizer)},
        **_steps(run.optimizers),
        **{f"{paths[name]}: checksum of its weights": weights_checksum(part) for name, part in trained.items()},
        **{f"{path}: checksum of its state": checksum for path, checksum in run.own_state.checksums().items()},
    }
    if lines := differences(run.world, values):
        place = f"after {counted(run.step, 'update')}, which cannot be saved"
        raise UnsavableError("\n".join([f"{place}: the processes of the run have come apart:", *lines]))


def weights_checksum(component: nn.Module) -> str:
    """Return a checksum of the parameters of a component that each process has whole."""
    return checksum_of_tensors(
        {name: tensor for name, tensor in component.named_parameters() if not is_sharded(tensor)}
    )


def _steps(optimizers: Mapping[str, Optimizer]) -> dict[str, str]:
    found = implementations(optimizers)
    return {f"model.component_optims.{name}: implementation of its steps": shown for name, shown in found.items()}


def _norms(optimizers: Mapping[str, Optimizer]) -> dict[str, str]:
    """Return how the norm of each optimizer's gradients is computed, by path."""
    found = {}
    for name, optimizer in optimizers.items():
        like = torch.zeros(1, dtype=optimizer.param_groups[0]["params"][0].dtype)
        is_compiled = quick_norms([optimizer], [[like]]) != [None]
        found[f"model.component_optims.{name}: norm of its gradients"] = "compiled" if is_compiled else "PyTorch's"
    return found


def _positions(name: str, optimizer: Optimizer) -> Iterator[tuple[str, object]]:
    """Yield the lr of an optimizer, and the state of its schedule, by path."""
    path = f"model.component_optims.{name}"
    yield f"{path}: lr", [float(group["lr"]) for group in optimizer.param_groups]
    if isinstance(optimizer, HasSchedule):
        state = {key: value for key, value in optimizer.scheduler.state_dict().items() if key != "config"}
        yield from leaves(state, f"{path}: schedule").items()


def _refuse(lines: list[str]) -> None:
    if lines:
        raise ConfigError("\n".join(["the processes of a run must be alike, and differ:", *lines, _REMEDY]))


def _versions() -> dict[str, str]:
    return {
        "innerstep": innerstep_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "python": platform.python_version(),
    }


def _source_checksum(module: str) -> str | None:
    """Return a checksum of the file of an imported module; None if there is no such file."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return None if path is None else xxhash.xxh3_64_hexdigest(Path(path).read_bytes())
