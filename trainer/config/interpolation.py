"""`${train.total_steps}` and `${oc.env:DEVICE,auto}` in a config, filled in by OmegaConf.

Before OmegaConf resolves anything, each `${…}` is parsed and checked here: it names a key that is there, or reads an
environment variable; no other resolver runs. The size of all values that they stand for is bounded first.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer.config import counted, nearest, shown, shown_value

from ..errors import ConfigError
from .overrides import Fields, meaning_of
from .places import Path, Places, place_of
from .plain_values import Plain

_TOKEN = re.compile(r"\$\$|\\*\$\{(?P<name>\w+\})?", re.ASCII)
"""`$$`; the beginning of an interpolation; or a whole one of a plain name, which may be an environment variable."""
_NODE, _CALL = "node", "resolver"
_KINDS = {"InterpolationNodeContext": _NODE, "InterpolationResolverContext": _CALL}
_RESOLVER = "oc.env"
_SIZE = 1_000_000
"""Characters and values at most that the interpolations of a config stand for."""
_CHAIN = 40
"""Interpolations at most that lead to each other, one to the next: OmegaConf follows each by a dozen nested calls."""
_DEPTH = 100
"""The same with the mappings and lists that they lead to."""


@dataclass
class Interpolated:
    """A config whose interpolations are filled in."""

    values: dict[str, Any]
    variables: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    """The environment variables that a value was read from, by its path."""


def interpolate(config: dict[str, Any], places: Places, fields: Fields | None = None) -> Interpolated:
    """Return `config` with each `${…}` filled in, except `${NAME}` whose NAME is not a key: it is left for paths.

    Args:
        config: Plain values.
        places: The places of values, for messages.
        fields: The fields, which decide how the text of an environment variable is read.

    Raises:
        ConfigError: A key is not there, a variable is not set, interpolations go in a circle or stand for too much.
    """
    with_dollars = {path: text for path, text in _texts(config, ()) if "${" in text}
    for path, text in with_dollars.items():
        _refuse_variables(path, text, config, places, fields)
    texts = {path: text for path, text in with_dollars.items() if _holds_interpolation(text, config)}
    if not texts:
        return Interpolated(config)
    return _Resolver(config, places, texts).resolved(fields)


def _texts(value: Plain, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    for key, item in _items(value):
        yield from _texts(item, (*path, key))


def _items(value: object) -> Sequence[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    return [(str(index), item) for index, item in enumerate(value)] if isinstance(value, list) else []


def _holds_interpolation(text: str, config: Mapping[str, object]) -> bool:
    return any(found[0] != "$$" and not _is_variable(found, config) for found in _TOKEN.finditer(text))


def _is_variable(found: re.Match[str], config: Mapping[str, object]) -> bool:
    """Return whether a `${…}` is a NAME without a key in the config: an environment variable in a path."""
    name = found["name"]
    return name is not None and name.removesuffix("}") not in config


def _refuse_variables(
    path: Path, text: str, config: Mapping[str, object], places: Places, fields: Fields | None
) -> None:
    """Refuse `${NAME}` whose NAME is not a key, unless the field at `path` is a path, or is not known.

    Raises:
        ConfigError: There is one.
    """
    found = next((one for one in _TOKEN.finditer(text) if one[0].startswith("${") and _is_variable(one, config)), None)
    if found is not None and fields is not None and not fields.may_take_path(config, path):
        raise _error(places, path, f"{found[0]}: {_no_such_key(found['name'].removesuffix('}'), config)}")


def _no_such_key(key: str, config: Mapping[str, object]) -> str:
    known = [".".join(known) for known, _ in _paths(config, ())]
    name = key if re.fullmatch(r"[A-Z][A-Z0-9_]*", key) else "NAME"
    return (
        f"the config has no {shown(key)}{nearest(key, known)} A default that is left out of the config cannot be"
        f" referred to. An environment variable is ${{oc.env:{name},default}}"
    )


def _error(places: Places, path: Path, rule: str) -> ConfigError:
    place = place_of(places, path)
    where = "" if place is None or not place.source else f"{place}: "
    return ConfigError(f"{where}{'.'.join(map(shown, path))}: {rule}")


def _escaped(text: str, config: Mapping[str, object]) -> str:
    """Return `text` with a backslash before each `${` that OmegaConf leaves as it is."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$\\$" if text[found.end() :].startswith("{") else "$$"
        slashes, _, rest = found[0].partition("$")
        return f"{slashes}{slashes}\\${rest}" if _is_variable(found, config) else found[0]

    return _TOKEN.sub(replaced, text)


