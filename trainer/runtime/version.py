"""The version of innerstep that wrote a run, and the remedy if it is a newer one."""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RUN_FORMAT = 1
_HEADING = re.compile(r"# innerstep (\S+), run format \d+\s*$")


def innerstep_version() -> str:
    """Return the version of the installed distribution; "unknown" where innerstep runs from bare source files."""
    try:
        return version("innerstep")
    except PackageNotFoundError:
        return "unknown"


def heading() -> str:
    """Return the first line of a run's config.yaml, by which a run is recognised."""
    return f"# innerstep {innerstep_version()}, run format {RUN_FORMAT}\n"


def writer_version(config_file: Path) -> str | None:
    """Return the version in the first line of a run's config.yaml; None if there is none."""
    if not os.path.isfile(config_file):  # a pipe, which cannot be read twice
        return None
    try:
        with config_file.open(encoding="utf-8") as file:
            found = _HEADING.match(file.readline(200))
    except (OSError, ValueError):
        return None
    return found[1] if found else None


def newer(writer: object) -> str | None:
    """Return the remedy for a file that `writer` wrote, if that is a newer version than this one; else None.

    Args:
        writer: A version as it was found in a file. Any other value counts as old.
    """
    own = _release(innerstep_version())
    writers = _release(writer)
    if own is None or writers is None or writers <= own:
        return None
    return (
        f"It was written by a newer innerstep ({writer}; this is {innerstep_version()}): upgrade with"
        f" `pip install 'innerstep>={writer}'`, or remove what this version does not know."
    )


def _release(text: object) -> tuple[int, ...] | None:
    """Return the numbers of a version: (0, 1, 0) of "0.1.0" and "0.1.0rc1"."""
    found = re.match(r"\d{1,9}(\.\d{1,9}){0,9}", text) if isinstance(text, str) else None
    numbers = [int(number) for number in found[0].split(".")] if found else None
    while numbers and numbers[-1] == 0:  # 1.0 is 1
        numbers.pop()
    return None if numbers is None else tuple(numbers)
