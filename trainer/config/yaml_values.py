"""YAML of plain values, both ways: numbers as in YAML 1.2, no dates or other types, aliases within a budget."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from .plain_values import Budget, Plain, encodable, plain, read_word

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = (None, "!", _TAG + "str")
_SCALARS: dict[str, tuple[type, ...]] = {"null": (type(None),), "bool": (bool,), "int": (int,), "float": (float, int)}
_MERGE = "<<"


def read_yaml(text: str) -> Plain:
    """Return the value of a YAML document; None if it is empty. Keys are text as written.

    Raises:
        ValueError: The text is not well-formed, or a value is not plain. The message has line and column.
    """
    text.encode()  # raises here, and not deep inside, if UTF-8 cannot hold it
    reader = _Reader(text)
    try:
        value = reader.read()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).replace('in "<unicode string>", ', "at ").split())) from error
    return plain(value) if reader.has_anchors else value  # an alias becomes a copy


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


class _Reader:
    """Makes a value of a parser's events. An alias shares the value of its anchor, whose nodes are counted again."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._event: Any = None  # the latest one, or the one to blame; PyYAML's types leave out their attributes
        self._budget = Budget()
        self._anchors: dict[str, _Anchored | None] = {}  # None: its value is not complete yet

    @property
    def has_anchors(self) -> bool:
        return bool(self._anchors)

    def read(self) -> Plain:
        try:
            return self._document()
        except (ValueError, OverflowError) as error:  # PyYAML raises both for "\UFFFFFFFF"
            mark = self._event.start_mark
            raise ValueError(f"{error} (line {mark.line + 1}, column {mark.column + 1})") from None

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
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._event = event
            items.append(self._value(depth, in_flow))
        return items

    def _mapping(self, depth: int) -> dict[str, Plain]:
        in_flow = bool(self._event.flow_style)
        own: dict[str, Plain] = {}
        merged: dict[str, Plain] | None = None
        while not isinstance(begin := next(self._events), yaml.MappingEndEvent):
            self._event = begin
            key = self._key(depth)
            is_word = isinstance(begin, yaml.ScalarEvent) and begin.implicit[0]
            merges = isinstance(begin, yaml.ScalarEvent) and is_word and begin.tag is None and key == _MERGE
            if merged is not None if merges else key in own:
                raise ValueError(f"the key {_shortened(key)!r} is given twice")
            self._event = next(self._events)
            value = self._value(depth, in_flow)
            self._event = begin  # it is to blame below
            if merges:
                merged = _merged(value)
            elif in_flow and value is None and is_word and key[:1].isdigit():
                raise ValueError(
                    f"a comma ends a value inside {{}}, and {_shortened(key)} comes after one. Write 1_000"
                )
            else:
                own[key] = value
        return {**(merged or {}), **own}

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