class _Resolver:
    def __init__(self, config: dict[str, Any], places: Places, texts: Mapping[Path, str]) -> None:
        self._config, self._places, self._texts = config, places, texts
        self._uses: dict[Path, list[Path]] = {}
        self._wholes: dict[Path, str | None] = {}  # the kind of the interpolation that a text is; None: it has more
        self._variables: dict[Path, tuple[str, ...]] = {}
        self._sizes: dict[Path, int] = {}

    def resolved(self, fields: Fields | None) -> Interpolated:
        for path, text in self._texts.items():
            self._parse(path, text)
        for path in self._texts:
            if self._size(path, ()) > _SIZE:
                raise self._error(path, f"the interpolations stand for more than {_SIZE:,} characters and values")
        for path in self._texts:
            self._refuse_sections_in_text(path)
        from omegaconf import OmegaConf  # only for a config that needs it: it takes 0.1 s

        root = OmegaConf.create(_mapped(self._config, (), lambda _, text: _escaped(text, self._config)))

        def filled(path: Path, text: str) -> Plain:
            return self._filled(path, text, root, fields) if path in self._texts else text

        return Interpolated(_mapped(self._config, (), filled), self._variables)

    def _filled(self, path: Path, text: str, root: Any, fields: Fields | None) -> Plain:
        """Return the value that the text at `path` stands for, with the type that it has there."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        value: Any = root
        try:
            for part in path:
                value = value[int(part) if OmegaConf.is_list(value) else part]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise self._error(path, f"{shown(text)} cannot be filled in: {reason}") from error
        if isinstance(value, str) and self._wholes[path] == _CALL:
            try:
                value = meaning_of(value, self._config, path, fields)
            except ValueError as error:
                raise self._error(path, f"{shown(text)} is {shown_value(value)}: {error}") from error
        result: Plain = value
        return result

    def _parse(self, path: Path, text: str) -> None:
        """Note which keys and variables the text at `path` uses. Raises ConfigError."""
        from omegaconf import grammar_parser
        from omegaconf.errors import GrammarParseError

        try:
            tree = grammar_parser.parse(_escaped(text, self._config))
        except GrammarParseError as error:
            rule = (
                f"{shown(text)} is not understood: write ${{a.b}} for a key of the config, ${{oc.env:NAME,default}} for"
                " an environment variable, and \\${ for the characters themselves"
            )
            raise self._error(path, rule) from error
        self._uses[path] = []
        self._wholes[path] = _kind_of_whole(tree)
        variables: list[str] = []
        for kind, content, node in _interpolations(tree):
            if kind == _NODE:
                self._uses[path].append(self._target(path, content))
            else:
                variables.append(self._variable(path, content, _arguments(node)))
        if variables:
            self._variables[path] = tuple(dict.fromkeys(variables))

    def _target(self, path: Path, content: str) -> Path:
        """Return the path that `${content}` at `path` leads to. Raises ConfigError."""
        if "${" in content:
            raise self._error(path, f"${{{content}}}: a key inside ${{}} must be written out")
        dots = len(content) - len(content.lstrip("."))
        if dots > len(path):
            raise self._error(
                path, f"${{{content}}}: {counted(dots, 'dot')} lead out of the config; at most {len(path)}"
            )
        start = path[: len(path) - dots] if dots else ()
        names = [name for name in re.split(r"[.\[\]]+", content.lstrip(".")) if name]
        place: object = self._config
        for end, name in enumerate((*start, *names)):
            inner = dict(_items(place))
            if name not in inner:
                raise self._error(path, f"${{{content}}}: {_no_such_key('.'.join((*start, *names)), self._config)}")
            place = inner[name]
            prefix = (*start, *names)[: end + 1]
            if prefix in self._texts and prefix != (*start, *names):
                raise self._error(path, f"${{{content}}}: {'.'.join(prefix)} is an interpolation itself; name its end")
        return (*start, *names)

    def _refuse_sections_in_text(self, path: Path) -> None:
        """Refuse a list, a mapping or null as a part of a text, or as a default. Raises ConfigError."""
        if self._wholes[path] == _NODE:
            return
        for target in self._uses[path]:
            end = target
            while self._wholes.get(end) == _NODE:
                end = self._uses[end][0]
            value = _value_at(self._config, end)
            if value is None or isinstance(value, dict | list):
                kind = "null" if value is None else "a list" if isinstance(value, list) else "a mapping"
                raise self._error(path, f"{shown('.'.join(target))} is {kind}, which cannot stand inside text")

    def _variable(self, path: Path, content: str, arguments: Sequence[str]) -> str:
        """Return the environment variable that a resolver reads. Raises ConfigError if it is another resolver."""
        name = content.partition(":")[0]
        if name.strip() != _RESOLVER:
            raise self._error(
                path, f"${{{shown(content)}}}: there is no resolver {shown(name)}; only oc.env, as in ${{oc.env:NAME}}"
            )
        if len(arguments) not in (1, 2) or not all(arguments):
            raise self._error(path, f"${{{content}}}: write ${{oc.env:NAME}} or ${{oc.env:NAME,default}}")
        variable = arguments[0]
        if len(arguments) == 1 and variable not in os.environ and "${" not in variable:
            rule = f"${{{content}}}: the environment variable {shown(variable)} is not set. Set it, or write"
            raise self._error(path, f"{rule} ${{oc.env:{variable},default}}")
        return variable

    def _size(self, path: Path, chain: tuple[Path, ...]) -> int:
        """Return how many characters and values the value at `path` stands for. Raises ConfigError for a circle."""
        if path in chain:
            circle = [*chain[chain.index(path) :], path]
            steps = " → ".join(".".join(one) for one in circle)
            raise self._error(path, f"the interpolations go in a circle: {steps}")
        if len(chain) > _DEPTH or sum(one in self._texts for one in chain) > _CHAIN:
            raise self._error(
                path, f"more than {_CHAIN} interpolations, or {_DEPTH} interpolations and sections follow each other"
            )
        if path not in self._sizes:
            value = _value_at(self._config, path)
            size = len(value) if isinstance(value, str) else 1
            for target in self._uses.get(path, []):
                size += self._size(target, (*chain, path))
            for key, _ in _items(value):
                size += self._size((*path, key), (*chain, path))
            self._sizes[path] = min(size, _SIZE + 1)
        return self._sizes[path]

    def _error(self, path: Path, rule: str) -> ConfigError:
        return _error(self._places, path, rule)


def _mapped(value: Any, path: Path, change: Callable[[Path, str], Plain]) -> Any:
    """Return a copy of plain values with each text replaced by `change(path, text)`."""
    if isinstance(value, dict):
        return {key: _mapped(item, (*path, key), change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, (*path, str(index)), change) for index, item in enumerate(value)]
    return change(path, value) if isinstance(value, str) else value


def _paths(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    for key, item in _items(value):
        yield (*path, key), item
        yield from _paths(item, (*path, key))


def _value_at(config: object, path: Path) -> object:
    for part in path:
        config = dict(_items(config)).get(part)
    return config


def _interpolations(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield each interpolation in a parse tree: its kind, its key (or name and arguments), and its node."""
    kind = _KINDS.get(type(tree).__name__)
    if kind is not None:
        yield kind, tree.getText().removeprefix("${").removesuffix("}").strip(), tree
    for child in _children(tree):
        yield from _interpolations(child)


def _kind_of_whole(tree: Any) -> str | None:
    """Return the kind of the interpolation that a text is; None: it is more than one interpolation."""
    text = next(iter(_children(tree)))
    parts = [child for child in _children(text) if child.getText().strip()]
    return next(_interpolations(parts[0]))[0] if len(parts) == 1 else None


def _arguments(call: Any) -> list[str]:
    """Return the arguments of a resolver, "" for one that is left out."""
    sequences = [child for child in _children(call) if type(child).__name__ == "SequenceContext"]
    arguments = [""]
    for child in _children(sequences[0]) if sequences else ():
        if child.getText() == ",":
            arguments.append("")
        else:
            arguments[-1] = child.getText().strip()
    return arguments


def _children(tree: Any) -> Sequence[Any]:
    return getattr(tree, "children", None) or ()
