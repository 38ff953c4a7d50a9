"""Which files in a directory a run wrote, recognised by content that only a run writes. No other file is removed."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from optimizer.config import listed
from optimizer.state import ASIDE

from .checkpoint.directory import foreign_files, read_manifest
from .checkpoint.names import STEP
from .checkpoint.writing import DAMAGED, LEFTOVERS
from .config.paths import path_of
from .config.yaml_file import read_config_file
from .errors import ConfigError, UnreadableError, resume_command
from .reporting.event_files import EVENT_FILE
from .reporting.metrics_file import looks_like_metrics
from .reporting.run_plots import PICTURES
from .reporting.wandb_files import names_of, written_run
from .run_layout import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    LATEST,
    LOCK,
    MANIFEST,
    METRICS,
    NOT_UNDERSTOOD,
    REPORT,
    ROLLOUTS,
    SECTIONS,
    TENSORBOARD,
    TIMELINE,
    VIDEOS,
    WANDB,
    WANDB_RUN,
)
from .runtime.files import DamagedCheckpointError, remove_all, remove_whole, unreadable

_REMOVED = ".removed-"
_FILES = {CONFIG, METRICS, NOT_UNDERSTOOD, TIMELINE, REPORT, LOCK, ROLLOUTS, WANDB_RUN, *PICTURES}
_EARLIER_NAMES = {f".{name}.new" for name in (CONFIG, METRICS)} | {f".{name}" for name in PICTURES}
"""The names of files being written, in versions before this one."""

_LITTER = re.compile(r"\.DS_Store|\._.*|\.nfs.*|\.fuse_hidden.*|Thumbs\.db|desktop\.ini|\.directory|\.localized")
"""Files of file managers and network disks, which may be anywhere: they are accepted, and not removed."""

_STEP_OR_DAMAGED = re.compile(rf"{STEP.pattern}|{DAMAGED}{STEP.pattern}(-[0-9]+)?")
_VIDEO = re.compile(r"episode_[0-9]+\.mp4")
_SHOWN = 5


def run_to_overwrite(run_dir: Path, overwrite: bool) -> bool:
    """Return whether there is a run in `run_dir` whose files must be removed first.

    Raises:
        ConfigError: There is a run and `overwrite` is false, or there are other files, or it is a directory in which
            nothing may be removed.
        UnreadableError: The directory cannot be read.
    """
    if _is_free(run_dir):
        return False
    if not is_run_directory(run_dir):
        raise ConfigError(f"train.run_dir: {run_dir} exists and is not a run. Choose another directory.")
    if not overwrite:
        raise ConfigError(
            f"train.run_dir: {run_dir} holds a run already. Continue it with `{resume_command(run_dir)}`,"
            " choose another --train.run_dir, or delete it with --overwrite."
        )
    _refuse_place(run_dir)
    foreign = list(_foreign_paths(run_dir))
    if foreign:
        raise ConfigError(
            f"train.run_dir: {run_dir} holds what the run did not write: {listed(foreign, _SHOWN)}."
            " --overwrite removes a run's own files only. Move these away, or choose another --train.run_dir."
        )
    return True


def refuse_a_copy(config_file: Path, run_dir: Path) -> None:
    """Refuse to overwrite a directory that only the config of a copied run names.

    Args:
        config_file: The file that the user starts a run from.
        run_dir: The run directory of the config, overrides included: one that the user gives is meant.

    Raises:
        ConfigError: `config_file` is that of a run which was copied or moved, and names another directory.
    """
    folder = config_file.parent
    if config_file.name != CONFIG or not is_run_directory(folder):
        return
    written = read_config_file(config_file)["train"].get("run_dir")
    if not isinstance(written, str) or path_of(written) != run_dir or run_dir.resolve() == folder.resolve():
        return
    raise ConfigError(
        f"train.run_dir: {config_file} is the config of the run in {folder}, and names another directory, {run_dir}:"
        f" the run was copied or moved. Nothing in {run_dir} is removed. To overwrite the run in {folder}, add"
        f" --train.run_dir={folder}; to overwrite the other one, --train.run_dir={run_dir.resolve()}."
    )


def is_run_directory(run_dir: Path) -> bool:
    """Return whether a run wrote the config in `run_dir` and began there, so that its files may be removed.

    For reading, a folder of checkpoints is enough: `checkpoint.directory.is_run`.

    Raises:
        UnreadableError: The directory cannot be read.
    """
    names = _list_names(run_dir)
    if CONFIG not in names:
        return False
    try:
        config = read_config_file(run_dir / CONFIG)
    except ConfigError:
        return False
    if not config.keys() >= set(SECTIONS) or not isinstance(config["train"], dict) or "run_dir" not in config["train"]:
        return False
    began = LOCK in names or any(_is_leftover(name) for name in names)
    return began or _has_checkpoints(run_dir) or (METRICS in names and _has_metrics(run_dir))


def remove_run(run_dir: Path) -> None:
    """Remove the files of the run in `run_dir`, the config last: until then it is a run. Targets of links stay.

    Raises:
        OSError: A file cannot be removed.
    """
    checkpoints = run_dir / CHECKPOINTS
    if checkpoints.is_dir() and not checkpoints.is_symlink():
        names = [name for name in _list_names(checkpoints) if _belongs_to_checkpoints(name)]
        _remove(checkpoints, sorted(names, key=lambda name: name != LATEST))  # it would name a missing checkpoint
        with suppress(OSError):  # litter is in it, or it is a place to mount something
            checkpoints.rmdir()
    elif checkpoints.is_symlink():
        checkpoints.unlink()
    for name, own in _folders(run_dir).items():
        if _is_real_folder(folder := run_dir / name):
            _remove(folder, [inside for inside in _list_names(folder) if own.fullmatch(inside) or _is_leftover(inside)])
            with suppress(OSError):
                folder.rmdir()
    _remove(run_dir, [name for name in _list_names(run_dir) if (name in _FILES and name not in (LOCK, CONFIG))])
    remove_leftovers(run_dir)
    (run_dir / CONFIG).unlink()


def remove_leftovers(run_dir: Path) -> None:
    """Remove the leftovers of killed processes in a run's directory.

    Raises:
        OSError: The first failure, after all were tried.
    """
    remove_all([run_dir / name for name in _list_names(run_dir) if _is_leftover(name)])


def _is_free(run_dir: Path) -> bool:
    """Return whether a run may begin in `run_dir`: at most a process was killed there before its config was written."""
    names = [name for name in _list_names(run_dir) if not _LITTER.fullmatch(name)]
    empty = CHECKPOINTS in names and not any(True for _ in _foreign_paths(run_dir)) and not _step_names(run_dir)
    return all(_is_leftover(name) or name == LOCK or (name == CHECKPOINTS and empty) for name in names)


def _remove(folder: Path, names: list[str]) -> None:
    if names:
        remove_whole([folder / name for name in names], _REMOVED)


def _refuse_place(run_dir: Path) -> None:
    """Raise ConfigError if `run_dir` is or contains a directory in which a user lives or works."""
    places = {"the root directory": Path("/")}
    with suppress(OSError):
        places["the working directory"] = Path.cwd()
    with suppress(OSError, RuntimeError):
        places["the home directory"] = Path.home()
    here = run_dir.resolve()
    for name, place in places.items():
        if place.resolve().is_relative_to(here):
            raise ConfigError(
                f"train.run_dir: {run_dir} is or contains {name}; nothing is removed there. Choose another, or start"
                " the command from elsewhere."
            )


def _foreign_paths(run_dir: Path) -> Iterator[str]:
    """Yield the paths, relative to `run_dir`, of files that a run did not write."""
    folders = _folders(run_dir)
    for name in _list_names(run_dir):
        path = run_dir / name
        if name == CHECKPOINTS:
            if path.is_dir() and not path.is_symlink():
                yield from (f"{CHECKPOINTS}/{inside}" for inside in _foreign_checkpoints(path))
        elif name in folders and _is_real_folder(path):
            for inside in _list_names(path):
                if not (folders[name].fullmatch(inside) or _is_leftover(inside) or _LITTER.fullmatch(inside)):
                    yield f"{name}/{inside}"
        elif not (_is_leftover(name) or _LITTER.fullmatch(name) or (name in _FILES and not _is_real_folder(path))):
            yield name


def _foreign_checkpoints(checkpoints: Path) -> Iterator[str]:
    for name in _list_names(checkpoints):
        path = checkpoints / name
        if _is_step(name):
            if not path.is_symlink():
                yield from (f"{name}/{inside}" for inside in _foreign_to_checkpoint(path)) if path.is_dir() else (name,)
        elif not (_belongs_to_checkpoints(name) or _LITTER.fullmatch(name)):
            yield name


def _foreign_to_checkpoint(folder: Path) -> list[str]:
    """Return the files in a checkpoint's folder, damaged or not, that are not part of the checkpoint."""
    try:
        found = foreign_files(folder, read_manifest(folder))
    except (DamagedCheckpointError, ConfigError):  # a newer one may have files of other names
        inside = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        found = [path.relative_to(folder).as_posix() for path in inside if path.suffix not in (".json", ".safetensors")]
    return [name for name in found if not _LITTER.fullmatch(Path(name).name)]


