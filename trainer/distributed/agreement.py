"""Decisions that all processes of a run take together, though one of them alone may know the reason."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import Signals

from ..errors import SaveError, UserCodeError
from ..runtime.signals import Interruption
from .outcomes import by_each
from .world import World

SECONDS = 1.0
"""About how long the processes train between two exchanges."""
MOST_UPDATES = 256
"""Updates between two exchanges at most."""


class Agreement:
    """Whether a run stops, and whether a checkpoint is due by the clock: the same at the same update in all processes.

    A signal may reach one process only, and clocks differ. The processes therefore exchange what they know about once
    a second, and when `exchange` is called. A single process reads its own signals and clock at the same places.

    Args:
        world: The place of this process.
        interruption: The signals that have come to this process.
        save_is_due: Whether a checkpoint is due by the clock of this process; the clock of the main one counts.
        step: Updates done.
        before: Called before each exchange, to check that all processes come to it.
    """

    def __init__(
        self,
        world: World,
        interruption: Interruption,
        save_is_due: Callable[[], bool],
        step: int = 0,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._world, self._is_alone = world, world.is_alone
        self._interruption, self._clock = interruption, save_is_due
        self.signal: Signals | None = None
        """The signal that stops the run, as of the last exchange; None without one."""
        self.save_is_due = False
        """Whether a checkpoint is due by the clock, as of an exchange after the present update."""
        self._step = self._begun = step
        self._interval, self._since = 1, time.monotonic()
        self._failure: Exception | None = None
        self._before = before

    def stop_requested(self) -> bool:
        """Return whether this process knows of a signal, which the others may not know of yet."""
        return self._interruption.signal is not None or self.signal is not None

    def after_update(self, step: int) -> None:
        """Exchange what the processes know, if it is time to. All call it after each update.

        Args:
            step: Updates done.

        Raises:
            SaveError: A process has kept one by `failing_later`.
            UserCodeError: The same.
        """
        if self._is_alone:
            self.signal, self.save_is_due = self._interruption.signal, self._clock()
            return
        self._step, self.save_is_due = step, False
        updates = step - self._begun
        if updates >= self._interval:
            fitting = int(SECONDS * updates / max(time.monotonic() - self._since, 1e-9))
            self._interval = max(1, min(fitting, 2 * self._interval, MOST_UPDATES))
            self.exchange()

    def exchange(self) -> None:
        """Exchange what the processes know now: before an evaluation, and after whatever takes long.

        Raises:
            SaveError: A process has kept one by `failing_later`.
            UserCodeError: The same.
        """
        if self._is_alone:
            self.signal = self._interruption.signal
            return
        self._before()
        signal, is_main = self._interruption.signal, self._world.is_main
        own = [signal or 0, is_main and self._clock(), self._interval if is_main else 0, self._failure is not None]
        number, save_is_due, self._interval, failed = self._world.largest([int(value) for value in own])
        self.signal = self.signal or (Signals(number) if number else None)
        self.save_is_due = bool(save_is_due)
        self._begun, self._since = self._step, time.monotonic()
        if failed:
            by_each(self._world, self._fail)

    @contextmanager
    def failing_later(self) -> Iterator[None]:
        """Run the body, in which one process alone may fail. All processes raise its error, at the next exchange.

        A single process raises it at once.
        """
        try:
            yield
        except (SaveError, UserCodeError) as error:
            if self._is_alone:
                raise
            self._failure = self._failure or error

    def _fail(self) -> None:
        if self._failure is not None:
            raise self._failure
