"""Decisions that all processes of a run take together, though one of them alone may know the reason."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from signal import Signals

from ..errors import SaveError, UserCodeError
from ..runtime.signals import Interruption
from .exchange import Exchange
from .outcomes import by_each
from .world import World

SECONDS = 1.0
"""About how long the processes train between two exchanges."""
MOST_UPDATES = 256
"""Updates between two exchanges at most."""


class Agreement:
    """Whether a run stops, and whether a checkpoint is due by the clock: the same at the same update in all processes.

    A signal may reach one process only, and clocks differ. The processes therefore exchange what they know about once
    a second, and when `exchange` is called. What they send once a second they read after the next update, which it
    arrives in; where an update takes about a second, they wait for it instead. A single process reads its own signals
    and clock at the same places.

    Args:
        world: The place of this process.
        interruption: The signals that have come to this process.
        save_is_due: Whether a checkpoint is due by the clock of this process; the clock of the main one counts.
        step: Updates done.
        meet: Called before values are read that were sent after the update before, to check that all have sent them.
        check: Called before each other exchange, to check that all processes come to it.
        deliver: Called after `check`, to finish what the processes have begun to exchange. One alone may fail in it, as
            in `failing_later`.
        must_deliver: Whether this process has to wait for the others, until `deliver` is called, before it continues.
    """

    def __init__(
        self,
        world: World,
        interruption: Interruption,
        save_is_due: Callable[[], bool],
        step: int = 0,
        meet: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        deliver: Callable[[], None] = lambda: None,
        must_deliver: Callable[[], bool] = lambda: False,
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
        self._meet, self._check, self._deliver, self._must_deliver = meet, check, deliver, must_deliver
        self._sent: Exchange | None = None
        """The exchange that the processes have begun after the update before."""

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
        if self._sent is not None:
            self._meet()
            self._learn(self._sent.read())
        elif (updates := step - self._begun) >= self._interval:
            fitting = int(SECONDS * updates / max(time.monotonic() - self._since, 1e-9))
            is_slow = self._interval == 1
            self._interval = max(1, min(fitting, 2 * self._interval, MOST_UPDATES))
            if is_slow:
                self.exchange()
            else:
                self._sent = self._world.gather_later(self._known())

    def exchange(self) -> None:
        """Exchange what the processes know now: before an evaluation, and after whatever takes long.

        Raises:
            SaveError: A process has kept one by `failing_later`.
            UserCodeError: The same.
        """
        if self._is_alone:
            self.signal = self._interruption.signal
            return
        self.catch_up()
        if self._sent is not None:
            self._learn(self._sent.read())
        self._learn(self._world.gather(self._known()))

    def _known(self) -> list[int]:
        """Return the values of this process, for the others."""
        self._begun, self._since = self._step, time.monotonic()
        signal, is_main = self._interruption.signal, self._world.is_main
        known = [signal or 0, is_main and self._clock(), self._interval if is_main else 0]
        return [int(value) for value in [*known, self._must_deliver(), self._failure is not None]]

    def _learn(self, every: Sequence[Sequence[int]]) -> None:
        """Learn what the processes know, which is `every`. Raises as `exchange`."""
        self._sent = None
        number, save_is_due, self._interval, waits, failed = (max(values) for values in zip(*every, strict=True))
        self.signal = self.signal or (Signals(number) if number else None)
        self.save_is_due = bool(save_is_due)
        if number or save_is_due or waits or failed:
            self.catch_up()
        if failed:
            by_each(self._world, self._fail)

    def catch_up(self) -> None:
        """Check that all processes come here, and finish what they have begun to exchange: before a save."""
        self._check()
        with self.failing_later():
            self._deliver()

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
