"""Work of one process, or of each, whose outcome all processes of a run learn: its result, or the first failure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import (
    ConfigError,
    NewerFormatError,
    NonFiniteError,
    SaveError,
    UnreadableError,
    UnsavableError,
    UserCodeError,
    raised,
)
from ..runtime.files import DamagedCheckpointError
from .world import World

Value = TypeVar("Value")

_KINDS: tuple[type[Exception], ...] = (
    UnsavableError,
    UserCodeError,
    NewerFormatError,
    ConfigError,
    SaveError,
    UnreadableError,
    NonFiniteError,
    DamagedCheckpointError,
    ValueError,
    OSError,
)
"""Errors that all processes raise as the kind that one of them had; others become a RuntimeError."""


def by_main(world: World, work: Callable[[], Value]) -> Value:
    """Return in all processes the result of `work`, which the main process does; JSON must be able to hold it.

    Raises:
        Exception: The work failed. All processes raise the error, which names the main one if there are others.
    """
    result, error = _done(work) if world.is_main else (None, None)
    found = world.from_main([result, _description(error, world)])
    _raise(world, error, [found[1]])
    value: Value = found[0]
    return value


def by_each(world: World, work: Callable[[], Value]) -> list[Value]:
    """Return in all processes the results of `work`, which each one does, by rank; JSON must be able to hold them.

    Raises:
        Exception: The work failed in a process. All raise the error of the first such one, which names it if there are
            others.
    """
    result, error = _done(work)
    found = world.gather([result, _description(error, world)])
    _raise(world, error, [description for _, description in found])
    return [value for value, _ in found]


@contextmanager
def failing_together(world: World) -> Iterator[None]:
    """Run the body in all processes. If it fails in one of them, all raise the error of the first such one.

    The body must not exchange values, as a process that failed would not take part.

    Raises:
        Exception: As for `by_each`, for an error of the kinds that others can raise; another one is raised at once.
    """
    error: Exception | None = None
    try:
        yield
    except _KINDS as failure:
        if world.is_alone:
            raise
        error = failure
    if world.any(error is not None):
        _raise(world, error, world.gather(_description(error, world)))


def _done(work: Callable[[], Value]) -> tuple[Value | None, BaseException | None]:
    try:
        return work(), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the other processes wait for the outcome, whatever it is
        return None, error


def _description(error: BaseException | None, world: World) -> list[str] | None:
    """Return the kind and the text of an error, as JSON takes them; None if it reaches nobody else."""
    if error is None or world.is_alone:
        return None
    kind = next((kind.__name__ for kind in _KINDS if isinstance(error, kind)), "")
    return [kind, f"{world.name}: {error if kind else raised(error)}"]


def _raise(world: World, own: BaseException | None, failures: list[list[str] | None]) -> None:
    """Raise the first of the failures, which are by rank, if there is one.

    own: the error of this process, which is raised as it is if there is no other.
    """
    if world.is_alone:
        if own is not None:
            raise own
        return
    for name, text in filter(None, failures):
        raise next((kind for kind in _KINDS if kind.__name__ == name), RuntimeError)(text) from own
