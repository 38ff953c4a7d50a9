"""Places in which the values of a config stand: a line of a file, or an option on the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str, ...]
"""The keys that lead to a value; an item of a list goes by its index, as text."""


@dataclass(frozen=True)
class Place:
    """Where a value stands."""

    source: str
    """The file as the user named it, or the option: `--train.lr`."""
    line: int | None = None
    """From 1; None: `source` is an option."""
    column: int | None = None
    """From 1, in characters."""
    written: str | None = field(default=None, compare=False)
    """The number that stands here, as it is written (`1_000`); None: another value, or it is not known."""

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


Places = Mapping[Path, Place]
"""The place of each key, by its path: that of the key in a mapping, that of the item in a list."""


def place_of(places: Places, path: Path) -> Place | None:
    """Return the place of a value, or of the nearest value around it that has one; None: there is none."""
    for end in range(len(path), -1, -1):
        if path[:end] in places:
            return places[path[:end]]
    return None
