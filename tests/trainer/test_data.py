import pytest
import torch

from trainer import ConfigError, DataSet, TensorSplit
from trainer.loop.batches import ShuffledBatches, in_order


def split(samples):
    return TensorSplit({"x": torch.arange(samples), "y": torch.arange(samples) * 2})


@pytest.mark.parametrize(("samples", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 8, [3])])
def test_an_epoch_has_every_sample_once(samples, batch_size, sizes):
    batches = ShuffledBatches(split(samples), batch_size, seed=0)
    assert batches.steps_per_epoch == len(sizes)
    epoch = [next(batches.of_update(step))["x"] for step in range(len(sizes))]
    assert [len(batch) for batch in epoch] == sizes
    assert sorted(torch.cat(epoch).tolist()) == list(range(samples))


def test_epochs_and_seeds_have_orders_of_their_own():
    batches = ShuffledBatches(split(50), 50, seed=0)
    orders = [tuple(next(batches.of_update(epoch))["x"].tolist()) for epoch in range(3)]
    orders.append(tuple(ShuffledBatches(split(50), 50, seed=1).of_update(0).__next__()["x"].tolist()))
    assert len(set(orders)) == 4


def test_any_batch_is_the_same_however_one_got_there():
    walked, jumped = (ShuffledBatches(split(23), 4, seed=3) for _ in range(2))
    in_turn = [next(walked.of_update(step))["x"] for step in range(20)]
    for step in (17, 3, 12, 17):
        assert torch.equal(next(jumped.of_update(step))["x"], in_turn[step])


def test_it_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    ShuffledBatches(split(23), 4, seed=3).of_update(11).__next__()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_short_last_batch_can_be_left_out():
    batches = ShuffledBatches(split(10), 4, seed=0, drop_last=True)
    assert [len(next(batches.of_update(step))["x"]) for step in range(4)] == [4, 4, 4, 4]
    with pytest.raises(ConfigError, match=r"data.batch_size: must be <= 10"):
        ShuffledBatches(split(10), 11, seed=0, drop_last=True)


def test_a_data_set_that_sets_no_statistics_has_empty_ones():
    class Plain(DataSet):
        def __init__(self):
            self.train, self.held_out = split(3), None

    assert dict(Plain().statistics) == {}


def test_in_order_is_in_order():
    batches = list(in_order(split(5), 2))
    assert [(size, batch["y"].tolist()) for size, batch in batches] == [(2, [0, 2]), (2, [4, 6]), (1, [8])]


def test_an_update_of_several_batches_takes_them_in_turn_and_an_epochs_last_what_is_left():
    single, several = ShuffledBatches(split(23), 4, seed=3), ShuffledBatches(split(23), 4, seed=3, accumulate=4)
    assert (single.steps_per_epoch, several.steps_per_epoch) == (6, 2)
    one_by_one = [next(single.of_update(step))["x"].tolist() for step in range(12)]
    updates = [[batch["x"].tolist() for batch in several.of_update(step)] for step in range(4)]
    assert [several.batch_count(step) for step in range(4)] == [4, 2, 4, 2]
    assert updates == [one_by_one[0:4], one_by_one[4:6], one_by_one[6:10], one_by_one[10:12]]
