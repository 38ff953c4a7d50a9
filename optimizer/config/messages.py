"""Text from files and users, as a message shows it: without control characters, and of a limited length."""

import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from unicodedata import category

LONGEST = 200
"""The most characters of a name or value in a message."""
MOST = 50
"""The most names of a list in a message, and the most mistakes of a config."""
_COMPARED = 1000
"""The most names, each of at most LONGEST characters, that an unknown one is compared with."""
_LINES, _LAST_LINES = 60, 10
_CHARACTERS, _LAST_CHARACTERS = 8000, 1500
"""The most lines and characters of a whole message, and those of its end, where the remedy is."""


def shown(text: object, longest: int = LONGEST) -> str:
    """Return a name or another piece of text as one line of at most `longest` characters, and the count of the rest.

    Line breaks and other characters without a glyph are shown as escapes (\\n, \\x1b, \\u202e).
    """
    whole = str(text)
    cut = whole[:longest]
    if not cut.isprintable():
        cut = "".join(map(_visible_character, cut))
    return cut if len(whole) <= longest else f"{cut}… ({len(whole):,} characters)"


def shown_name(part: object) -> str:
    """Return a key or an index as it stands in a path: in quotes if it is empty, or holds a dot or a colon."""
    text = shown(part)
    return text if text and "." not in text and ": " not in text else f"'{text}'"


def shown_value(value: object) -> str:
    """Return the `repr` of `value`, cut so that time and length do not depend on its size."""
    return shown(_BRIEF.repr(value), 2 * LONGEST)


def listed(names: Sequence[object], most: int = MOST) -> str:
    """Return the first `most` names, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(shown, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def counted(number: int, noun: str, text: str | None = None) -> str:
    """Return a number and a noun, in the plural unless the number is 1. text: the number as shown."""
    return f"{number if text is None else text} {noun}" + ("" if number == 1 else "s")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of a sentence that suggests the nearest of `known`: '; did you mean …?', or '.'."""
    if len(name) > LONGEST:
        return "."
    by_folded = {candidate.lower(): candidate for candidate in islice(known, _COMPARED)}
    close = get_close_matches(name.lower(), list(by_folded), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(shown_value(by_folded[match]) for match in close)}?" if close else "."


def message_of(error: BaseException) -> str:
    """Return the message of an error whose `__str__` may itself fail."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as second:  # the class of the error may be the user's
        return f"without a message, as its own fails: {type(second).__name__}"


def joined(problems: Sequence[str]) -> str:
    """Return the first problems of a list as one line, and how many more there are."""
    more = len(problems) - MOST
    return "; ".join(problems[:MOST]) + (f"; and {more:,} more" if more > 0 else "")


def as_table(differing: Mapping[str, tuple[object, object]]) -> str:
    """Return one line with each name, its saved value and its present value."""
    rows = [
        f"{shown(name)}: saved {shown_value(saved)}, now {shown_value(now)}" for name, (saved, now) in differing.items()
    ]
    return joined(rows)


def visible(text: str) -> str:
    """Return `text` with every character without a glyph as an escape, but for line breaks and tabs."""
    if text.isprintable():
        return text
    return "\n".join(
        line if line.isprintable() else "".join(c if c == "\t" else _visible_character(c) for c in line)
        for line in text.split("\n")
    )


def bounded(text: str) -> str:
    """Return a message that is not too long unchanged, else its beginning, the count of the rest, and its end."""
    lines = text.split("\n")
    if len(lines) > _LINES:
        head = _LINES - _LAST_LINES
        more = len(lines) - head - _LAST_LINES
        left_out = f"… {counted(more, 'more line', f'{more:,}')} …"
        text = "\n".join([*lines[:head], left_out, *lines[-_LAST_LINES:]])
    if len(text) > _CHARACTERS:
        head = _CHARACTERS - _LAST_CHARACTERS
        left_out = f" … {len(text) - _CHARACTERS:,} more characters … "
        text = text[:head] + left_out + text[-_LAST_CHARACTERS:]
    return text


def _visible_character(character: str) -> str:
    if character.isprintable() or category(character) == "Zs":  # spaces of other widths
        return character
    return character.encode("unicode_escape").decode()


class _Brief(reprlib.Repr):
    """`repr` of the first items of a container, in its order, and of the beginning of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 6
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 20
        self.maxother = self.maxlong = 2 * LONGEST

    def repr_str(self, text: str, level: int) -> str:
        return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}… ({len(text):,} characters)"

    def repr_dict(self, values: dict[object, object], level: int) -> str:
        if values and level <= 0:
            return "{…}"
        pairs = islice(values.items(), self.maxdict)
        items = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in pairs]
        more = [f"… {len(values) - self.maxdict:,} more"] if len(values) > self.maxdict else []
        return "{" + ", ".join([*items, *more]) + "}"

    def repr_int(self, number: int, level: int) -> str:
        if number.bit_length() > 1000:  # Python refuses to print thousands of digits
            return f"a whole number of {number.bit_length():,} bits"
        return repr(number)

    def repr_instance(self, value: object, level: int) -> str:
        try:
            text = repr(value)
        except Exception:  # the class may be the user's
            return object.__repr__(value)
        return text if len(text) <= self.maxother else text[: self.maxother] + "…"


_BRIEF = _Brief()
