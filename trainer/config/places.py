"""Places in which the values of a config stand: a line of a file, or an option on the command line."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from optimizer.config import shown_name

Path = tuple[str, ...]
"""The keys that lead to a value; an item of a list goes by its index, as text."""


@dataclass(frozen=True)
class Place:
    """Where a value stands."""

    source: str
    """The file as the user named it, or the option: `--train.lr`; empty: a Python program."""
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


@dataclass(frozen=True)
class Origin:
    """Where the values of a config come from. Two are equal: where values stand makes no other config."""

    places: Places = field(default_factory=dict, compare=False)


def with_places(message: str, places: Places, sections: Collection[str]) -> str:
    """Return a message in which each line that begins with the path of a value has the value's place in front.

    If the place is an option of the same name, it stands for both.

    Args:
        message: Lines such as `train.run_dir: must not be empty`.
        places: Those of the config's values.
        sections: The keys that a config can have at its top level. A line that begins with another word stays, unless
            the config has this key.
    """
    if not places:
        return message
    by_text = {".".join(map(shown_name, path)): place for path, place in places.items()}
    heads = {shown_name(path[0]) for path in places if path} | set(sections)
    return "\n".join(_with_place(line, by_text, heads) for line in message.split("\n"))


def _with_place(line: str, by_text: Mapping[str, Place], heads: Collection[str]) -> str:
    ends = [found.start() for found in re.finditer(": ", line)]
    path = next((line[:end] for end in ends if line[:end] in by_text), line[: ends[0]] if ends else "")
    if not ends or (path not in by_text and path.partition(".")[0] not in heads):
        return line
    place = by_text.get(path) or next((inner for text, inner in by_text.items() if text.startswith(f"{path}.")), None)
    while place is None and path:
        path = path.rpartition(".")[0]
        place = by_text.get(path)
    if place is None or not place.source:
        return line
    return f"--{line}" if line.startswith(f"{place}: ".removeprefix("--")) else f"{place}: {line}"
