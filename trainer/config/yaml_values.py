"""YAML of plain values, both ways: numbers as in YAML 1.2, no dates or other types, aliases within a budget."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from .plain_values import Budget, plain, read_word

_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, Any] = {"null": (type(None),), "bool": (bool,), "int": (int,), "float": (float, int)}
_MERGE = "<<"


class _PlacedError(ValueError):
    """An error whose message says line and column."""


def read_yaml(text: str) -> Any:
    """Return the value of a YAML document; None of an empty one.

    Keys are text as written. Raises ValueError with line and column for what is not well-formed, or is not plain.
    """
    text.encode()  # raises here, and not deep inside, for what no UTF-8 holds
    try:
        return plain(_Reading().result(text))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).replace('in "<unicode string>", ', "at ").split())) from error


def write_yaml(config: dict[str, Any]) -> str:
    """Return `config` as YAML that `read_yaml` reads back to the same dict, as do readers of YAML 1.1."""
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes in quotes what some reader would not take for text, '1e-4', 'on' and '010', and escapes odd characters."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # PyYAML has none here
        if kind is not yaml.ScalarNode or tag != _TAG + "str" or not implicit[0]:
            return tag
        return tag if _is_text(value) else _TAG + "float"


def _represent_text(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def _is_text(word: str) -> bool:
    try:
        return isinstance(read_word(word), str)
    except ValueError:
        return False


@dataclass
class _Open:
    """A list or mapping whose end is not reached. For a mapping, `items` alternates keys and values."""

    event: Any
    nodes_before: int
    items: list[Any] = field(default_factory=list)
    height: int = 0
    """Levels of values in it, up to now."""

    def is_mapping(self) -> bool:
        return isinstance(self.event, yaml.MappingStartEvent)

    def awaits_key(self) -> bool:
        return self.is_mapping() and len(self.items) % 2 == 0


@dataclass(frozen=True)
class _Anchored:
    value: Any
    nodes: int
    height: int


@dataclass(frozen=True)
class _Key:
    text: str
    event: Any
    quoted: bool
    merges: bool


class _Reading:
    """Makes values of a parser's events one by one, so that nothing is unfolded before it is counted."""

    def __init__(self) -> None:
        self._budget = Budget()
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}  # None: its value is not complete yet
        self._root: list[Any] = []

    def result(self, text: str) -> Any:
        steps: list[tuple[Any, Callable[[Any], None]]] = [
            (yaml.AliasEvent, self._alias),
            (yaml.ScalarEvent, self._scalar),
            (yaml.CollectionStartEvent, self._begin),
            (yaml.CollectionEndEvent, self._end),
            (yaml.DocumentStartEvent, self._document),
        ]
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            for kind, step in steps:
                if isinstance(event, kind):
                    with _placed(event):
                        step(event)
        return self._root[0] if self._root else None

    def _document(self, event: Any) -> None:
        if self._root:
            raise ValueError("a second document begins; a config is one")

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise ValueError(f"no &{event.anchor} comes before the alias *{event.anchor}")
        target = self._anchors[event.anchor]
        if target is None:
            raise ValueError(f"the alias *{event.anchor} stands inside its own value")
        self._budget.spend(target.nodes, len(self._open) + target.height)
        self._add(target.value, target.height, event)

    def _scalar(self, event: Any) -> None:
        self._budget.spend(1, len(self._open))
        value = self._read(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1, 0)
        self._add(value, 0, event)

    def _read(self, event: Any) -> Any:
        is_plain = event.implicit[0]
        if self._open and self._open[-1].awaits_key() and event.tag in (None, "!", _TAG + "str"):
            return event.value
        if event.tag is None:
            if is_plain and event.value.startswith("(") and ")" not in event.value and self._in_flow():
                raise ValueError(f"a comma ends a value inside {{}} and []; got {event.value}. Write a list, [1, 2]")
            return read_word(event.value) if is_plain else event.value
        if event.tag in ("!", _TAG + "str"):
            return event.value
        kinds = _SCALARS.get(event.tag.removeprefix(_TAG))
        if kinds is None:
            raise ValueError(_not_plain(event.tag))
        value: Any = read_word(event.value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{_shown(event.value)} is not a {_shown(event.tag)}")
        return float(value) if float in kinds else value

    def _begin(self, event: Any) -> None:
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", _TAG + kind):
            raise ValueError(_not_plain(event.tag))
        if self._open and self._open[-1].awaits_key():
            raise ValueError("a key must be text; got a list or a mapping")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        nodes_before = self._budget.nodes
        self._budget.spend(1, len(self._open))
        self._open.append(_Open(event, nodes_before))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        value = _mapping(done.items, bool(done.event.flow_style)) if done.is_mapping() else done.items
        if done.event.anchor is not None:
            self._anchors[done.event.anchor] = _Anchored(value, self._budget.nodes - done.nodes_before, done.height)
        self._add(value, done.height, done.event)

    def _add(self, value: Any, height: int, event: Any) -> None:
        if not self._open:
            self._root.append(value)
            return
        place = self._open[-1]
        place.height = max(place.height, height + 1)
        if place.awaits_key():
            if not isinstance(value, str):
                raise ValueError("a key must be text")
            quoted = isinstance(event, yaml.ScalarEvent) and not event.implicit[0]
            merges = value == _MERGE and isinstance(event, yaml.ScalarEvent) and not quoted and not event.tag
            value = _Key(value, event, quoted, merges)
        place.items.append(value)

    def _in_flow(self) -> bool:
        return bool(self._open) and bool(self._open[-1].event.flow_style)


def _mapping(items: list[Any], in_flow: bool) -> dict[str, Any]:
    """Return the mapping of alternating keys and values. What << brings gives way to the mapping's own keys."""
    own: dict[tuple[str, bool], Any] = {}
    merged: dict[str, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        with _placed(key.event):
            if (key.text, key.merges) in own:
                raise ValueError(f"the key {_shown(key.text)!r} is given twice")
            if in_flow and value is None and key.text[:1].isdigit() and not key.quoted:
                raise ValueError(
                    f"a comma ends a value inside {{}}, and {_shown(key.text)} comes after one. Write 1_000"
                )
            own[key.text, key.merges] = value
            if key.merges:
                merged = _merged(value)
    return {**merged, **{text: value for (text, merges), value in own.items() if not merges}}


def _merged(value: Any) -> dict[str, Any]:
    """Return what `<<: value` brings: of a list of mappings, the first that has a key."""
    sources = value if isinstance(value, list) else [value]
    if not all(isinstance(source, dict) for source in sources):
        raise ValueError("<< must be followed by a mapping, or by a list of mappings")
    merged: dict[str, Any] = {}
    for source in sources:
        for name, item in source.items():
            merged.setdefault(name, item)
    return merged


@contextmanager
def _placed(event: Any) -> Iterator[None]:
    """Add to a ValueError of the body where `event` begins, unless it says a place."""
    try:
        yield
    except _PlacedError:
        raise
    except ValueError as error:
        mark = event.start_mark
        raise _PlacedError(f"{error} (line {mark.line + 1}, column {mark.column + 1})") from None


def _not_plain(tag: str) -> str:
    return f"the tag {_shown(tag)} is not allowed: a config holds plain values only. Remove the tag, or write text"


def _shown(text: str) -> str:
    text = text.replace(_TAG, "!!")
    return text if len(text) <= 60 else f"{text[:40]}…"
