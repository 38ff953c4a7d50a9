"""Tables, counts, sizes and durations as text. A number is never broken."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

GAP = "  "
"""Between two columns, and between two entries of a line."""
_BREAK = re.compile(r"(?<![↗↘]) (?!\()")
"""Where text may continue in the next line: neither after an arrow nor before a parenthesis."""


def align_columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return a line for each row, in columns. right: the columns that are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    return [GAP.join(row).rstrip() for row in cells]


def fit_columns(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the widths of the columns of a table that is `width` wide, or None if words would have to be broken.

    The first row has the headings, which are not folded. Other cells may have several lines. The widest columns become
    narrower first.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    least = [max(len(head), *(len(word) for cell in cells for word in _words(cell))) for head, *cells in columns]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        loose = [index for index, (now, end) in enumerate(zip(widths, least, strict=True)) if now > end]
        if not loose:
            return None
        widths[max(loose, key=lambda index: widths[index])] -= 1
        excess -= 1
    return widths


def fold(text: str, width: int) -> list[str]:
    """Return text in lines of at most `width`, or longer ones where a word is longer."""
    return [line for part in text.split("\n") for line in wrap_entries(_words(part), width, " ")]


def wrap_entries(entries: Iterable[str], width: int | None, gap: str = GAP) -> list[str]:
    """Return entries in lines of at most `width`; none is broken. None: all are in one line."""
    lines: list[str] = []
    for entry in entries:
        if lines and (width is None or len(lines[-1]) + len(gap) + len(entry) <= width):
            lines[-1] += gap + entry
        else:
            lines.append(entry)
    return lines


def fit_lines(text: str, width: int | None) -> str:
    """Return text in which the entries of a line that is longer than `width` continue in the next ones.

    An entry that is longer itself continues after a space. None: nothing is wrapped.
    """
    if width is None:
        return text
    parts = (part for line in text.split("\n") for part in wrap_entries(line.split(GAP), width))
    return "\n".join(line for part in parts for line in (fold(part, width) if len(part) > width else [part]))


def named_values(rows: Iterable[tuple[str, Sequence[str]]], width: int | None) -> Iterator[tuple[str, str]]:
    """Yield lines as the name, in a column, and the values, which are wrapped to `width`; None: are not.

    A name whose values are wrapped stands in the first line alone.
    """
    given = [(name, values) for name, values in rows if values]
    indent = max((len(name) for name, _ in given), default=0) + len(GAP)
    for name, values in given:
        parts = [f"{value}," for value in values[:-1]] + [values[-1]]
        for index, line in enumerate(wrap_entries(parts, None if width is None else max(1, width - indent), " ")):
            yield ("" if index else name).ljust(indent), line


def count(number: int) -> str:
    """Return a number in three or four digits and a unit: 101.6 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def size(size_bytes: int) -> str:
    """Return a size in decimal units: 101.6 kB."""
    return f"{count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes} B"


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds: 1:04:09; from two days on with the days."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days = f"{hours // 24} days " if hours >= 48 else ""
    return f"{days}{hours % 24 if days else hours}:{minutes:02}:{rest:02}"


def number(value: float) -> str:
    """Return a measured value in about five characters: 0.1234, 12.34, 3.2e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 4 if abs(value) < 10 else 2 if abs(value) < 1e3 else 1
        return f"{value:.{digits}f}"
    return f"{value:.2e}"


def rate(per_second: float) -> str:
    """Return a number per second in about three digits, and never with an exponent above 1: 0.0123, 17.4, 2411."""
    if per_second < 1:
        return f"{per_second:.3g}"
    return f"{per_second:.1f}" if per_second < 1000 else f"{per_second:.0f}"


def _words(text: str) -> list[str]:
    return [word for line in text.split("\n") for word in _BREAK.split(line)]
