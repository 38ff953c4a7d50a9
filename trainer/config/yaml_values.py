"""YAML of plain values, both ways: numbers as in YAML 1.2, no dates or other types, aliases within a budget."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from .places import Path, Place
from .plain_values import Budget, Plain, encodable, plain, read_word
from .syntax import MalformedError, yaml_mistake

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = (None, "!", _TAG + "str")
_SCALARS: dict[str, tuple[type, ...]] = {"null": (type(None),), "bool": (bool,), "int": (int,), "float": (float, int)}
_MERGE = "<<"


def read_yaml(text: str) -> Plain:
    """Return the value of a YAML document; None if it is empty. Keys are text as written.

    Raises:
        ValueError: The text is not well-formed, or a value is not plain. The message has line and column.
    """
    return read_placed_yaml(text, "")[0]


def read_placed_yaml(text: str, source: str) -> tuple[Plain, dict[Path, Place]]:
    """Return the value of a YAML document, and the place of the whole and of each key and item in it.

    What an alias or a merge key brings has the places where it is written, at the anchor. The key of the alias has
    its own place.

    Args:
        text: The document.
        source: Its name in the places.

    Raises:
        MalformedError: The text is not well-formed, or a value is not plain.
    """
    try:
        text.encode()  # raises here, and not deep inside, if UTF-8 cannot hold it
        reader = _Reader(text)
        value = reader.read()
    except yaml.YAMLError as error:
        raise yaml_mistake(error, text) from error
    places = reader.places(value, source)
    return (plain(value) if reader.has_anchors else value), places  # an alias becomes a copy


def write_yaml(config: Mapping[str, object]) -> str:
    """Return `config` as YAML that `read_yaml` and readers of YAML 1.1 read back to the same mapping."""
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
    return text


def write_inline(value: Plain) -> str:
    """Return a value as it stands in one line of YAML."""
    text: str = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31
    )
    return text.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes if some reader takes it for a number or a boolean (1e-4, on, 010), or if it is odd."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None  # PyYAML puts into quotes the words of YAML 1.1
    try:
        if not isinstance(read_word(text), str):
            style = "'"
    except ValueError:
        style = "'"
    return dumper.represent_scalar(_TAG + "str", text, style=style if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


class _Anchored(NamedTuple):
    value: Plain
    nodes: int
    height: int


class _Mark(NamedTuple):
    line: int
    column: int
    written: str | None
    """The number that stands here, as it is written."""


class _Reader:
    """Makes a value of a parser's events. An alias shares the value of its anchor, whose nodes are counted again."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._event: Any = None  # the latest one, or the one to blame; PyYAML's types leave out their attributes
        self._budget = Budget()
        self._anchors: dict[str, _Anchored | None] = {}  # None: its value is not complete yet
        self._marks: dict[int, dict[str, _Mark]] = {}  # of the keys or items, by the id of their list or mapping
        self._begin = _Mark(0, 0, None)

    @property
    def has_anchors(self) -> bool:
        return bool(self._anchors)

    def read(self) -> Plain:
        try:
            return self._document()
        except (ValueError, OverflowError) as error:  # PyYAML raises both for "\UFFFFFFFF"
            mark = self._event.start_mark
            raise MalformedError(str(error), mark.line + 1, mark.column + 1) from None

    def places(self, value: Plain, source: str) -> dict[Path, Place]:
        """Return the place of each key and item in `value`, which was read; that of the whole has the path ()."""
        places: dict[Path, Place] = {}
        self._place_all(value, (), self._begin, source, places)
        return places

    def _place_all(self, value: Plain, path: Path, mark: _Mark, source: str, places: dict[Path, Place]) -> None:
        places[path] = Place(source, mark.line + 1, mark.column + 1, mark.written)
        if isinstance(value, dict | list):
            marks = self._marks[id(value)]
            items = value.items() if isinstance(value, dict) else zip(map(str, range(len(value))), value, strict=True)
            for key, item in items:
                self._place_all(item, (*path, key), marks[key], source, places)

    def _document(self) -> Plain:
        value: Plain = None
        documents = 0
        for event in self._events:
            self._event = event
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise ValueError("a second document begins; a config is one")
            elif isinstance(event, yaml.NodeEvent):
                self._begin = _mark(event, event, None)
                value = self._value(0, in_flow=False)
        return value

    def _value(self, depth: int, in_flow: bool) -> Plain:
        """Return the value that begins with the latest event, inside `depth` lists and mappings."""
        event = self._event
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, depth)
        if event.anchor is None:
            return self._node(depth, in_flow)
        budget = self._budget
        nodes_before, deepest_before = budget.nodes, budget.deepest
        self._anchors[event.anchor] = None
        budget.deepest = depth
        value = self._node(depth, in_flow)
        self._anchors[event.anchor] = _Anchored(value, budget.nodes - nodes_before, budget.deepest - depth)
        budget.deepest = max(budget.deepest, deepest_before)
        return value

    def _alias(self, name: str | None, depth: int) -> Plain:
        if name not in self._anchors:
            raise ValueError(f"no &{name} comes before the alias *{name}")
        target = self._anchors[name]
        if target is None:
            raise ValueError(f"the alias *{name} stands inside its own value")
        self._budget.spend(target.nodes, depth + target.height)
        return target.value

    def _node(self, depth: int, in_flow: bool) -> Plain:
        event = self._event
        self._budget.spend(1, depth)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event, in_flow)
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", _TAG + kind):
            raise ValueError(_tag_problem(event.tag))
        return self._mapping(depth + 1) if kind == "map" else self._list(depth + 1)

    def _list(self, depth: int) -> list[Plain]:
        in_flow = bool(self._event.flow_style)
        items: list[Plain] = []
        marks: dict[str, _Mark] = {}
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._event = event
            item = self._value(depth, in_flow)
            marks[str(len(items))] = _mark(event, event, item)
            items.append(item)
        self._marks[id(items)] = marks
        return items

    def _mapping(self, depth: int) -> dict[str, Plain]:
        in_flow = bool(self._event.flow_style)
        own: dict[str, Plain] = {}
        merged: dict[str, Plain] | None = None
        marks: dict[str, _Mark] = {}
        merged_marks: dict[str, _Mark] = {}
        while not isinstance(begin := next(self._events), yaml.MappingEndEvent):
            self._event = begin
            key = self._key(depth)
            is_word = isinstance(begin, yaml.ScalarEvent) and begin.implicit[0]
            merges = isinstance(begin, yaml.ScalarEvent) and is_word and begin.tag is None and key == _MERGE
            if merged is not None if merges else key in own:
                raise ValueError(f"the key {_shortened(key)!r} is given twice")
            content = self._event = next(self._events)
            value = self._value(depth, in_flow)
            self._event = begin  # it is to blame below
            if merges:
                merged = _merged(value)
                merged_marks = self._marks_of_merged(value)
            elif in_flow and value is None and is_word and key[:1].isdigit():
                raise ValueError(
                    f"a comma ends a value inside {{}}, and {_shortened(key)} comes after one. Write 1_000"
                )
            else:
                own[key] = value
                marks[key] = _mark(begin, content, value)
        whole = {**(merged or {}), **own}
        self._marks[id(whole)] = {**merged_marks, **marks}
        return whole

    def _marks_of_merged(self, value: Plain) -> dict[str, _Mark]:
        marks: dict[str, _Mark] = {}
        for source in reversed(value if isinstance(value, list) else [value]):
            marks |= self._marks[id(source)]
        return marks

    def _key(self, depth: int) -> str:
        event = self._event
        if isinstance(event, yaml.CollectionStartEvent):
            raise ValueError("a key must be text; got a list or a mapping")
        if isinstance(event, yaml.ScalarEvent) and event.tag in _TEXT_TAGS:
            self._budget.spend(1, depth)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored(event.value, 1, 0)
            return _text(event)
        key = self._value(depth, in_flow=False)
        if not isinstance(key, str):
            raise ValueError("a key must be text")
        return key


