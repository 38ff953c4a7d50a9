"""Rounds of functions in separate processes, which take turns like functions of one process."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from measuring import rounds_of, seconds_of

PAUSE_SECONDS = 0.02
"""Before each turn: the threads of the process before wait for work a while, and take the cores meanwhile."""


def medians_apart(
    makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int, calls: int = 1
) -> dict[str, float]:
    """Return the median time of one call of each function, in seconds.

    Args:
        makers: functions that make them, each called in a fork of this process.
        rounds: turns of each.
        calls: in a turn, after one that is not timed.
    """
    with _processes(makers, calls) as pipes:

        def turn(name: str) -> float:
            time.sleep(PAUSE_SECONDS)
            pipes[name].send(True)
            seconds: float = pipes[name].recv()
            return seconds

        return rounds_of(makers, turn, rounds, calls)


@contextmanager
def _processes(makers: Mapping[str, Callable[[], Callable[[], object]]], calls: int) -> Iterator[dict[str, Connection]]:
    """Start a process for each function, one after the other; yield the pipes to them."""
    context, pipes = get_context("fork"), {}
    processes = []
    try:
        for name, make in makers.items():
            pipes[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, make, calls), daemon=True))
            processes[-1].start()
            theirs.close()
            pipes[name].recv()  # made
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(pipe: Connection, make: Callable[[], Callable[[], object]], calls: int) -> None:
    function = make()
    for _ in range(2):  # states are made, code is compiled
        function()
    pipe.send(True)
    while pipe.recv():
        function()
        pipe.send(seconds_of(function, calls) / calls)
