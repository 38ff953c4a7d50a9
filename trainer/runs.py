"""A run's directory: starting one, and taking one up again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from rich.console import Console

from optimizer.config import announcing, counted, explain

from .checkpoint.contents import expected_content, read_progress
from .checkpoint.directory import checkpoint_at
from .checkpoint.names import is_file, write_pointer
from .checkpoint.on_change import with_saved_values
from .checkpoint.save_errors import writing
from .checkpoint.selection import Log, newest_verified, set_damaged_aside, verified_point
from .checkpoint.upgrades import strings
from .checkpoint.writing import clear_leftovers, recover
from .config.load import load_config
from .config.paths import as_text, path_of
from .config.plugins import heading_of_folders
from .config.schema import ExperimentConfig
from .config.yaml_file import read_config_file
from .config.yaml_values import write_yaml
from .errors import ConfigError, resume_command
from .offline_trainer import OfflineTrainer, Result
from .ownership import refuse_a_copy, remove_leftovers, remove_run, run_to_overwrite
from .reporting.metrics_file import MetricsFile
from .run_layout import CHECKPOINTS, CONFIG, LATEST, METRICS, NOT_UNDERSTOOD, TRAINER
from .run_lock import locked
from .runtime.files import DamagedCheckpointError, write_atomically
from .runtime.signals import StoppedBySignal
from .runtime.streams import steady
from .runtime.terminal import log, show
from .runtime.version import heading, newer


def train(
    config: ExperimentConfig | Mapping[str, Any] | str | Path,
    *,
    overwrite: bool = False,
    console: Console | None = None,
    source: Path | None = None,
) -> Result:
    """Train the experiment of a config, or of a mapping or file that holds one, from the start.

    overwrite: whether a run that is in the run directory already is deleted: its own files, and nothing else.
    source: the file that the config, its run directory included, was read from, if it is given as a config.
    Raises ConfigError, before anything is written, for whatever cannot work.
    """
    with steady(console) as steady_console:
        return _train(config, overwrite, steady_console, source)


def _train(
    config: ExperimentConfig | Mapping[str, Any] | str | Path, overwrite: bool, console: Console, source: Path | None
) -> Result:
    source = Path(config) if isinstance(config, str | Path) else source
    config = config if isinstance(config, ExperimentConfig) else load_config(config)
    run_dir = config.train.run_dir
    if overwrite and source is not None:
        refuse_a_copy(source, run_dir)
    run_to_overwrite(run_dir, overwrite)
    trainer = OfflineTrainer(config, console)
    run_dir = trainer.config.train.run_dir
    _make(run_dir)
    with locked(run_dir, _say(console)) as lock:
        trainer.saving.check_lock = lock.check
        _clear(run_dir, run_to_overwrite(run_dir, overwrite))  # another process may have been quicker
        _write_config(run_dir, config)
        with _resumable(run_dir):
            show(console, trainer.plan())
            return trainer.run()


def resume(target: str | Path, overrides: Mapping[str, Any] | None = None, *, console: Console | None = None) -> Result:
    """Take up a run from its newest good checkpoint (from the start, if it has none), or from a given one.

    target: the run's directory, or one of its checkpoints' folders, or its checkpoints/latest or checkpoints/best.
    Raises ConfigError if there is no run, or `overrides` change what cannot change in a run.
    """
    run_dir, folder = _run_and_checkpoint(Path(target).absolute())
    _refuse_another_directory(run_dir, overrides)
    with steady(console) as console, _resumable(run_dir), locked(run_dir, _say(console)) as lock:
        with announcing(lambda module: log(console, f"{run_dir / CONFIG} imports {module}")):
            config = load_config(run_dir / CONFIG, {**_for_now(overrides), "train.run_dir": as_text(run_dir)})
        trainer = _taken_up(config, folder, console)
        trainer.saving.check_lock = lock.check
        with writing(run_dir):
            if overrides:
                # on_change holds for a resume of this resume too, after a kill before its first checkpoint.
                on_change = config.resume.on_change
                _write_config(run_dir, trainer.config, None if on_change == "keep" else on_change)
            not_ours = MetricsFile(run_dir / METRICS).keep_before(trainer.step)
        if not_ours:
            log(console, f"{run_dir / METRICS}: {counted(not_ours, 'line')} not of a run, moved to {NOT_UNDERSTOOD}")
        _tidy(run_dir, _say(console))
        show(console, trainer.plan())
        log(console, f"resuming after {trainer.step} of {counted(trainer.horizon.total_steps, 'update')}")
        return trainer.run()


def _taken_up(config: ExperimentConfig, folder: Path | None, console: Console) -> OfflineTrainer:
    """Return the trainer of a run where the checkpoint in `folder`, or the newest good one, stands."""
    run_dir, checkpoints, log = config.train.run_dir, config.train.run_dir / CHECKPOINTS, _say(console, "red")
    with writing(run_dir):
        recover(checkpoints)
    choice = newest_verified(run_dir, log) if folder is None else verified_point(folder, log)
    if choice.folder is not None and config.resume.on_change == "keep":
        config = _with_saved_values(config, choice.folder)
    trainer = OfflineTrainer(config, console, resumed=choice.folder is not None)
    if choice.folder is not None:
        trainer.restore(choice.folder)
        with writing(run_dir):
            set_damaged_aside(choice, _say(console))
            write_pointer(checkpoints, LATEST, choice.folder)  # those after it are of another history from now on
            trainer.saving.best.write_pointer()
    return trainer


def _tidy(run_dir: Path, log: Log) -> None:
    """Remove what killed processes left, as far as that is possible."""
    try:
        remove_leftovers(run_dir)
        clear_leftovers(run_dir / CHECKPOINTS)
    except OSError as error:
        log(f"{run_dir}: what a killed process left there cannot be removed: {error}. The run continues.")


def _refuse_another_directory(run_dir: Path, overrides: Mapping[str, Any] | None) -> None:
    other = (overrides or {}).get("train.run_dir")
    path = run_dir if other is None else path_of(str(other))
    if path is None or path.resolve() != run_dir.resolve():
        raise ConfigError(
            f"train.run_dir: cannot change at a resume, which continues where the run is; got {other}, and the run is"
            f" in {run_dir}. To continue elsewhere, copy the directory and resume the copy."
        )


def _for_now(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the overrides of a resume, for which an on_change of an earlier one does not hold."""
    return {"resume.on_change": None, **overrides} if overrides else {}