def _mark(begin: Any, content: Any, value: Plain) -> _Mark:
    """Return the mark of a key or item that begins with one event, and whose value begins with the other."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    written = content.value if is_number and isinstance(content, yaml.ScalarEvent) else None
    return _Mark(begin.start_mark.line, begin.start_mark.column, written)


def _scalar(event: yaml.ScalarEvent, in_flow: bool) -> Plain:
    is_word = event.implicit[0]
    if event.tag in _TEXT_TAGS and not (is_word and event.tag is None):
        return _text(event)
    if event.tag is None:
        if event.value.startswith("(") and ")" not in event.value and in_flow:
            raise ValueError(f"a comma ends a value inside {{}} and []; got {event.value}. Write a list, [1, 2]")
        return read_word(event.value)
    kinds = _SCALARS.get(event.tag.removeprefix(_TAG))
    if kinds is None:
        raise ValueError(_tag_problem(event.tag))
    value = read_word(event.value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{_shortened(event.value)} is not a {_shortened(event.tag)}")
    return float(value) if isinstance(value, int) and float in kinds else value


def _text(event: yaml.ScalarEvent) -> str:
    text: str = event.value
    return encodable(text) if event.style == '"' else text  # "\ud800"; the document itself is encodable


def _merged(value: Plain) -> dict[str, Plain]:
    """Return the items that `<<: value` brings. In a list of mappings, the first one that has a key gives its value."""
    sources = value if isinstance(value, list) else [value]
    merged: dict[str, Plain] = {}
    for source in sources:
        if not isinstance(source, dict):
            raise ValueError("<< must be followed by a mapping, or by a list of mappings")
        for key, item in source.items():
            merged.setdefault(key, item)
    return merged


def _tag_problem(tag: str) -> str:
    return f"the tag {_shortened(tag)} is not allowed: a config holds plain values only. Remove the tag, or write text"


def _shortened(text: str) -> str:
    text = text.replace(_TAG, "!!")
    return text if len(text) <= 60 else f"{text[:40]}…"
