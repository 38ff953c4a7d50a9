"""Completion by a shell: keys, fields of the config and runs. Nothing here imports torch."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import shorten

from ..run_layout import CHECKPOINTS, CONFIG

NAMES = Path(__file__).parent / "names.tsv"
"""All keys and fields: kind, name and meaning a line. `make config-fields` writes it."""
FIELD = "field"
_CURVES = ("optimizer", "schedule")
_MEANING = 60
"""Characters of a meaning: a shell takes the second line of a longer one for another name."""
_DEPTH = 3
"""Folders below the typed one in which runs are looked for."""
_FOLDERS = 1000
"""Folders that are looked at, at most."""

Item = tuple[str, str]
"""Text that may stand on the command line, and its meaning."""


def described_names(incomplete: str) -> list[Item]:
    """Return the keys, and the fields of the config, that begin with `incomplete`."""
    return _matching(incomplete, ())


def drawn_keys(incomplete: str) -> list[Item]:
    """Return the keys that can be drawn; nothing if none fits, so that the shell completes files."""
    return _matching(incomplete, _CURVES)


def overrides(incomplete: str) -> list[Item]:
    """Return the options for fields of the config that begin with `incomplete`, as in `--train.device`."""
    fields = _matching(incomplete.removeprefix("--"), (FIELD,))
    return [(f"--{name}", meaning) for name, meaning in fields if "." in name or name in ("seed", "plugins")]


def fields() -> list[str]:
    """Return the paths of the config's fields."""
    return [name for name, _ in _matching("", (FIELD,))]


def checkpoints(incomplete: str) -> list[str]:
    """Return the names of checkpoints that every run has."""
    return [name for name in ("latest", "best") if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Return the runs in the folder that `incomplete` begins to name, and in the folders there."""
    base, _, beginning = incomplete.rpartition("/")
    start = Path(f"{base}/" if base or incomplete.startswith("/") else ".")
    found = sorted(_runs_below(start, f"{beginning}*", _DEPTH, [_FOLDERS]))
    prefix = "" if base or incomplete.startswith(("/", "./")) else "./"
    return [str(path).removeprefix(prefix) for path in found]


def _runs_below(folder: Path, pattern: str, depth: int, left: list[int]) -> Iterator[Path]:
    """Yield the runs in a folder whose names match, and those below them.

    Args:
        folder: The folder.
        pattern: Of the names in it.
        depth: Folders in each other.
        left: One number: how many folders may still be looked at.
    """
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and fnmatchcase(path.name, pattern)]
    except OSError:  # it is not there, or must not be read
        return
    for path in inner:
        left[0] -= 1
        if left[0] < 0 or path.name.startswith("."):
            continue
        if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir():
            yield path
        elif depth > 1:
            yield from _runs_below(path, "*", depth - 1, left)


def _matching(beginning: str, kinds: Sequence[str]) -> list[Item]:
    """Return names of these kinds, or of all kinds, that begin with a text in any case of letters."""
    found: dict[str, str] = {}
    for line in NAMES.read_text(encoding="utf-8").splitlines():
        kind, name, meaning = line.split("\t")
        if name.lower().startswith(beginning.lower()) and (not kinds or kind in kinds):
            found.setdefault(name, shorten(meaning, _MEANING, placeholder="…"))
    return [*found.items()]
