"""YAML for people: short mappings in one line, and comments above the fields that they explain."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from ..config.plain_values import Plain
from ..config.yaml_values import write_inline, write_yaml

_WIDTH = 100
_COMMENT = 118


def yaml_text(config: Mapping[str, Plain], comments: Mapping[str, Sequence[str]]) -> str:
    """Return a config as YAML.

    Args:
        config: Plain values.
        comments: Lines by the dotted path of the field that they stand above.
    """
    blocks = ["\n".join(_lines({name: value}, comments, "", 0)) for name, value in config.items()]
    return "\n\n".join(blocks) + "\n"


def comment(text: str, indent: str = "", hanging: str = "", first: str = "") -> list[str]:
    """Return text as lines of comment. `first`: what stands before its first line; `hanging`: before the others."""
    lines = wrap(text, _COMMENT - len(indent), initial_indent=first, subsequent_indent=hanging, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _lines(values: Mapping[str, Plain], comments: Mapping[str, Sequence[str]], path: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        for line in comments.get(here, ()):
            yield from comment(line, indent, "  " if line.startswith("  ") else "")
        key = write_inline(name)
        inline = f"{indent}{key}: {write_inline(value)}"
        has_comments = any(other.startswith(f"{here}.") for other in comments)
        is_short = depth > 0 and len(inline) <= _WIDTH and not has_comments and _is_flat(value)
        if not isinstance(value, dict | list) or not value or is_short:
            yield inline
        elif isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, comments, here, depth + 1)
        else:
            yield from _list(key, value, indent)


def _is_flat(value: Plain) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(not isinstance(one, dict | list) or not _has_mapping(one) for one in inner)


def _has_mapping(value: Plain) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(_has_mapping(one) for one in value))


def _list(key: str, value: list[Plain], indent: str) -> Iterator[str]:
    if all(isinstance(one, int | float) for one in value):
        inner = f"{indent}  "
        yield f"{indent}{key}:"
        yield from wrap(write_inline(value), _WIDTH, initial_indent=inner, subsequent_indent=inner)
    else:
        yield from (f"{indent}{line}" for line in write_yaml({key: value}).splitlines())