def _folders(run_dir: Path) -> dict[str, re.Pattern[str]]:
    """Return the folders beside the checkpoints that a run writes, with the names in them that are its own."""
    try:
        wandb_run = written_run(run_dir)
    except UnreadableError:
        wandb_run = None
    ids = () if wandb_run is None else (wandb_run.id, *wandb_run.earlier)
    return {VIDEOS: _VIDEO, TENSORBOARD: EVENT_FILE, WANDB: names_of(ids)}


def _has_checkpoints(run_dir: Path) -> bool:
    return any(os.path.lexists(run_dir / CHECKPOINTS / name / MANIFEST) for name in _step_names(run_dir))


def _step_names(run_dir: Path) -> list[str]:
    folder = run_dir / CHECKPOINTS
    return [name for name in _list_names(folder) if _is_step(name)] if folder.is_dir() else []


def _has_metrics(run_dir: Path) -> bool:
    path = run_dir / METRICS
    try:
        return path.is_file() and looks_like_metrics(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _belongs_to_checkpoints(name: str) -> bool:
    return name in (LATEST, BEST) or _is_step(name) or name.startswith(LEFTOVERS)


def _is_step(name: str) -> bool:
    return _STEP_OR_DAMAGED.fullmatch(name) is not None


def _is_leftover(name: str) -> bool:
    return name.startswith((ASIDE, _REMOVED)) or name in _EARLIER_NAMES


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _list_names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is missing. Raises ConfigError if it is a file, UnreadableError."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        problem = "exists and is not a run" if os.path.lexists(folder) else "would be in a file"
        raise ConfigError(f"train.run_dir: {folder} {problem}. Choose another directory.") from error
    except OSError as error:
        raise unreadable(folder, error) from error
