"""The folder that an export is written into: whole or not at all."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from optimizer.config import listed
from optimizer.state import flush, private_folder

from ..errors import ConfigError, OutputError


def check_output(out: Path, run: Path, files: Sequence[str], overwrite: bool) -> None:
    """Check that the folder `out` can be written.

    Args:
        out: A folder that is not there, or empty.
        run: The run's directory, in which nothing is written.
        files: Names of the files of an export, with `*`.
        overwrite: Whether to replace a folder that holds such files and no others.

    Raises:
        ConfigError: It cannot.
    """
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"OUT: there is no directory {out.parent}. Make it first.")
    inside = out.resolve()
    if inside.is_relative_to(run.resolve()) or run.resolve().is_relative_to(inside):
        raise ConfigError(f"OUT: must not be the run, in it, or around it; got {out}. Name a folder outside {run}.")
    if Path.cwd().is_relative_to(inside):
        raise ConfigError(f"OUT: must not be the working directory, or around it; got {out}. Name a new folder in it.")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise ConfigError(f"OUT: {out} is not a folder. Choose another name.")
    there = sorted(path.name for path in out.iterdir())
    foreign = [name for name in there if not any(fnmatchcase(name, pattern) for pattern in files)]
    if there and not overwrite:
        raise ConfigError(f"OUT: {out} is there already. Choose another folder, or replace it with --overwrite.")
    if foreign:
        raise ConfigError(
            f"OUT: {out} holds more than an export: {listed(foreign)}. --overwrite replaces folders of an export only;"
            " choose another folder."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield the path of a new folder to fill. It replaces `out` if the body ends without an error.

    Raises:
        OutputError: The system refuses to write it; `out` is as before.
    """
    try:
        with private_folder(out.absolute().parent) as private:
            aside, before = private / out.name, private / "before"
            aside.mkdir()
            yield aside
            for path in [*aside.rglob("*"), aside]:
                flush(path)
            if out.is_dir():
                out.replace(before)
            try:
                aside.replace(out)
            except OSError:
                if before.is_dir():
                    before.replace(out)
                raise
        flush(out.absolute().parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
