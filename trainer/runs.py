"""A run's directory: a run is started in it, or resumed from it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from optimizer.config import counted, explain, log_imports

from .checkpoint.contents import expected_content, read_progress
from .checkpoint.directory import checkpoint_at
from .checkpoint.names import is_file, write_pointer
from .checkpoint.on_change import with_saved_values
from .checkpoint.save_errors import writing
from .checkpoint.selection import ResumePoint, newest_verified, set_damaged_aside, verified_point
from .checkpoint.upgrades import strings
from .checkpoint.writing import clear_leftovers, recover
from .config.load import load_config
from .config.path_values import absolute_path
from .config.paths import as_text, path_of
from .config.placed import naming_places
from .config.plugins import heading_of_folders
from .config.schema import ExperimentConfig
from .config.yaml_file import read_config_file
from .config.yaml_values import write_yaml
from .distributed.launch import joined
from .distributed.outcomes import by_main
from .distributed.world import World
from .errors import ConfigError, resume_command
from .offline_trainer import OfflineTrainer
from .ownership import is_run_directory, refuse_a_copy, remove_leftovers, remove_run, run_to_overwrite
from .reporting.metrics_file import MetricsFile
from .reporting.plan_table import show_plan
from .run import Result
from .run_layout import CHECKPOINTS, CONFIG, LATEST, METRICS, NOT_UNDERSTOOD, TRAINER
from .run_lock import RunLock, locked
from .runtime.files import DamagedCheckpointError, write_atomically
from .runtime.hub import is_reference
from .runtime.signals import StoppedBySignal
from .runtime.streams import steady_console
from .runtime.terminal import log, printing_once
from .runtime.version import heading, newer

Log = Callable[[str], None]
"""Prints a line."""
_PATIENCE_SECONDS = 10.0
"""How long a restart waits for the processes before it, which may still be ending."""


def train(
    config: ExperimentConfig | Mapping[str, object] | str | Path,
    *,
    overwrite: bool = False,
    or_resume: bool = False,
    console: Console | None = None,
    source: Path | None = None,
) -> Result:
    """Train an experiment from the start, or from where its run is.

    Args:
        config: The experiment, or a mapping or a file that holds it.
        overwrite: Whether a run that is already in the run directory is deleted: its own files, and nothing else.
        or_resume: Whether a run that is already in the run directory is resumed, with `config`: as by `resume`, what is
            fixed in a run must be as in its checkpoint. A run that is done stays as it is.
        console: Where lines are printed; left out, standard output.
        source: The file that `config`, its run directory included, was read from, if it is an ExperimentConfig.

    Raises:
        ConfigError: Something cannot work. Nothing is written then.
        SaveError: A checkpoint or the metrics cannot be written.
        UserCodeError: The user's code fails.
        NonFiniteError: A value is NaN or infinite, by train.on_nonfinite.
        StoppedBySignal: A signal stopped the run; its checkpoint is written.
        PeerError: Another process of the run failed, is gone, or hangs.
    """
    if overwrite and or_resume:
        raise ConfigError("--overwrite deletes the run that --or-resume would continue; use one of the two.")
    if isinstance(config, str | Path) and not is_reference(config):
        source = Path(config)
    config = config if isinstance(config, ExperimentConfig) else load_config(config)
    if overwrite and source is not None:
        refuse_a_copy(source, config.train.run_dir)
    place = World.from_environment()
    with (
        printing_once(place.is_main),
        steady_console(console) as steady,
        joined(place, config.distributed.timeout_seconds) as world,
    ):
        return _train_or_resume(config, overwrite, or_resume, steady, world)


@naming_places
def _train_or_resume(
    config: ExperimentConfig, overwrite: bool, or_resume: bool, console: Console, world: World
) -> Result:
    run_dir = config.train.run_dir
    resumes = world.from_main(world.is_main and _holds_run(run_dir, overwrite, or_resume) and or_resume)
    if not resumes:
        return _train(config, overwrite, console, world)
    with _naming_resume_command(run_dir):
        return _resume(config.in_place(), None, True, world.console(console), world, _PATIENCE_SECONDS)


def _holds_run(run_dir: Path, overwrite: bool, or_resume: bool) -> bool:
    """Return whether a run is in `run_dir`, which will be overwritten or resumed. Raises ConfigError if it cannot."""
    if or_resume and is_run_directory(run_dir):
        return True
    return run_to_overwrite(run_dir, overwrite)


def _train(config: ExperimentConfig, overwrite: bool, console: Console, world: World) -> Result:
    trainer = OfflineTrainer(config, console, world=world)
    run_dir = trainer.config.train.run_dir
    if world.is_main:
        _make_directory(run_dir)
    with _main_lock(world, run_dir, trainer.log) as lock:
        if lock is not None:
            trainer.checkpoints.check_lock = lock.check
            _remove_earlier_run(run_dir, run_to_overwrite(run_dir, overwrite))  # another process may have been quicker
            _write_config(run_dir, trainer.config)
        world.barrier()
        with _naming_resume_command(run_dir):
            _show_plan(trainer)
            return trainer.run()


def resume(
    target: str | Path, overrides: Mapping[str, object] | None = None, *, console: Console | None = None
) -> Result:
    """Resume a run from its newest good checkpoint (from the start, if it has none), or from a given one.

    Args:
        target: The run's directory, or a checkpoint's folder, or checkpoints/latest or checkpoints/best.
        overrides: Values of the config to change, by dotted key.
        console: Where lines are printed; left out, standard output.

    Raises:
        ConfigError: There is no run, or `overrides` change values that are fixed in a run.
        UnreadableError: The system refuses to read a checkpoint now.
        SaveError: A checkpoint or the metrics cannot be written.
        UserCodeError: The user's code fails.
        NonFiniteError: A value is NaN or infinite, by train.on_nonfinite.
        StoppedBySignal: A signal stopped the run; its checkpoint is written.
        PeerError: Another process of the run failed, is gone, or hangs.
    """
    if str(target).startswith("hf:/"):  # a Path has one of the two slashes
        raise ConfigError(
            f"{target}: a run on the hub cannot be resumed. Start from its weights with init_from, or copy its files"
            " into a directory and resume that."
        )
    place = World.from_environment()
    run_dir, folder = _run_and_checkpoint(Path(absolute_path(Path.cwd(), str(target))))
    _refuse_another_directory(run_dir, overrides)
    with printing_once(place.is_main), steady_console(console) as steady, _naming_resume_command(run_dir):
        console = place.console(steady)
        with log_imports(lambda module: log(console, f"{run_dir / CONFIG} imports {module}")):
            config = load_config(run_dir / CONFIG, {**_own_overrides(overrides), "train.run_dir": as_text(run_dir)})
        with joined(place, config.distributed.timeout_seconds) as world:
            return _resume(config, folder, bool(overrides), console, world)


def _resume(
    config: ExperimentConfig,
    folder: Path | None,
    is_changed: bool,
    console: Console,
    world: World,
    patience_seconds: float = 0.0,
) -> Result:
    with _main_lock(world, config.train.run_dir, _logger(console), patience_seconds) as lock:
        trainer = _resumed_trainer(config, folder, console, world)
        if lock is not None:
            trainer.checkpoints.check_lock = lock.check
            _prepare_files(trainer, config if is_changed else None)
        world.barrier()
        _show_plan(trainer)
        total = trainer.horizon.total_steps
        done = ": the run is done" if trainer.step == total else ""
        log(console, f"resuming after {trainer.step} of {counted(total, 'update')}{done}")
        return trainer.run()


def _main_lock(
    world: World, run_dir: Path, log: Log, patience_seconds: float = 0.0
) -> AbstractContextManager[RunLock | None]:
    """Return the lock of a run to hold, which the main process takes for all."""
    return locked(run_dir, log, patience_seconds) if world.is_main else nullcontext()


def _resumed_trainer(config: ExperimentConfig, folder: Path | None, console: Console, world: World) -> OfflineTrainer:
    """Return the trainer of a run, restored from the checkpoint in `folder`, or from the newest good one."""
    run_dir, checkpoints = config.train.run_dir, config.train.run_dir / CHECKPOINTS
    point = _resume_point(run_dir, folder, _logger(console, "red"), world)
    if point.folder is not None and config.resume.on_change == "keep":
        config = _with_saved_values(config, point.folder)
    trainer = OfflineTrainer(config, console, resumed=point.folder is not None, world=world)
    if point.folder is not None:
        trainer.restore(point.folder)
        world.barrier()
        if world.is_main:
            with writing(run_dir):
                set_damaged_aside(point, _logger(console))
                write_pointer(checkpoints, LATEST, point.folder)  # those after it are of another history from now on
        with writing(run_dir):
            trainer.checkpoints.best.write_pointer()
    return trainer


def _resume_point(run_dir: Path, folder: Path | None, log: Log, world: World) -> ResumePoint:
    """Return the checkpoint in `folder`, or the newest good one. All processes take that of the main one."""

    def recovered() -> str | None:
        with writing(run_dir):
            recover(run_dir / CHECKPOINTS)
        return None if folder is None else str(folder)

    chosen = by_main(world, recovered)
    return newest_verified(run_dir, log, world) if chosen is None else verified_point(Path(chosen), log, world)


def _prepare_files(trainer: OfflineTrainer, changed: ExperimentConfig | None) -> None:
    """Bring the files of a run that is resumed to its present step. changed: its config, if the user changed it."""
    run_dir = trainer.config.train.run_dir
    with writing(run_dir):
        if changed is not None:
            # on_change holds for a resume of this resume too, after a kill before its first checkpoint.
            on_change = changed.resume.on_change
            _write_config(run_dir, trainer.config, None if on_change == "keep" else on_change)
        not_ours = MetricsFile(run_dir / METRICS).keep_before(trainer.step)
    if not_ours:
        trainer.log(f"{run_dir / METRICS}: {counted(not_ours, 'line')} not of a run, moved to {NOT_UNDERSTOOD}")
    _remove_leftovers(run_dir, trainer.log)


def _remove_leftovers(run_dir: Path, log: Log) -> None:
    """Remove the leftovers of killed processes, as far as that is possible."""
    try:
        remove_leftovers(run_dir)
        clear_leftovers(run_dir / CHECKPOINTS)
    except OSError as error:
        log(f"{run_dir}: leftovers of a killed process cannot be removed: {error}. The run continues.")


def _refuse_another_directory(run_dir: Path, overrides: Mapping[str, object] | None) -> None:
    other = (overrides or {}).get("train.run_dir")
    path = run_dir if other is None else path_of(str(other))
    if path is None or path.resolve() != run_dir.resolve():
        raise ConfigError(
            f"train.run_dir: cannot change at a resume, which continues where the run is; got {other}, and the run is"
            f" in {run_dir}. To continue elsewhere, copy the directory and resume the copy."
        )


def _own_overrides(overrides: Mapping[str, object] | None) -> dict[str, object]:
    """Return the overrides of a resume, without the on_change of an earlier one."""
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
    raise ConfigError(f"{target}: {_other_than_a_run(target)}")


def _other_than_a_run(target: Path) -> str:
    if target.suffix in (".yaml", ".yml", ".json") and is_file(target):
        return f"{target.name} is a config and not a run.{_resuming(target)} `innerstep train CONFIG` starts one."
    return f"there is no run here (no {CONFIG}). Start one with `innerstep train CONFIG`."


def _resuming(file: Path) -> str:
    """Return the command that resumes the run of a config's file; "" if the file does not name one."""
    with suppress(ConfigError):
        train_section = read_config_file(file).get("train")
        run_dir = train_section.get("run_dir") if isinstance(train_section, dict) else None
        if isinstance(run_dir, str):
            run = file.parent / (path_of(run_dir) or run_dir)
            here = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
            return f" Its run is continued by `{resume_command(here)}`."
    return ""


