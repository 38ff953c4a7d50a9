"""A registry: a read-only mapping from a key to a class, filled by a decorator and by plugins."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TypeVar

from .importing import NotImportedError, load_installed, object_at
from .messages import nearest, shown_value

T = TypeVar("T")
C = TypeVar("C")


class UnknownKeyError(KeyError):
    """A key that a registry does not have. Its message names the nearest keys."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message in quotes


class Registry(Mapping[str, type[T]]):
    """Classes by key. Keys are looked up without regard to case; a dotted path is a key too.

    Args:
        name: The noun for a class of the registry in messages, such as "optimizer".
        kind: The base class of every class in it, or a runtime-checkable protocol of methods.
        entry_points: The group from which installed distributions are loaded, once, on first use.
    """

    def __init__(self, name: str, kind: type, *, entry_points: str) -> None:
        self.name = name
        self._kind = kind
        self._classes: dict[str, type[T]] = {}
        self._makers: dict[str, Callable[[], type[T]]] = {}  # of the classes that are made when they are looked up
        self._keys: dict[str, str] = {}  # folded key or alias -> key
        self._aliases: dict[str, Sequence[str]] = {}  # by key, of all keys
        self._modules: list[str] = []
        self._entry_points: str | None = entry_points
        self._adapters: list[tuple[type, Callable[[str, type], type[T]]]] = []
        self._adapted: dict[str, type[T]] = {}  # dotted path, or key of a family -> class made for it
        self._families: dict[str, Callable[[str], type[T]]] = {}  # folded prefix -> class by the name after its dot
        self._summaries: list[Callable[[], Mapping[str, str]]] = []  # of the families

    def register(self, key: str, *, aliases: Sequence[str] = ()) -> Callable[[type[C]], type[C]]:
        """Return a decorator that registers a class under `key` and `aliases`.

        Args:
            key: The name in configs, without a dot.
            aliases: Other names that lead to the same class.

        Raises:
            ValueError: A name is taken by another class or contains a dot.
            TypeError: The class is not of this registry's kind.
        """

        def add(cls: type[C]) -> type[C]:
            checked = self._checked_class(cls, key)
            if cls.__module__ not in self._modules:
                self._load_modules()  # their keys are taken
            for name in (key, *aliases):
                self._check_free(name, cls)
            self._classes[key] = checked
            self._add_names(key, aliases)
            return cls

        return add

    def register_maker(self, key: str, make: Callable[[], type[T]], *, aliases: Sequence[str] = ()) -> None:
        """Register a class that is made when it is first looked up.

        Args:
            key: The name in configs, without a dot. It must be free.
            make: Returns the class.
            aliases: Other names that lead to the same class.
        """
        self._makers[key] = make
        self._add_names(key, aliases)

    def add_modules(self, modules: Iterable[str]) -> None:
        """Add modules that are imported when a key is not found without them.

        Args:
            modules: Names of modules that register classes or adapters.
        """
        self._modules += modules

    def adapt(self, base: type, adapter: Callable[[str, type], type[T]]) -> None:
        """Allow subclasses of `base` by dotted path: `adapter(path, cls)` returns a class of this registry's kind."""
        if adapter.__module__ not in self._modules:
            self._load_modules()  # their adapters come first
        self._adapters.append((base, adapter))

    def add_family(
        self, prefix: str, find: Callable[[str], type[T]], summaries: Callable[[], Mapping[str, str]]
    ) -> None:
        """Add a family of classes that are made or imported when they are named.

        Args:
            prefix: The part of the members' keys before the dot.
            find: Returns the class of the key `prefix.name` by its name. It raises UnknownKeyError for a name that it
                does not know, or ConfigError for a package that is missing.
            summaries: Returns a line on each member by its key, for lists.
        """
        self._families[prefix.lower()] = find
        self._summaries.append(summaries)

    def family_summaries(self) -> dict[str, str]:
        """Return a line on each member of a family by its key. What the families need is imported."""
        return {key: line for summaries in self._summaries for key, line in summaries().items()}

    def is_of_family(self, key: str) -> bool:
        """Return whether `key` is `prefix.name` with a family's prefix. The family may not know the name."""
        prefix, _, name = key.partition(".")
        return bool(name) and "." not in name and prefix.lower() in self._families

    def __getitem__(self, key: str) -> type[T]:
        """Return the class of a key, an alias, a member of a family or a dotted path.

        Raises:
            UnknownKeyError: Nothing is registered under `key`, or the dotted path does not lead to a suitable class.
        """
        if key.lower() in self._keys:
            return self._registered(key)
        if self.is_of_family(key):
            prefix, _, name = key.partition(".")
            return self._adapted.setdefault(key.lower(), self._families[prefix.lower()](name))
        self._load_modules()
        if "." in key:
            return self._import(key)
        if key.lower() not in self._keys:
            self._load_plugins()
        if key.lower() in self._keys:
            return self._registered(key)
        hint = "`innerstep list` shows all of them; name a custom class by its dotted path, my_pkg.module.Class."
        if self._entry_points is not None:
            hint = "`innerstep list` shows all of them; --no-plugins excludes those of installed distributions."
        raise UnknownKeyError(f"unknown {self.name} {shown_value(key)}{nearest(key, self._names())} {hint}")

    def __iter__(self) -> Iterator[str]:
        self._load_modules()
        self._load_plugins()
        return iter(self._aliases)

    def __len__(self) -> int:
        self._load_modules()
        self._load_plugins()
        return len(self._aliases)

    def key_of(self, cls: type[T]) -> str:
        """Return the key that leads to `cls`: the registered one, else its dotted path."""
        for key, registered in [*self._classes.items(), *self._adapted.items()]:
            if registered is cls:
                return key
        return f"{cls.__module__}.{cls.__qualname__}"

    def aliases_of(self, key: str) -> list[str]:
        """Return the other names of `key`."""
        if key not in self._aliases:
            self._load_modules()
        return list(self._aliases.get(key, ()))

    def _names(self) -> list[str]:
        return [name for key, aliases in self._aliases.items() for name in (key, *aliases)]

    def _add_names(self, key: str, aliases: Sequence[str]) -> None:
        self._aliases[key] = aliases
        self._keys.update({name.lower(): key for name in (key, *aliases)})

    def _registered(self, name: str) -> type[T]:
        """Return the class of a key or an alias, made if it has not been."""
        key = self._keys[name.lower()]
        if key not in self._classes:
            self._classes.setdefault(key, self._checked_class(self._makers[key](), key))
        return self._classes[key]

    def _load_modules(self) -> None:
        for module in self._modules:
            import_module(module)

    def _checked_class(self, cls: object, key: str) -> type[T]:
        if not (isinstance(cls, type) and issubclass(cls, self._kind)):
            raise TypeError(f"{self.name} {shown_value(key)}: {shown_value(cls)} is not a {self._kind.__name__}")
        return cls  # type: ignore[return-value]  # `kind` stands for T at run time

    def _check_free(self, name: str, cls: type) -> None:
        if "." in name:
            raise ValueError(f"{self.name} key {name!r} contains a dot, which marks a dotted path")
        taken = self._registered(name) if name.lower() in self._keys else None
        # The same definition, run again (a notebook's cell, a module reloaded), replaces itself.
        if taken and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.name} key {name!r} is taken by {taken.__module__}.{taken.__qualname__}")

    def _import(self, path: str) -> type[T]:
        try:
            found = object_at(path)
        except NotImportedError as error:
            raise UnknownKeyError(f"{self.name} {shown_value(path)}: {error}") from error
        if path in self._adapted:
            return self._adapted[path]
        for base, adapter in self._adapters:
            if isinstance(found, type) and issubclass(found, base) and not issubclass(found, self._kind):
                try:
                    return self._adapted.setdefault(path, adapter(path, found))
                except ValueError as error:
                    raise UnknownKeyError(f"{self.name} {shown_value(path)} cannot be used: {error}") from error
        try:
            return self._checked_class(found, path)
        except TypeError as error:
            raise UnknownKeyError(str(error)) from None

    def _load_plugins(self) -> None:
        group = self._entry_points
        if group is None:
            return
        self._entry_points = None  # the modules that are loaded may look up keys
        if not load_installed(group, self._register_installed):
            self._entry_points = group

    def _register_installed(self, name: str, loaded: object) -> None:
        if isinstance(loaded, type):  # a module registers its classes by decorator
            self.register(name)(loaded)
