"""Tables, counts and sizes as text."""

from collections.abc import Collection, Sequence


def align_columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return a line for each row, in columns. right: the columns that are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    return ["  ".join(row).rstrip() for row in cells]


def count(number: int) -> str:
    """Return a number in three or four digits and a unit: 101.6 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def size(size_bytes: int) -> str:
    """Return a size in decimal units: 101.6 kB."""
    return f"{count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes} B"
