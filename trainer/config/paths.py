"""Paths in a config: `~` and environment variables are filled in when they are read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from ..runtime.hub import is_reference, parse_reference

_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{([^}]*)\})", re.ASCII)


def expand(text: str) -> str:
    """Return `text` with `~`, `$NAME` and `${NAME}` filled in; `$$` stands for one `$`, `./~` for a `~` in front.

    Raises:
        ValueError: The path is empty or holds NUL, a variable is not set, or the user is unknown.
    """
    if not text:
        raise ValueError("must not be empty; give a path")
    if "\0" in text:
        raise ValueError(f"a path cannot hold the character NUL; got {text[:80]!r}")
    path = _VARIABLE.sub(lambda found: _variable(found, text), text)
    if path.startswith("~"):
        path = os.path.expanduser(path)
        if path.startswith("~"):
            raise ValueError(f"there is no such user; got {text[:80]!r}. For a file of this name write ./~ in front")
    return path


def path_of(text: str) -> Path | None:
    """Return the path that `text` stands for; None if it stands for no path."""
    try:
        return Path(expand(text))
    except ValueError:
        return None


def as_text(path: Path) -> str:
    """Return the text that `expand` makes `path` of."""
    text = str(path).replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text


def _variable(found: re.Match[str], text: str) -> str:
    if found[0] == "$$":
        return "$"
    name = found[1] or found[2]
    if not os.environ.get(name):
        raise ValueError(
            f"the environment variable {name[:80]!r} is not set, or empty; got {text[:80]!r}."
            " Set it, or write $$ for a $ in a name."
        )
    return os.environ[name]


def _read(value: object) -> object:
    return _checked(value, lambda text: Path(expand(text)))


def _read_source(value: object) -> object:
    return _checked(value, _checked_reference) if is_reference(value) else _read(value)


def _checked_reference(text: str) -> str:
    parse_reference(text)
    return text


def _checked(value: object, read: Callable[[str], object]) -> object:
    """Return the result of `read` for text, and any other value as it is. Raises PydanticCustomError."""
    if not isinstance(value, str):
        return value
    try:
        return read(value)
    except ValueError as error:
        raise PydanticCustomError("rule", "{message}", {"message": str(error)}) from None


UserPath = Annotated[Path, BeforeValidator(_read), PlainSerializer(as_text, when_used="json")]
"""A path as the user writes it. A `Path` object is taken as it is."""

SourcePath = Annotated[
    Path | str,
    BeforeValidator(_read_source),
    PlainSerializer(lambda source: as_text(source) if isinstance(source, Path) else source, when_used="json"),
]
"""A path as the user writes it, or a reference to a repository on the hub, which stays text."""
