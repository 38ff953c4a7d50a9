"""`load_run`: the components and the policy of a trained run, ready to use."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from optimizer.config import listed

from .checkpoint.concurrent_reading import read_checkpoint
from .checkpoint.contents import averaged_components, load_component, read_averages, read_progress
from .checkpoint.directory import verify
from .checkpoint.health import shorten_names
from .checkpoint.names import is_file
from .checkpoint.own_state import load_objective
from .checkpoint.restore import restore_components
from .checkpoint.selection import nonfinite_tensors
from .config.load import load_config
from .config.paths import as_text
from .config.placed import naming_places
from .config.schema import ExperimentConfig
from .errors import ConfigError
from .interfaces.objective import Objective
from .interfaces.policy import Actor, Policy
from .run_layout import BEST, CHECKPOINTS, CONFIG, LATEST, TRAINER, WEIGHTS
from .runtime.devices import device_named
from .runtime.files import DamagedCheckpointError, opened_tensors
from .runtime.hub import at_commit, is_reference, local_folder, without_code
from .runtime.rng import separate_rng
from .setup.components import build_components, move


@dataclass(frozen=True)
class LoadedRun:
    """A trained run, as `load_run` returns it."""

    config: ExperimentConfig
    checkpoint: Path
    """The folder of the checkpoint that was loaded."""
    step: int
    """Updates done at the checkpoint."""
    components: nn.ModuleDict
    """The components by name: in eval mode, at averaged weights where the run averages them, without gradients."""
    objective: Objective
    """The run's objective with its saved state. Its `prepare` was not called: the data set was not built."""

    @property
    def policy(self) -> Policy:
        """The objective as a policy.

        Raises:
            ConfigError: It is not one.
        """
        if not isinstance(self.objective, Policy):
            key = self.config.train.objective.type
            raise ConfigError(
                f"train.objective.type: must be a policy to act, such as behaviour_cloning; got {key!r}. `innerstep"
                " list` shows the keys."
            )
        return self.objective

    def actor(self) -> Actor:
        """Return a new actor, which has no memory of observations yet. Its actions are in the units of the data.

        Raises:
            ConfigError: The objective is not a policy.
        """
        return self.policy.actor(self.components)


def load_run(
    run: str | Path,
    checkpoint: str | Path = LATEST,
    *,
    device: str = "cpu",
    overrides: Mapping[str, object] | None = None,
    allow_plugins: bool = False,
) -> LoadedRun:
    """Load the components and the objective of a trained run. The data set is not needed, and nothing is written.

    The run may be training. The modules that its config names are imported, as by `resume`; within
    `with no_plugins():` that is an error, and for a run on the hub unless `allow_plugins` is true. Random numbers are
    left as they are.

    Args:
        run: The run's directory, or hf://ORG/NAME[@REVISION] of a repository with a run.
        checkpoint: `latest`, `best`, or the folder of a checkpoint.
        device: Where the components are: `cpu`, `cuda`, `cuda:1`; auto: the current CUDA device if any, else the CPU.
        overrides: Values of the config to change, by dotted key: `{"train.objective.params.n_action_steps": 4}`.
        allow_plugins: Whether a run on the hub may import the modules that its config names.

    Raises:
        ConfigError: There is no run or no such checkpoint, it is damaged, or it does not fit the config's classes.
        UnreadableError: The system refuses to read a file.
    """
    with without_code(run, allow_plugins):
        config = config_of_run(run, overrides or {}, allow_plugins)
        return load_checkpoint(config, checkpoint, device_named(device, "device"))


def config_of_run(run: str | Path, overrides: Mapping[str, object], allow_plugins: bool = False) -> ExperimentConfig:
    """Return the config of a run, with the directory that the run is in now. A run on the hub is downloaded.

    Raises:
        ConfigError: There is no run, or `overrides` do not fit, or the config of a run on the hub names modules.
    """
    on_hub = is_reference(run)
    run_dir = local_folder(run, "run") if is_reference(run) else Path(run).absolute()
    if not is_file(run_dir / CONFIG):
        hint = (
            " To load a checkpoint of a run: load_run(RUN, checkpoint=PATH), or RUN --checkpoint PATH."
            if CHECKPOINTS in run_dir.parts
            else ""
        )
        raise ConfigError(f"{run}: there is no run here (no {CONFIG}).{hint}")
    source = at_commit(str(run), run_dir) if on_hub else run_dir / CONFIG
    return load_config(source, {**overrides, "train.run_dir": as_text(run_dir)}, allow_plugins=allow_plugins)


