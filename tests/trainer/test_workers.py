"""Batches that worker processes make ahead are those that the run would make itself, and the workers end with it."""

import io
import multiprocessing
import os
import random
import time
from itertools import chain

import numpy as np
import pytest
import sample_parts
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from sample_runs import SCHEDULE_FREE, WARMUP, config, drop, two

from trainer import ConfigError, TensorSplit, UserCodeError, resume, train
from trainer.config.load import load_config
from trainer.distributed.world import Place
from trainer.loop.batches import ShuffledBatches
from trainer.offline_trainer import OfflineTrainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # where there are fewer processors than workers
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),  # Python 3.12 says so of every fork
]


class Spoilt(TensorSplit):
    """A split with one sample, number 20, that cannot be read."""

    def __init__(self, tensors, spoil):
        super().__init__(tensors)
        self._spoil = spoil

    def batch(self, indices):
        batch = super().batch(indices)
        return self._spoil(batch) if 20 in indices else batch


class Augmented(TensorSplit):
    """A split that adds noise of each generator."""

    def batch(self, indices):
        batch = super().batch(indices)
        noise = torch.rand(len(indices), 1) + random.random() + np.random.rand()
        return {**batch, "x": batch["x"] + noise}


class Reused(TensorSplit):
    """A split that writes every batch into the same memory, and returns a view of it."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self._memory = torch.zeros(100, dtype=torch.int64)

    def batch(self, indices):
        x = super().batch(indices)["x"]
        return {"x": self._memory[: len(x)].copy_(x)}


class SpoiltNoise(sample_parts.Noise):
    def __init__(self, spoil="misread"):
        super().__init__()
        self.train = Spoilt(self.train.batch(torch.arange(len(self.train))), globals()[spoil])


class AugmentedNoise(sample_parts.Noise):
    def __init__(self, samples=37):
        super().__init__(samples)
        self.train = Augmented(self.train.batch(torch.arange(len(self.train))))


def misread(batch):
    raise OSError("sample 20 is\nnot there")


def refuse(batch):
    raise ConfigError("data.params.path: sample 20 is damaged")


def put_text_in(batch):
    return {**batch, "name": "twenty"}


def die(batch):
    time.sleep(0.5)  # others have been made by then
    os._exit(3)


def numbers(samples=23, kind=TensorSplit):
    return kind({"x": torch.arange(samples), "y": torch.arange(samples) * 2})


def taken(batches, steps):
    """Return the batches of `steps` as plain lists, and close."""
    found = [
        [{name: values.tolist() for name, values in batch.items()} for batch in batches.of_update(s)] for s in steps
    ]
    batches.close()
    return found


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def children():
    """Return a function that returns the living processes which the test has started; in the end there are none."""
    others = multiprocessing.active_children()  # such as those of `two_workers`

    def own():
        return [process for process in multiprocessing.active_children() if process not in others]

    yield own
    assert own() == []


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_any_number_of_workers_makes_the_same_batches(accumulate, drop_last):
    alone, one, three = (ShuffledBatches(numbers(), 4, 3, drop_last, accumulate, workers=n) for n in (0, 1, 3))
    expected = taken(alone, range(14))
    assert taken(one, range(14)) == taken(three, range(14)) == expected


def test_several_processes_share_each_batch_and_draw_other_numbers():
    def made(place, kind=TensorSplit):
        return taken(ShuffledBatches(numbers(kind=kind), 4, 3, workers=1, place=place), range(7))

    parts, whole = [made(Place(rank, 3)) for rank in range(3)], made(Place())
    for number, ((batch,), *each) in enumerate(zip(whole, *parts, strict=True)):
        counted = [Place(rank, 3).share(len(batch["x"])) for rank in range(3)]
        joined = chain.from_iterable(part["x"][: len(of)] for (part,), of in zip(each, counted, strict=True))
        assert list(joined) == batch["x"], number
        assert all(len(part["x"]) >= 1 for (part,) in each)
    assert made(Place(1, 3), Augmented) == made(Place(1, 3), Augmented)
    noise = [
        {round(x[0] % 1, 5) for (batch,) in made(Place(rank, 2), Augmented) for x in batch["x"]} for rank in (0, 1)
    ]
    assert not noise[0] & noise[1]


def test_the_workers_live_until_close_and_across_epochs(children):
    batches = ShuffledBatches(numbers(), 4, seed=3, workers=2)
    assert children() == []
    next(batches.of_update(0))
    first = {process.pid for process in children()}
    for step in range(1, 14):
        next(batches.of_update(step))
    assert {process.pid for process in children()} == first
    assert len(first) == 2
    batches.close()
    assert children() == []
    batches.close()


def test_a_jump_goes_to_the_right_place():
    expected = taken(ShuffledBatches(numbers(), 4, 3, accumulate=2), range(20))
    jumping = ShuffledBatches(numbers(), 4, 3, accumulate=2, workers=2)
    next(jumping.of_update(5))  # and leaves its second batch
    assert taken(jumping, (17, 3, 4, 17)) == [expected[step] for step in (17, 3, 4, 17)]


def test_workers_leave_the_runs_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    taken(ShuffledBatches(numbers(), 4, 3, workers=2), range(8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_random_numbers_in_a_worker_hang_on_seed_epoch_and_batch_alone():
    def augmented(steps, **changed):
        return taken(ShuffledBatches(numbers(kind=Augmented), 4, **{"seed": 3, "workers": 1, **changed}), steps)

    whole = augmented(range(14))
    assert augmented(range(14), workers=3) == whole
    assert augmented(range(8, 14), workers=2) == whole[8:]
    assert augmented(range(14), seed=4) != whole
    noise = [round(x[0] % 1, 5) for update in whole for batch in update for x in batch["x"]]
    assert len(set(noise)) > 0.9 * len(noise)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_main_guard_is_named_where_workers_read_the_script_again(monkeypatch, method):
    monkeypatch.setattr("trainer.loop.batches.get_start_method", lambda: method)
    split = Spoilt({"x": torch.arange(23)}, die)
    with (
        ShuffledBatches(split, 4, 0, workers=1) as batches,
        pytest.raises(UserCodeError, match="Fewer workers") as told,
    ):
        list(chain.from_iterable(map(batches.of_update, range(12))))
    assert ('if __name__ == "__main__":' in str(told.value)) == (method != "fork")


def test_a_worker_that_dies_is_told_whatever_the_run_does():
    split = Spoilt({"x": torch.arange(23)}, die)
    assert 20 not in next(ShuffledBatches(split, 4, 0).of_update(0))["x"]

    def wait():
        with ShuffledBatches(split, 4, 0, workers=2) as batches:
            next(batches.of_update(0))
            time.sleep(30)

    with pytest.raises(
        UserCodeError, match=r"^data\.workers: DataLoader worker \(pid.* with exit code 3\..*Fewer workers"
    ):
        wait()


def test_without_workers_they_are_the_runs_own():
    batches = ShuffledBatches(numbers(kind=Augmented), 4, seed=3)
    before = torch.get_rng_state(), random.getstate()
    next(batches.of_update(0))
    assert not torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() != before[1]


def test_a_split_may_reuse_its_memory():
    alone, ahead = (ShuffledBatches(numbers(kind=Reused), 4, 3, workers=n) for n in (0, 2))
    expected = taken(alone, range(12))
    batches = [next(ahead.of_update(step)) for step in range(12)]
    ahead.close()
    assert [[{"x": batch["x"].tolist()}] for batch in batches] == expected
    assert max(batch["x"].untyped_storage().nbytes() for batch in batches) < 100 * 8


class Layouts(TensorSplit):
    """A split of tensors of several types and layouts in memory, with one of no numbers at all."""

    def batch(self, indices):
        x = super().batch(indices)["x"]
        images = (x[:, None, None, None] + torch.arange(5 * 6 * 3).reshape(5, 6, 3)).to(torch.uint8)
        return {
            "x": x,
            "channels_last": images.permute(0, 3, 1, 2),
            "expanded": x[:, None].expand(-1, 3),
            "every_second": torch.stack([x, x], 1)[:, 1],
            "flag": x > 10,
            "half": x.to(torch.float16)[:, None] / 3,
            "complex": torch.complex(x.float(), -x.float()).conj(),
            "empty": torch.zeros(len(x), 0),
            "weight": x.float().requires_grad_(),
        }


def test_a_batch_from_a_worker_has_the_values_and_strides_of_a_copy_and_one_piece_of_memory():
    alone, ahead = (ShuffledBatches(numbers(kind=Layouts), 4, 3, workers=n) for n in (0, 2))
    with ahead:
        for step in range(7):
            expected, batch = next(alone.of_update(step)), next(ahead.of_update(step))
            assert batch.keys() == expected.keys()
            for name, value in expected.items():
                copy = value.detach().clone()
                assert batch[name].dtype == copy.dtype
                assert batch[name].stride() == copy.stride()
                assert not batch[name].requires_grad
                assert torch.equal(batch[name], copy)
            assert len({value.untyped_storage().data_ptr() for value in batch.values()}) == 1


class Sparse(TensorSplit):
    def batch(self, indices):
        x = super().batch(indices)["x"]
        return {"x": x, "sparse": torch.eye(len(x)).to_sparse()}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_batch_may_hold_other_kinds_of_tensors():
    with ShuffledBatches(numbers(kind=Sparse), 4, 3, workers=1) as ahead:
        assert torch.equal(next(ahead.of_update(0))["sparse"].to_dense(), torch.eye(4))


OPTIMS = {"first": WARMUP, "second": SCHEDULE_FREE}


def split_run(tmp_path, quiet, before, after, first, second, **options):
    """Train 12 updates with `before` workers, take them up after 5 with `after`; return its last checkpoint's files."""
    run = tmp_path / f"{first}_{second}"
    options = {"save_every": 5, "eval_every": 4, **options}
    data = {"batch_size": 8, **options.pop("data", {}), "workers": before}
    train(config(run, two(), OPTIMS, data=data, **options), console=quiet)
    for later in ("step_00000010", "step_00000012"):
        drop(run / "checkpoints" / later)
    assert resume(run, {"data.workers": after}, console=quiet).step == 12
    return files_of(run / "checkpoints" / "step_00000012"), metrics_of(run)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_is_taken_up_in_mid_epoch_with_other_workers(tmp_path, quiet, accumulate):
    options = {"save_every": 5, "eval_every": 4, "accumulate": accumulate}
    data = {"params": {"samples": 60}, "batch_size": 8}
    train(config(tmp_path / "whole", two(), OPTIMS, data=data, **options), console=quiet)
    whole = files_of(tmp_path / "whole" / "checkpoints" / "step_00000012"), metrics_of(tmp_path / "whole")
    for before, after in ((0, 2), (2, 0), (1, 3)):
        found = split_run(tmp_path, quiet, before, after, before, after, data=data, accumulate=accumulate)
        assert found == whole


