"""A field's type and default as text, in a config's own spelling, and prose that fits a terminal."""

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

_RANGES = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_SPACE = "\0"
"""Stands for a space at which no line ends."""


def type_text(field: Mapping[str, Any]) -> str:
    """Return the type, allowed values and range of a field.

    Args:
        field: Its JSON schema.
    """
    if "const" in field or "enum" in field:
        return " | ".join(value_text(value) for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(type_text(option) for option in field["anyOf"]))
    if "type" in field.get("properties", {}):
        return f"{{type: {field['title'].upper()}, …}}"
    if "prefixItems" in field:
        return f"[{', '.join(type_text(item) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        inner = type_text(field.get("items", {}))
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if "$ref" in field or field.get("type") == "object":
        return "mapping"
    if field.get("format") == "path":
        return "path"
    # Early pydantic writes 0.0 where later ones write 0.
    limits = [f"{sign} {str(field[name]).removesuffix('.0')}" for name, sign in _RANGES.items() if name in field]
    return " ".join([str(field.get("type", "anything")), *([f"({', '.join(limits)})"] if limits else [])])


def value_text(value: Any) -> str:
    """Return a plain value as a config writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {value_text(item)}' for name, item in value.items())}}}"
    return repr(value)


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """Return a docstring as indented lines.

    Args:
        text: Paragraphs. One with a line that is too long is filled again; lists and examples keep their lines and
            indentation, and their long lines are folded.
        width: Characters in a line, including the indentation.
        indent: Spaces before each line.
    """
    room = width - indent
    lines: list[str] = []
    for block in inspect.cleandoc(text).split("\n\n"):
        given = block.splitlines()
        if all(len(line) <= room for line in given):
            filled = given
        elif any(line.startswith((" ", ">>>")) for line in given):
            filled = [part for line in given for part in _folded(line, room, "  ")]
        else:
            filled = _folded(" ".join(given), room, "")
        lines += [*([""] if lines else []), *(f"{' ' * indent}{line}".rstrip() for line in filled)]
    return lines


def _folded(line: str, room: int, hang: str) -> list[str]:
    """Return a long line as several, none of which ends within `code`. hang: indent of the later ones."""
    indent = " " * (len(line) - len(line.lstrip())) + hang
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", _SPACE), line)
    folded = textwrap.wrap(whole, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [part.replace(_SPACE, " ") for part in folded or [""]]