def _run_and_checkpoint(target: Path) -> tuple[Path, Path | None]:
    """Return the directory of the run that `target` names, and its checkpoint if it names one."""
    if is_file(target / CONFIG):
        return target, None
    try:
        folder = checkpoint_at(target)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if folder is not None and is_file(folder.parent.parent / CONFIG):
        return folder.parent.parent, folder
    raise ConfigError(f"{target}: there is no run here (no {CONFIG}). Start one with `innerstep train CONFIG`.")


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


def _make(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {run_dir}: {error.strerror}") from error


def _clear(run_dir: Path, holds_a_run: bool) -> None:
    """Remove the run that is to be overwritten, and what a process left that was killed."""
    try:
        if holds_a_run:
            remove_run(run_dir)
        remove_leftovers(run_dir)
    except OSError as error:
        raise ConfigError(f"train.run_dir: {run_dir} cannot be deleted: {error}") from error


def _write_config(run_dir: Path, config: ExperimentConfig, on_change: str | None = None) -> None:
    """Write the config with every default filled in, so that it means the same under later versions."""
    resolved = config.model_dump(mode="json") | {"resume": {"on_change": on_change}}
    for name, optim in config.model.component_optims.items():
        factory: Any = optim.factory
        if isinstance(factory, BaseModel):
            resolved["model"]["component_optims"][name]["params"] = factory.model_dump(mode="json")
    try:
        folders = heading_of_folders(strings(resolved), run_dir)
        write_atomically(run_dir / CONFIG, heading() + folders + write_yaml(resolved))
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {run_dir}: {error.strerror}") from error


@contextmanager
def _resumable(run_dir: Path) -> Iterator[None]:
    """Run the body, in which there is a run. Raises KeyboardInterrupt, if it is interrupted, with the way to go on."""
    try:
        yield
    except StoppedBySignal:
        raise
    except KeyboardInterrupt as error:  # which has a message if it is no signal's
        told = str(error) or f"interrupted; `{resume_command(run_dir)}` continues the run"
        raise KeyboardInterrupt(told) from None


def _say(console: Console, style: str | None = None) -> Log:
    return lambda text: log(console, text, style)
