"""Decisions of all processes together: a signal that reached one of them, a clock, a failure in one of them."""

import signal
import socket

import pytest
from run_together import replaced
from worlds import own_world

from trainer.distributed import agreement as agreements
from trainer.distributed.agreement import Agreement
from trainer.distributed.outcomes import by_each, by_main
from trainer.errors import ConfigError, NonFiniteError, SaveError, UserCodeError

LAST = 40


class Asked:
    """In place of the signals that come to a process."""

    signal = None


def updates_between_exchanges_of(seconds):
    """Yield numbers of updates, while about `seconds` are between two exchanges."""
    undo = replaced(agreements, "SECONDS", seconds)
    try:
        yield from range(1, LAST)
    finally:
        undo()


def followed(signals=(), clock=range(0), seconds=1e9):
    """Return the update that a signal stops this process after, the signal, and when saves were due.

    signals: rank, update and number of each that comes. seconds: about the time between two exchanges.
    """
    world, asked, done, saves = own_world(), Asked(), 0, []
    agreement = Agreement(world, asked, lambda: world.is_main and done in clock)
    for done in updates_between_exchanges_of(seconds):
        for rank, update, number in signals:
            if (rank, update) == (world.rank, done) and asked.signal is None:
                asked.signal = number
        agreement.after_update(done)
        if agreement.save_is_due:
            saves.append(done)
        if agreement.signal is not None:
            return done, agreement.signal, saves
    return None, None, saves


def failing(place, kind):
    rank = own_world().rank

    def work():
        if rank in place:
            raise kind(f"no such thing as {rank}")
        return rank

    try:
        return by_each(own_world(), work)
    except (SaveError, NonFiniteError) as error:
        return type(error), str(error)


def made_by_main(value):
    return by_main(own_world(), lambda: [value, own_world().rank])


def failing_by_main():
    def make():
        raise ConfigError(f"by rank {own_world().rank}")

    with pytest.raises(ConfigError, match="by rank 0") as error:
        by_main(own_world(), make)
    return str(error.value)


def failing_later(place):
    """Return after how many updates the processes fail, and the message."""
    world = own_world()
    agreement = Agreement(world, Asked(), lambda: False)
    for done in updates_between_exchanges_of(1e9):
        with agreement.failing_later():
            if done == 4 and world.rank == place:
                raise UserCodeError("the dashboard is gone")
        try:
            agreement.after_update(done)
        except UserCodeError as error:
            return done, str(error)
    return None


def delivered_after(place):
    """Return after which updates the processes deliver, if one has to wait for the others from the third on."""
    world, done, delivered = own_world(), 0, []
    asks = {"must_deliver": lambda: world.rank == place and done >= 3 and 4 not in delivered}
    agreement = Agreement(world, Asked(), lambda: False, deliver=lambda: delivered.append(done), **asks)
    for done in updates_between_exchanges_of(1e9):
        agreement.after_update(done)
    return delivered


@pytest.mark.parametrize("place", [0, 1])
def test_all_deliver_soon_after_one_has_to_wait_for_the_others(two_workers, place):
    """They wait for each other after the first update, and else send what they know and read it after the next one."""
    assert two_workers.call(delivered_after, place) == [[1, 4]] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_both_after_the_same_update(two_workers, rank):
    """They send what they know after 1, 3, 7, 15 … updates, and read it after the next one."""
    results = two_workers.call(followed, [(rank, 5, signal.SIGTERM)])
    assert results == [(8, signal.SIGTERM, [])] * 2


def test_signals_at_different_updates_stop_both_after_the_same_one(two_workers):
    signals = [(0, 4, signal.SIGUSR1), (1, 6, signal.SIGTERM)]
    first, second = two_workers.call(followed, signals)
    assert first == second
    assert first[:2] in ((8, signal.SIGUSR1), (8, signal.SIGTERM))


def test_slow_updates_are_exchanged_after_each(two_workers):
    assert two_workers.call(followed, [(1, 5, signal.SIGTERM)], range(0), 0.0) == [(5, signal.SIGTERM, [])] * 2


def test_the_clock_of_the_main_process_decides_on_saves(two_workers):
    assert two_workers.call(followed, [], range(7, 16)) == [(None, None, [8, 16])] * 2


@pytest.mark.parametrize("kind", [SaveError, NonFiniteError])
@pytest.mark.parametrize("place", [(0,), (1,), (0, 1)])
def test_a_failure_of_one_process_is_raised_by_both(two_workers, place, kind):
    message = f"rank {place[0]} ({socket.gethostname()}): no such thing as {place[0]}"
    assert two_workers.call(failing, place, kind) == [(kind, message)] * 2


def test_processes_that_do_not_fail_learn_all_results(two_workers):
    assert two_workers.call(failing, (), SaveError) == [[0, 1]] * 2


def test_a_value_of_the_main_process_reaches_both(two_workers):
    assert two_workers.call(made_by_main, {"loss": 0.1}) == [[{"loss": 0.1}, 0]] * 2


def test_a_failure_to_make_it_is_raised_by_both(two_workers):
    assert two_workers.call(failing_by_main) == [f"rank 0 ({socket.gethostname()}): by rank 0"] * 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_failure_that_is_kept_is_raised_by_both_at_the_next_exchange(two_workers, place):
    results = two_workers.call(failing_later, place)
    assert [done for done, _ in results] == [8, 8]
    assert all("the dashboard is gone" in message for _, message in results)
