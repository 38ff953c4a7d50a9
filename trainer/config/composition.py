"""One config of several files: those that it `extends`, and those that stand beside it on the command line."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any, NamedTuple, TypeAlias

from optimizer.config import in_yaml, nearest, shown, shown_value

from ..errors import ConfigError
from ..runtime.version import writer_version
from .paths import expand
from .places import Path, Place, Places, place_of
from .plain_values import Plain, plain
from .yaml_file import names_in, read_placed_file

EXTENDS = "extends"
PARAMS = "params"
TYPE = "type"
FILES = 64
"""Files of a config at most."""
CHAIN = 16
"""Files at most that extend each other, one the next."""

Source: TypeAlias = Mapping[str, object] | FilePath


@dataclass(frozen=True)
class Composition:
    """The values of all files of a config, merged."""

    values: dict[str, Any]
    places: Places
    files: tuple[FilePath, ...] = ()
    """The files, the strongest first."""
    folders: Mapping[str, FilePath | None] = field(default_factory=dict)
    """The folder in which relative paths of a file start, by the name of the file in a place. None: they stay as they
    are, as in the config of a run, whose paths are absolute if this version wrote it, and in a config from the hub."""
    notes: tuple[str, ...] = ()
    """Lines about values that were dropped."""


class _Layer(NamedTuple):
    """A value of one file, and the places of all values in that file."""

    value: Plain
    places: Places


class _Step(NamedTuple):
    """A file, and the place that names it."""

    identity: str
    name: str
    place: Place | None


def compose(sources: Sequence[Source], foreign: Collection[FilePath] = ()) -> Composition:
    """Return the config of several mappings and files. Each wins over those before it, and over those that it extends.

    Mappings are merged, key by key. Any other value, also a list, replaces the one before. If an entry's `type`
    differs, the parameters of the other type are dropped.

    Args:
        sources: The mappings and files, the weakest first.
        foreign: Those of the files that are not the user's own: they extend nothing.

    Raises:
        ConfigError: A file cannot be read, is not there, or extends itself; or there are too many.
    """
    reader = _Reader(foreign)
    for source in sources:
        if isinstance(source, Mapping):
            reader.read_mapping(source)
        else:
            reader.read_file(source, ())
    places: dict[Path, Place] = {}
    notes: list[str] = []
    values = _merged(reader.layers, (), places, notes)
    assert isinstance(values, dict), "each layer is a mapping"
    files = tuple(dict.fromkeys(reversed(reader.files)))
    return Composition(values, places, files, reader.folders, tuple(notes))


class _Reader:
    """Reads files with all that they extend, into layers: the weakest first."""

    def __init__(self, foreign: Collection[FilePath]) -> None:
        self._foreign = foreign
        self.layers: list[_Layer] = []
        self.files: list[FilePath] = []
        self.folders: dict[str, FilePath | None] = {}

    def read_mapping(self, source: Mapping[str, object]) -> None:
        try:
            values = plain(source)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        assert isinstance(values, dict)
        self._read_extended(values, {}, FilePath(), ())
        self.layers.append(_Layer(values, {}))

    def read_file(self, file: FilePath, chain: tuple[_Step, ...]) -> None:
        values, places = read_placed_file(file)
        is_file = os.path.isfile(file)  # a pipe is in no folder
        folder = file.parent if is_file else FilePath()
        if EXTENDS in values and file in self._foreign:
            raise ConfigError(f"{_at(places, (EXTENDS,))}: a config from the hub is one file. Write it out without it")
        self._read_extended(values, places, folder, chain or (_Step(os.path.realpath(file), str(file), None),))
        self.layers.append(_Layer(values, places))
        self.files.append(file)
        is_as_written = file in self._foreign or writer_version(file) is not None
        self.folders[str(file)] = None if is_as_written else FilePath(os.path.abspath(folder))

    def _read_extended(
        self, values: dict[str, Plain], places: Places, folder: FilePath, chain: tuple[_Step, ...]
    ) -> None:
        if EXTENDS not in values:
            return
        given = values.pop(EXTENDS)
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"{_at(places, (EXTENDS,))}: must be the path of a file, or a list of paths; got"
                f" {in_yaml(given) or shown_value(given)}"
            )
        for index, name in enumerate(map(str, names)):
            path = (EXTENDS,) if isinstance(given, str) else (EXTENDS, str(index))
            file = _file_at(name, folder, _at(places, path))
            step = _Step(os.path.realpath(file), str(file), place_of(places, path))
            self._check(step, chain, _at(places, path))
            self.read_file(file, (*chain, step))

    def _check(self, step: _Step, chain: tuple[_Step, ...], where: str) -> None:
        """Raise ConfigError if the file extends itself, or is one too many."""
        identities = [earlier.identity for earlier in chain]
        if step.identity in identities:
            circle = [*chain[identities.index(step.identity) :], step]
            parts = [f"{later.place or earlier.name} extends {later.name}" for earlier, later in pairwise(circle)]
            raise ConfigError(f"{where}: the files extend each other in a circle: {', '.join(parts)}")
        if len(chain) >= CHAIN:
            raise ConfigError(f"{where}: more than {CHAIN} files extend each other, one the next")
        if len(self.files) >= FILES:
            raise ConfigError(f"{where}: a config has at most {FILES} files")


def _at(places: Places, path: Path) -> str:
    """Return the beginning of a message about a value: its place and its path."""
    place = place_of(places, path)
    return ".".join(path) if place is None else f"{place}: {'.'.join(path)}"


def _file_at(name: str, folder: FilePath, where: str) -> FilePath:
    """Return the file that `extends` names in a file of `folder`.

    Raises:
        ConfigError: It is not there.
    """
    if name.startswith("hf:/"):
        raise ConfigError(f"{where}: must be a file on this machine; got {shown(name)}. Copy it, or give it as CONFIG")
    if "${" in name:
        raise ConfigError(
            f"{where}: the files are read before ${{…}} is filled in; got {shown(name)}. Write $NAME for an environment"
            " variable"
        )
    try:
        file = FilePath(os.path.join(folder, expand(name)))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    lexical = FilePath(os.path.normpath(file))
    if os.path.isfile(file):
        return lexical if os.path.isfile(lexical) and lexical.samefile(file) else file
    there = [os.path.join(os.path.dirname(name), other) for other in names_in(file.parent)]
    if os.path.exists(file):
        raise ConfigError(f"{where}: must be a file, and {shown(lexical)} is not one")
    raise ConfigError(f"{where}: there is no file {shown(lexical)}{nearest(name, there)}")


def _merged(layers: Sequence[_Layer], path: Path, places: dict[Path, Place], notes: list[str]) -> Plain:
    """Return the value that the layers make together, the weakest first, and add its places to `places`."""
    strongest = layers[-1]
    if not isinstance(strongest.value, dict):
        _add_places(strongest, path, places)
        return strongest.value
    if path in strongest.places:
        places[path] = strongest.places[path]
    start = max((index + 1 for index, layer in enumerate(layers) if not isinstance(layer.value, dict)), default=0)
    mappings = _of_one_type([(layer.value, layer.places) for layer in layers[start:]], path, notes)
    merged: dict[str, Plain] = {}
    for key in dict.fromkeys(key for value, _ in mappings for key in value):
        inner = [_Layer(value[key], own) for value, own in mappings if key in value]
        merged[key] = _merged(inner, (*path, key), places, notes)
    return merged


def _add_places(layer: _Layer, path: Path, places: dict[Path, Place]) -> None:
    if path in layer.places:
        places[path] = layer.places[path]
    items: Sequence[tuple[str, Plain]] = ()
    if isinstance(layer.value, dict):
        items = list(layer.value.items())
    elif isinstance(layer.value, list):
        items = [(str(index), item) for index, item in enumerate(layer.value)]
    for key, item in items:
        _add_places(_Layer(item, layer.places), (*path, key), places)


_Placed: TypeAlias = tuple[dict[str, Plain], Places]


def _of_one_type(layers: Sequence[tuple[Any, Places]], path: Path, notes: list[str]) -> list[_Placed]:
    """Return the mappings of an entry without the parameters of a type that a later one replaces."""
    kept: list[_Placed] = []
    for value, own in layers:
        new = value.get(TYPE)
        old, placed = next(((one[TYPE], at) for one, at in reversed(kept) if TYPE in one), (None, own))
        if isinstance(new, str) and isinstance(old, str) and new != old:
            is_inline = PARAMS in path  # the fields of a schedule are beside its type
            names = [key for one, _ in kept for key in one if key == PARAMS or (is_inline and key != TYPE)]
            if names:
                was = place_of(placed, (*path, TYPE))
                notes.append(
                    f"{_at(own, (*path, TYPE))}: {shown(new)} replaces {shown(old)}{f' of {was}' if was else ''}, whose"
                    f" {', '.join(dict.fromkeys(names))} are dropped"
                )
            kept = [({key: one[key] for key in one if key not in names}, at) for one, at in kept]
        kept.append((value, own))
    return kept
