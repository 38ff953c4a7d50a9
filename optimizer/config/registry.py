"""A registry: a read-only mapping from a key to a class, filled by a decorator and by plugins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .importing import NotImportedError, load_installed, object_at
from .messages import nearest, shown_value

T = TypeVar("T")
C = TypeVar("C")


class UnknownKeyError(KeyError):
    """A key that a registry does not have. Its message names the nearest keys."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message in quotes


class Registry(Mapping[str, type[T]]):
    """Classes by key. Keys are looked up without regard to case; a dotted path stands for a key.

    name: what the user calls it in messages, e.g. "optimizer".
    kind: what every class in it must be: a base class, or a runtime-checkable protocol of methods.
    entry_points: the group from which installed distributions are loaded, once, on first use.
    """

    def __init__(self, name: str, kind: type[Any], *, entry_points: str) -> None:
        self.name = name
        self._kind = kind
        self._classes: dict[str, type[T]] = {}
        self._keys: dict[str, str] = {}  # folded key or alias -> key
        self._aliases: dict[str, Sequence[str]] = {}
        self._entry_points: str | None = entry_points
        self._adapters: list[tuple[type[Any], Callable[[str, Any], type[T]]]] = []
        self._adapted: dict[str, type[T]] = {}  # dotted path -> class made for it

    def register(self, key: str, *, aliases: Sequence[str] = ()) -> Callable[[type[C]], type[C]]:
        """Return a decorator that registers a class under `key` and `aliases`.

        Raises ValueError if a name is taken by another class or holds a dot, TypeError if the
        class is not of this registry's kind.
        """

        def add(cls: type[C]) -> type[C]:
            self._check_kind(cls, key)
            for name in (key, *aliases):
                self._check_free(name, cls)
            self._aliases[key] = aliases
            self._classes[key] = cls  # type: ignore[assignment]  # C is a T: _check_kind saw to it
            self._keys.update({name.lower(): key for name in (key, *aliases)})
            return cls

        return add

    def adapt(self, base: type[Any], adapter: Callable[[str, Any], type[T]]) -> None:
        """Let subclasses of `base` stand here by dotted path: `adapter(path, cls)` makes a class of this kind."""
        self._adapters.append((base, adapter))

    def __getitem__(self, key: str) -> type[T]:
        """Return the class of a key, an alias or a dotted path. Raises UnknownKeyError."""
        if found := self._keys.get(key.lower()):
            return self._classes[found]
        if "." in key:
            return self._import(key)
        self._load_plugins()
        if found := self._keys.get(key.lower()):
            return self._classes[found]
        hint = "`innerstep list` shows them all; a class of your own goes by its dotted path, my_pkg.module.Class."
        if self._entry_points is not None:
            hint = "`innerstep list` shows them all. Those of installed distributions are left out under --no-plugins."
        raise UnknownKeyError(f"unknown {self.name} {shown_value(key)}{nearest(key, self._names())} {hint}")

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(self._classes)

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._classes)

    def key_of(self, cls: type[T]) -> str:
        """Return the key that leads to `cls`: the registered one, else its dotted path."""
        for key, registered in [*self._classes.items(), *self._adapted.items()]:
            if registered is cls:
                return key
        return f"{cls.__module__}.{cls.__qualname__}"

    def aliases_of(self, key: str) -> list[str]:
        """Return the other names of `key`."""
        return list(self._aliases.get(key, ()))

    def _names(self) -> list[str]:
        return [name for key in self._classes for name in (key, *self._aliases[key])]

    def _check_kind(self, cls: type[Any], key: str) -> None:
        if not (isinstance(cls, type) and issubclass(cls, self._kind)):
            raise TypeError(f"{self.name} {shown_value(key)}: {shown_value(cls)} is not a {self._kind.__name__}")

    def _check_free(self, name: str, cls: type[Any]) -> None:
        if "." in name:
            raise ValueError(f"{self.name} key {name!r} holds a dot, which marks a dotted path")
        taken = self._classes.get(self._keys.get(name.lower(), ""))
        # The same definition met again (a notebook cell run twice, a module reloaded) replaces itself.
        if taken and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.name} key {name!r} is taken by {taken.__module__}.{taken.__qualname__}")

    def _import(self, path: str) -> type[T]:
        try:
            cls: type[T] = object_at(path)
        except NotImportedError as error:
            raise UnknownKeyError(f"{self.name} {shown_value(path)}: {error}") from error
        if path in self._adapted:
            return self._adapted[path]
        for base, adapter in self._adapters:
            if isinstance(cls, type) and issubclass(cls, base) and not issubclass(cls, self._kind):
                try:
                    return self._adapted.setdefault(path, adapter(path, cls))
                except ValueError as error:
                    raise UnknownKeyError(f"{self.name} {shown_value(path)} cannot be used: {error}") from error
        try:
            self._check_kind(cls, path)
        except TypeError as error:
            raise UnknownKeyError(str(error)) from None
        return cls

    def _load_plugins(self) -> None:
        group = self._entry_points
        if group is None:
            return
        self._entry_points = None  # what is loaded may look for keys
        if not load_installed(group, self._register_installed):
            self._entry_points = group

    def _register_installed(self, name: str, loaded: Any) -> None:
        if isinstance(loaded, type):  # a module registers by decorator, a class under its entry's name
            self.register(name)(loaded)