@naming_places
def load_checkpoint(config: ExperimentConfig, checkpoint: str | Path, device: torch.device) -> LoadedRun:
    """Return the run that `config` describes at one of its checkpoints, as `load_run` does."""
    with separate_rng(config.seed):
        components, _ = build_components(config.model, config.seed, load_initial_weights=False, log=lambda _: None)
        objective: Objective = config.train.objective.make("train.objective")
    path = checkpoint_path(checkpoint, config.train.run_dir, config.train.keep_best is not None)
    try:
        folder, step = read_checkpoint(path, lambda found: _load(found, components, objective, device))
    except DamagedCheckpointError as error:
        raise ConfigError(
            f"damaged checkpoint: {error}\n`innerstep checkpoint verify {config.train.run_dir}` shows which ones are"
            " whole."
        ) from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    components.requires_grad_(False).eval()
    return LoadedRun(config, folder, step, components, objective)


def checkpoint_path(checkpoint: str | Path, run_dir: Path, keeps_best: bool) -> Path:
    """Return the path that leads to a checkpoint of the run in `run_dir`: `latest`, `best`, or the folder of one.

    Raises:
        ConfigError: The run has no best checkpoint.
    """
    if checkpoint == LATEST:
        return run_dir
    if checkpoint != BEST:
        return Path(checkpoint)
    best = run_dir / CHECKPOINTS / BEST
    if not is_file(best):
        reason = "no evaluation has chosen one" if keeps_best else "train.keep_best is not set"
        raise ConfigError(f"checkpoint: {run_dir} has no best checkpoint: {reason}. Take latest.")
    return best


def _load(folder: Path, components: nn.ModuleDict, objective: Objective, device: torch.device) -> tuple[Path, int]:
    """Load the checkpoint in `folder`; return the folder and the updates done.

    Raises:
        ValueError: The checkpoint is damaged or does not fit.
    """
    manifest = verify(folder)
    if TRAINER not in manifest["files"]:
        there = sorted({name.partition("/")[0] for name in manifest["files"]})
        raise ConfigError(f"{folder}: holds single components of a run: {listed(there)}. Give it as init_from of each.")
    if names := nonfinite_tensors(folder, manifest):
        warnings.warn(f"{folder}: not finite: {shorten_names(names)}", UserWarning, stacklevel=4)
    for name, component in components.items():
        _give_shapes(component, folder / name / WEIGHTS)
    try:
        restore_components(folder, components, {}, {}, [], None, lambda _: None)
        for name in averaged_components(manifest):
            if name in components:
                load_component(folder / name, components[name], read_averages(folder / name))
        move(objective, components, device)
        load_objective(folder, objective, components, device)
    except DamagedCheckpointError:
        raise
    except ValueError as error:
        raise ConfigError(f"{error}{_preparation_hint(objective)}") from error
    return folder, read_progress(folder).step


def _give_shapes(component: nn.Module, weights: Path) -> None:
    """Give the parameters and buffers of lazy modules the shapes that they have in a file of weights."""
    lazy = {
        name: tensor
        for name, tensor in chain(component.named_parameters(), component.named_buffers())
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
    }
    if not lazy or not is_file(weights):
        return
    with opened_tensors(weights) as file:
        for name in lazy.keys() & set(file.keys()):
            lazy[name].materialize(tuple(file.get_slice(name).get_shape()))


def _preparation_hint(objective: Objective) -> str:
    """Return sentences on the objective's `prepare`, if it has one, which may be why a checkpoint does not fit."""
    if type(objective).prepare is Objective.prepare:
        return ""
    return (
        f"\nThe prepare of {type(objective).__name__} is not called here. If it changes components, or makes what"
        " load_state_dict needs, do that in constructors and in load_state_dict instead."
    )