def test_an_augmented_run_is_taken_up_with_other_workers(tmp_path, quiet):
    data = {"type": "test_workers.AugmentedNoise", "params": {"samples": 60}}
    options = {"save_every": 5, "eval_every": 4, "data": data}
    train(config(tmp_path / "whole", two(), OPTIMS, **{**options, "data": {**data, "workers": 2}}), console=quiet)
    whole = files_of(tmp_path / "whole" / "checkpoints" / "step_00000012"), metrics_of(tmp_path / "whole")
    assert split_run(tmp_path, quiet, 1, 3, "one", "three", **options) == whole
    assert split_run(tmp_path, quiet, 0, 0, "none", "none", **options)[0] != whole[0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            "misread",
            r"data: batch \d of epoch 0 \(from 0\) cannot be made: OSError: sample 20 is\nnot there \(test_work",
        ),
        ("refuse", r"data\.params\.path: sample 20 is damaged\n"),
        ("put_text_in", r"data: batch .* TypeError: a batch is a dict of tensors; name is of type str"),
        ("die", r"data\.workers: DataLoader worker .*\. Fewer workers need less memory; with 0 the run makes"),
    ],
)
def test_what_a_worker_cannot_make_ends_the_run_with_the_reason(tmp_path, quiet, children, spoil, told):
    data = {"type": "test_workers.SpoiltNoise", "params": {"spoil": spoil}, "workers": 2}
    with pytest.raises(UserCodeError, match=told) as raised:
        train(config(tmp_path / "run", two(), OPTIMS, data=data), console=quiet)
    assert children() == []
    if spoil == "misread":
        assert "in misread" in str(raised.value.__cause__)


