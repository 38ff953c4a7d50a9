"""Work of one process, or of each, whose outcome all processes of a run learn: its result, or the first failure."""

from collections.abc import Callable
from typing import TypeVar

from ..errors import ConfigError, NewerFormatError, SaveError, UnreadableError, UnsavableError, UserCodeError, raised
from .world import World

Value = TypeVar("Value")

_KINDS: tuple[type[Exception], ...] = (
    UnsavableError,
    UserCodeError,
    NewerFormatError,
    ConfigError,
    SaveError,
    UnreadableError,
    OSError,
)
"""Errors that all processes raise as the kind that one of them had; others become a RuntimeError."""


def by_main(world: World, work: Callable[[], Value]) -> Value:
    """Return in all processes the result of `work`, which the main process does; JSON must be able to hold it.

    Raises:
        Exception: The work failed. All processes raise the error, which names the main one if there are others.
    """
    result, error = _done(work) if world.is_main else (None, None)
    found = world.from_main([result, _description(error)])
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
    found = world.gather([result, _description(error)])
    _raise(world, error, [description for _, description in found])
    return [value for value, _ in found]


def _done(work: Callable[[], Value]) -> tuple[Value | None, BaseException | None]:
    try:
        return work(), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the other processes wait for the outcome, whatever it is
        return None, error


def _description(error: BaseException | None) -> list[str] | None:
    """Return the kind and the text of an error, as JSON takes them."""
    if error is None:
        return None
    kind = next((kind.__name__ for kind in _KINDS if isinstance(error, kind)), "")
    return [kind, str(error) if kind else raised(error)]


def _raise(world: World, own: BaseException | None, failures: list[list[str] | None]) -> None:
    """Raise the first of the failures, which are by rank, if there is one. own: the error of this process."""
    if world.is_alone:
        if own is not None:
            raise own
        return
    rank = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
    if rank is None:
        return
    name, text = failures[rank] or ["", ""]
    kind = next((kind for kind in _KINDS if kind.__name__ == name), RuntimeError)
    raise kind(f"rank {rank}: {text}") from own