@naming_places
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


def _make_directory(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {run_dir}: {error.strerror}") from error


def _remove_earlier_run(run_dir: Path, holds_a_run: bool) -> None:
    """Remove the run that is being overwritten, and the leftovers of killed processes."""
    try:
        if holds_a_run:
            remove_run(run_dir)
        remove_leftovers(run_dir)
    except OSError as error:
        raise ConfigError(f"train.run_dir: {run_dir} cannot be deleted: {error}") from error


def _write_config(run_dir: Path, config: ExperimentConfig, on_change: str | None = None) -> None:
    """Write the config with every default filled in, so that it means the same under later versions."""
    resolved = config.resolved() | {"resume": {"on_change": on_change}}
    try:
        folders = heading_of_folders(strings(resolved), run_dir)
        write_atomically(run_dir / CONFIG, heading() + folders + write_yaml(resolved))
    except OSError as error:
        raise ConfigError(f"train.run_dir: cannot write to {run_dir}: {error.strerror}") from error


@contextmanager
def _naming_resume_command(run_dir: Path) -> Iterator[None]:
    """Run the body, in which there is a run. If it is interrupted, KeyboardInterrupt names the way to continue."""
    try:
        yield
    except StoppedBySignal:
        raise
    except KeyboardInterrupt as error:  # with a message, unless a signal raised it
        message = str(error) or f"interrupted; `{resume_command(run_dir)}` continues the run"
        raise KeyboardInterrupt(message) from None


def _show_plan(trainer: OfflineTrainer) -> None:
    if trainer.world.is_main:
        show_plan(trainer.console, trainer.plan())


def _logger(console: Console, style: str | None = None) -> Log:
    return lambda text: log(console, text, style)