def test_no_process_is_left_when_a_run_ends_or_fails(tmp_path, quiet, children, monkeypatch):
    seen = []

    def losses(self, components, batch):
        seen.append(len(children()))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return compute(self, components, batch)

    compute = sample_parts.Regression.losses
    ended, stopped = (
        OfflineTrainer(load_config(config(tmp_path / name, two(), OPTIMS, data={"workers": 2})), quiet)
        for name in ("ended", "stopped")
    )
    for trainer in (ended, stopped):
        trainer.config.train.run_dir.mkdir()
    ended.run()
    assert children() == []
    monkeypatch.setattr(sample_parts.Regression, "losses", losses)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert children() == []
    assert seen == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_pinned_for_a_cuda_device_only(tmp_path, quiet, workers):
    data = {"pin_memory": True, "workers": workers}
    with pytest.raises(ConfigError, match=r"^data\.pin_memory: is for a CUDA device; the run's is cpu\. Set it to f"):
        train(config(tmp_path / "run", two(), OPTIMS, data=data), console=quiet)


def test_the_number_of_workers_is_a_count(tmp_path, quiet):
    with pytest.raises(ConfigError, match=r"^data\.workers: .*got -1"):
        train(config(tmp_path / "run", two(), OPTIMS, data={"workers": -1}), console=quiet)
