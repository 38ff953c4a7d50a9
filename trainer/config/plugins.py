"""Plugins: the modules that a config names, and the folders that they are looked for in."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from optimizer.config import (
    UNKNOWN_KEY,
    NotImportedError,
    filtered,
    folders_of_modules,
    load_module,
    refusal,
    refuse_under_no_plugins,
)

_HEADING = "# modules are looked for in "
_EXTRAS = {
    "gymnasium": "sim",
    "metaworld": "sim",
    "lerobot": "lerobot",
    "minari": "minari",
    "huggingface_hub": "hub",
    "pyarrow": "robot",
    "av": "robot",
    "matplotlib": "plot",
}
"""The extra that installs a package. A plugin may import packages that innerstep itself imports only where it can."""
_LINES = 5
"""Lines at the start of a run's config.yaml that are read for its heading."""


def search_folders(config_file: Path) -> list[Path]:
    """Return the folders in which the modules of a config are looked for.

    They are its folder, the folders in which the config that started the run found them, and last the working
    directory. A config in a pipe has no folder.
    """
    if not config_file.is_file():
        return working_directory()
    beside = Path(os.path.abspath(config_file)).parent
    folders = [beside, config_file.resolve().parent, *_folders_in_heading(config_file), *working_directory()]
    return list(dict.fromkeys(folder for folder in folders if os.path.isdir(folder)))  # also if it cannot be asked


def working_directory() -> list[Path]:
    """Return the working directory; nothing if it was deleted."""
    with suppress(OSError):
        return [Path.cwd()]
    return []


def heading_of_folders(names: Iterator[str], run_dir: Path) -> str:
    """Return the line of a run's config.yaml that lists the folders of its modules; "" if there are none.

    Each folder is listed twice: relative to the run directory, which holds if both are moved or copied, and as an
    absolute path, which holds if only the run is.

    Args:
        names: All text in the config.
        run_dir: The run directory.
    """
    folders = folders_of_modules(names)
    if not folders:
        return ""
    seen_from_run = []
    for folder in folders:
        with suppress(ValueError):  # on another drive
            seen_from_run.append(os.path.relpath(folder, run_dir.absolute()))
    return f"{_HEADING}{json.dumps(list(dict.fromkeys([*seen_from_run, *map(str, folders)])))}\n"


def import_plugins(plugins: Sequence[str]) -> None:
    """Import the modules, which register classes.

    Raises:
        ValidationError: One cannot be imported. The path is its index.
    """
    try:
        refuse_under_no_plugins(*plugins)
    except NotImportedError as error:
        raise refusal(str(error)) from error
    for index, module in enumerate(plugins):
        try:
            load_module(module)
        except NotImportedError as error:
            raise refusal(f"{error}{_extra_to_install(error)}", (index,), module) from error


def without_consequences(error: ValidationError) -> ValidationError:
    """Return `error` without the errors that follow from a plugin that fails.

    These are unknown keys, which it would have registered, and dotted paths into it.
    """
    failed = [str(detail["input"]) for detail in error.errors() if detail["loc"][:1] == ("plugins",)]
    if not failed:
        return error
    return filtered(
        error, lambda detail: detail["type"] != UNKNOWN_KEY or not _may_follow(str(detail["input"]), failed)
    )


def _extra_to_install(error: NotImportedError) -> str:
    """Return the remedy if a package of one of innerstep's extras is missing; "" otherwise."""
    cause = error.__cause__
    package = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    return f". Run: pip install 'innerstep[{_EXTRAS[package]}]'" if package in _EXTRAS else ""


def _may_follow(key: str, failed: Sequence[str]) -> bool:
    return "." not in key or any(key.startswith(f"{module.partition('.')[0]}.") for module in failed)


def _folders_in_heading(config_file: Path) -> list[Path]:
    """Return the folders in the heading of a run's config.yaml."""
    try:
        with config_file.open(encoding="utf-8") as file:
            lines = [file.readline(100_000) for _ in range(_LINES)]
        heading = next((line for line in lines if line.startswith(_HEADING)), _HEADING + "[]")
        folders = json.loads(heading.removeprefix(_HEADING))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(folders, list):
        return []
    run_dir = os.path.abspath(config_file.parent)
    texts = [folder for folder in folders if isinstance(folder, str) and folder and "\0" not in folder]
    return [Path(os.path.normpath(os.path.join(run_dir, text))) for text in texts]
