"""A run's directory: starting one, and taking one up again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from rich.console import Console

from optimizer.validation import explain
from trainer.checkpoint import TRAINER, expected_content, read_progress
from trainer.checkpoint_files import (
    LATEST,
    MANIFEST,
    checkpoint_at,
    clear_leftovers,
    complete_checkpoints,
    point,
    verify,
)
from trainer.config import ExperimentConfig, load_config
from trainer.config_file import read_config_file, write_yaml
from trainer.disk import DamagedCheckpointError, aside_of, write_atomically
from trainer.errors import ConfigError
from trainer.lock import LOCK, locked
from trainer.metrics import METRICS, MetricsFile
from trainer.offline_trainer import OfflineTrainer, Result
from trainer.restoring import with_saved_values
from trainer.saving import writing
from trainer.version import heading, newer

CONFIG = "config.yaml"


def train(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Result:
    """Train the experiment of a config, or of a mapping or file that holds one, from the start.

    overwrite: whether a run that is in the run directory already is deleted.
    Raises ConfigError, before anything is written, for whatever cannot work.
    """
    console = console or Console()
    config = config if isinstance(config, ExperimentConfig) else load_config(config)
    old_run = _run_to_overwrite(config.train.run_dir, overwrite)
    trainer = OfflineTrainer(config, console)
    _make(config.train.run_dir)
    with locked(config.train.run_dir):
        if old_run is not None:
            _remove(old_run)
        _write_config(config)
        _show(console, trainer.plan())
        return trainer.run()


def resume(target: str | Path, overrides: Mapping[str, Any] | None = None, *, console: Console | None = None) -> Result:
    """Take up a run from its newest good checkpoint (from the start, if it has none), or from a given one.

    target: the run's directory, or one of its checkpoints' folders, or its checkpoints/latest or checkpoints/best.
    Raises ConfigError if there is no run, or `overrides` change what cannot change in a run.
    """
    console = console or Console()
    run_dir, folder = _run_and_checkpoint(Path(target))
    config = load_config(run_dir / CONFIG, {**_for_now(overrides), "train.run_dir": str(run_dir)})
    with locked(run_dir):
        trainer = _taken_up(config, folder, console)
        with writing(run_dir):
            if overrides:
                # on_change holds for a resume of this resume too, after a kill before its first checkpoint.
                on_change = config.resume.on_change
                _write_config(trainer.config, None if on_change == "keep" else on_change)
            MetricsFile(run_dir / METRICS).keep_before(trainer.step)
        _show(console, trainer.plan())
        _show(console, f"resuming after {trainer.step} of {trainer.horizon.total_steps} updates")
        return trainer.run()


def _taken_up(config: ExperimentConfig, folder: Path | None, console: Console) -> OfflineTrainer:
    """Return the trainer of a run where the checkpoint in `folder`, or the newest good one, stands."""
    run_dir = config.train.run_dir
    with writing(run_dir):
        clear_leftovers(run_dir / "checkpoints")
    folder = _newest_good_checkpoint(run_dir, console) if folder is None else _good(folder)
    if folder is not None and config.resume.on_change == "keep":
        config = _with_saved_values(config, folder)
    trainer = OfflineTrainer(config, console, resumed=folder is not None)
    if folder is not None:
        trainer.restore(folder)
        with writing(run_dir):
            point(folder.parent, LATEST, folder)  # those after it are of another history from now on
            trainer.saving.point_best()
    return trainer


def _for_now(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the overrides of a resume, for which an on_change of an earlier one does not hold."""
    return {"resume.on_change": None, **overrides} if overrides else {}


def _run_and_checkpoint(target: Path) -> tuple[Path, Path | None]:
    """Return the directory of the run that `target` names, and its checkpoint if it names one."""
    if (target / CONFIG).is_file():
        return target, None
    try:
        folder = checkpoint_at(target.absolute())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if folder is not None and (folder / MANIFEST).is_file() and (folder.parent.parent / CONFIG).is_file():
        return folder.parent.parent, folder
    raise ConfigError(f"{target}: there is no run here (no {CONFIG}). Start one with `innerstep train CONFIG`.")


def _good(folder: Path) -> Path:
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        run = folder.parent.parent
        raise ConfigError(
            f"damaged checkpoint: {error}\n`innerstep resume {run}` takes the newest good one."
        ) from error
    return folder


def _with_saved_values(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    try:
        saved, trusted = read_progress(folder).values, read_config_file(folder.parent.parent / CONFIG)
        with expected_content(folder / TRAINER):
            try:
                return with_saved_values(config, saved, trusted)
            except ValidationError as error:
                lines = [*explain(error), *filter(None, [newer(saved["provenance"].get("innerstep"))])]
                raise ConfigError(f"resume.on_change=keep: {'; '.join(lines)}") from error
    except DamagedCheckpointError as error:
        raise ConfigError(str(error)) from error


def _run_to_overwrite(run_dir: Path, overwrite: bool) -> Path | None:
    """Return the run to delete first, if there is one. Raises ConfigError if it may not be deleted."""
    if not run_dir.exists():
        return None
    if run_dir.is_dir() and all(path in (run_dir / LOCK, aside_of(run_dir / CONFIG)) for path in run_dir.iterdir()):
        return None  # at most a process killed while it wrote the config
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"train.run_dir: {run_dir} exists and is not a run. Choose another, or remove it.")
    if not overwrite:
        raise ConfigError(
            f"train.run_dir: {run_dir} holds a run already. Take it up with `innerstep resume {run_dir}`,"
            " choose another --train.run_dir, or delete it with --overwrite."
        )
    return run_dir


def _make(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {run_dir}: {error.strerror}") from error


def _remove(run_dir: Path) -> None:
    """Remove what is in a run's directory; the directory may be a link, or a place to mount something."""
    try:
        for path in sorted(run_dir.iterdir(), key=lambda path: path.name == CONFIG):  # last: until then it is a run
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"train.run_dir: {run_dir} cannot be deleted: {error}") from error


def _write_config(config: ExperimentConfig, on_change: str | None = None) -> None:
    """Write the config with every default filled in, so that it means the same under later versions."""
    resolved = config.model_dump(mode="json") | {"resume": {"on_change": on_change}}
    for name, optim in config.model.component_optims.items():
        factory: Any = optim.factory
        if isinstance(factory, BaseModel):
            resolved["model"]["component_optims"][name]["params"] = factory.model_dump(mode="json")
    try:
        write_atomically(config.train.run_dir / CONFIG, heading() + write_yaml(resolved))
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {config.train.run_dir}: {error.strerror}") from error


def _newest_good_checkpoint(run_dir: Path, console: Console) -> Path | None:
    folders = complete_checkpoints(run_dir / "checkpoints")
    for folder in folders:
        try:
            verify(folder)
        except DamagedCheckpointError as error:
            console.print(f"damaged checkpoint: {error}", style="red", markup=False, soft_wrap=True)
        else:
            return folder
    if folders:
        raise ConfigError(
            f"{run_dir}: every checkpoint is damaged, as said above. Bring one back from a copy, or start the run"
            " over with `innerstep train`."
        )
    return None


def _show(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
