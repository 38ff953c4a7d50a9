import pytest
import torch

from trainer import ConfigError, TensorSplit
from trainer.data import ShuffledBatches, in_order


def split(samples):
    return TensorSplit({"x": torch.arange(samples), "y": torch.arange(samples) * 2})


@pytest.mark.parametrize(("samples", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 8, [3])])
def test_an_epoch_has_every_sample_once(samples, batch_size, sizes):
    batches = ShuffledBatches(split(samples), batch_size, seed=0)
    assert batches.steps_per_epoch == len(sizes)
    epoch = [batches.batch(step)["x"] for step in range(len(sizes))]
    assert [len(batch) for batch in epoch] == sizes
    assert sorted(torch.cat(epoch).tolist()) == list(range(samples))


def test_epochs_and_seeds_have_orders_of_their_own():
    batches = ShuffledBatches(split(50), 50, seed=0)
    orders = [tuple(batches.batch(epoch)["x"].tolist()) for epoch in range(3)]
    orders.append(tuple(ShuffledBatches(split(50), 50, seed=1).batch(0)["x"].tolist()))
    assert len(set(orders)) == 4


def test_any_batch_is_the_same_however_one_got_there():
    walked, jumped = (ShuffledBatches(split(23), 4, seed=3) for _ in range(2))
    in_turn = [walked.batch(step)["x"] for step in range(20)]
    for step in (17, 3, 12, 17):
        assert torch.equal(jumped.batch(step)["x"], in_turn[step])


def test_it_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    ShuffledBatches(split(23), 4, seed=3).batch(11)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_short_last_batch_can_be_left_out():
    batches = ShuffledBatches(split(10), 4, seed=0, drop_last=True)
    assert [len(batches.batch(step)["x"]) for step in range(4)] == [4, 4, 4, 4]
    with pytest.raises(ConfigError, match=r"data.batch_size: must be <= 10"):
        ShuffledBatches(split(10), 11, seed=0, drop_last=True)


def test_in_order_is_in_order():
    batches = list(in_order(split(5), 2))
    assert [batch["y"].tolist() for batch in batches] == [[0, 2], [4, 6], [8]]
