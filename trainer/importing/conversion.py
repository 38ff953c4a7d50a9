"""A config on its way from LeRobot's names to innerstep's: each field is taken to a place, or left with a reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optimizer.config import nearest, shown, shown_value

from ..config.plain_values import Plain
from ..config.yaml_values import write_inline
from ..errors import ConfigError


@dataclass(frozen=True)
class Left:
    """A field that has no place in innerstep's config."""

    path: str
    value: Plain
    reason: str
    matters: bool
    """Whether its value differs from LeRobot's default, so that something is lost."""

    @property
    def text(self) -> str:
        """The field and its value, as a user reads them."""
        return f"{self.path}: {shown(write_inline(self.value), 60)}"


@dataclass
class Conversion:
    """LeRobot's values, by dotted path, and the config that is made of them."""

    source: Mapping[str, Plain]
    config: dict[str, Plain] = field(default_factory=dict)
    """innerstep's config so far."""
    comments: dict[str, list[str]] = field(default_factory=dict)
    """Lines for the reader of the YAML, by the dotted path in `config` that they stand above."""
    mapped: dict[str, str] = field(default_factory=dict)
    """The places in `config` by LeRobot's path."""
    left: dict[str, Left] = field(default_factory=dict)
    """Fields without a place, by LeRobot's path."""

    def get(self, path: str, default: Plain = None) -> Plain:
        """Return LeRobot's value at `path`, or `default`."""
        place: Plain = dict(self.source)
        for part in path.split("."):
            if not isinstance(place, dict) or part not in place:
                return default
            place = place[part]
        return place

    def section(self, path: str) -> dict[str, Plain]:
        """Return the mapping at `path`; empty if there is none."""
        found = self.get(path)
        return found if isinstance(found, dict) else {}

    def has(self, path: str) -> bool:
        """Return whether the file gives `path`, null included."""
        parent, _, last = path.rpartition(".")
        return last in (self.section(parent) if parent else self.source)

    def take(self, path: str, to: str, default: Plain = None) -> Plain:
        """Return LeRobot's value at `path`, or `default`; its place in innerstep's config is `to`."""
        if self.has(path):
            self.mapped[path] = to
        return self.get(path, default)

    def leave(self, path: str, reason: str, *harmless: Plain) -> None:
        """Note that the field at `path`, if the file has it, has no place, and why.

        Args:
            path: LeRobot's.
            reason: Why, and what to do instead.
            harmless: Values by which nothing is lost, such as LeRobot's default; none given: any value.
        """
        if self.has(path):
            value = self.get(path)
            self.left[path] = Left(path, value, reason, bool(harmless) and value not in harmless)

    def put(self, path: str, value: Plain, *comments: str) -> None:
        """Set a field of innerstep's config, with lines that stand above it in the YAML."""
        *parents, last = path.split(".")
        place = self.config
        for parent in parents:
            inner = place.setdefault(parent, {})
            assert isinstance(inner, dict), "a section is a mapping"
            place = inner
        place[last] = value
        self.comment(path, *comments)

    def comment(self, path: str, *comments: str) -> None:
        """Add lines above a field of innerstep's config."""
        if comments:
            self.comments.setdefault(path, []).extend(comments)

    def unknown(self, known: Sequence[str]) -> list[Left]:
        """Return the fields of the file that nobody took or left, each with the nearest of `known`."""
        return [
            Left(path, value, f"LeRobot 0.6 has no such field{nearest(path, known)}", matters=True)
            for path, value in _leaves(self.source)
            if not any(path == seen or path.startswith(f"{seen}.") for seen in (*self.mapped, *self.left))
        ]

    def whole(self, path: str, to: str, default: int) -> int:
        """Take a whole number.

        Raises:
            ConfigError: It is something else.
        """
        value = self.take(path, to, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{path}: must be a whole number; got {shown_value(value)}")
        return value

    def flag(self, path: str, to: str, default: bool) -> bool:
        """Take true or false.

        Raises:
            ConfigError: It is something else.
        """
        value = self.take(path, to, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{path}: must be true or false; got {shown_value(value)}")
        return value

    def text(self, path: str, to: str) -> str | None:
        """Take text, or None for null.

        Raises:
            ConfigError: It is something else.
        """
        value = self.take(path, to)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{path}: must be text; got {shown_value(value)}")
        return value


def _leaves(values: Mapping[str, Plain], path: str = "") -> Iterator[tuple[str, Plain]]:
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here, value
