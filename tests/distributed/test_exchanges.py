"""Plain values that the processes of a run exchange, and how many messages they need."""

from contextlib import contextmanager

import pytest
from run_together import UPDATES, config, replaced, trained
from torch import distributed
from worlds import own_world

VALUES = {
    "nothing": [None, None],
    "numbers": [0.1, 2**60],
    "a word": ["é", ""],
    "a long text of the main process": ["a" * 10_000, "b"],
    "a long text of another process": ["b", ["é" * 5_000, 1 / 3]],
    "texts about as long as a message": ["c" * 2_038, "d" * 2_039],
}


@contextmanager
def counting(name):
    """Count the calls of a function of torch.distributed that exchange plain values."""
    calls, original, control = [], getattr(distributed, name), own_world().control

    def call(*arguments, **options):
        if options.get("group") is control:
            calls.append(name)
        return original(*arguments, **options)

    undo = replaced(distributed, name, call)
    try:
        yield calls
    finally:
        undo()


def exchanged(values):
    """Return the values that processes gather and get from the main one, and the number of messages of each."""
    world = own_world()
    with counting("all_gather") as gathers, counting("broadcast") as broadcasts:
        found = [world.gather(values[world.rank]), world.from_main(values[world.rank])]
    return [*found, len(gathers), len(broadcasts)]


def gathers_of_training(made):
    """Train; return how often the processes have gathered plain values."""
    with counting("all_gather") as calls:
        trained(made)
    return len(calls)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_plain_values_arrive_as_they_are(two_workers, values):
    for found in two_workers.call(exchanged, values):
        assert found[:2] == [values, values[0]]


def test_short_values_need_one_message(two_workers):
    assert [found[2:] for found in two_workers.call(exchanged, VALUES["a word"])] == [[1, 1]] * 2
    long = VALUES["a long text of another process"]
    assert [found[2:] for found in two_workers.call(exchanged, long)] == [[2, 1]] * 2


def test_a_logged_update_needs_no_exchange_that_the_processes_wait_for(two_workers, tmp_path):
    often, seldom = (
        two_workers.call(gathers_of_training, config(tmp_path / str(every), log_every=every)) for every in (1, UPDATES)
    )
    assert often == seldom
