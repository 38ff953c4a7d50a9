"""Losses, metrics, evaluations and BatchNorm statistics of two processes are those of one, but for rounding."""

import pytest
import torch
from processes import WorkerError
from sample_batch_parts import Scaled, assert_same_runs, built, run_of
from sample_parts import Noise
from sample_runs import ADAMW, SCHEDULE_FREE, config

from trainer import ConfigError, TensorSplit

SHARD = {"placement": "shard"}


def made(run_dir, first=None, second=None, scale="none", optims=None, samples=35, seed=0, **changed):
    """Return the config of a run with BatchNorm. The last batch of an epoch has three samples, one of them here."""
    components = {
        "first": {"type": "batch_normed"} | (first or {}),
        "second": {"type": "batch_normed"} | (second or {}),
    }
    data = {"params": {"samples": samples, "held_out": 11}, **changed.pop("data", {})}
    optims = dict.fromkeys(components, ADAMW) | (optims or {})
    often = {"eval_every": 3, "keep_best": {}, **changed}
    run = config(
        run_dir, components, optims, objective={"type": "scaled", "params": {"scale": scale}}, data=data, **often
    )
    run["train"]["objective"] = {"type": "scaled", "params": {"scale": scale}}
    run["plugins"].append("sample_batch_parts")
    return {**run, "seed": seed}


CASES = {
    "plain": {},
    "accumulated": {"accumulate": 3, "grad_clip_norm": 0.1},
    "cumulative": {"second": {"params": {"norm": "cumulative"}}},
    "without running statistics": {"second": {"params": {"norm": "untracked"}}},
    "lazy, at averaged weights": {"second": {"params": {"norm": "lazy"}}, "optims": {"first": SCHEDULE_FREE}},
    "with an average": {"ema": {"decay": 0.9}},
    "one sample in the last batch": {
        "first": {"type": "image_normed"},
        "second": {"type": "image_normed"},
        "samples": 33,
    },
    "scaled by a mean": {"scale": "without gradient"},
    "scaled by a mean with a gradient": {"scale": "with gradient", "samples": 33, "data": {"drop_last": True}},
    "sharded": {"first": SHARD, "optims": {"first": SCHEDULE_FREE}, "accumulate": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_as_one(tmp_path, two_workers, case):
    alone = run_of(made(tmp_path / "one", **CASES[case]))
    assert_same_runs(two_workers.call(run_of, made(tmp_path / "two", **CASES[case])), alone)


def refused(run):
    with pytest.raises(ConfigError) as error:
        built(run)
    return str(error.value)


def test_a_buffer_that_follows_the_samples_is_refused_by_name(tmp_path, two_workers):
    run = made(tmp_path / "run", first={"type": "following"})
    for message in two_workers.call(refused, run):
        assert message.startswith("model.components.first: its buffer 'seen' follows the samples of a batch")
    assert not (tmp_path / "run").exists()


class Noisy(Scaled):
    """Draws a number for each held-out sample."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def losses(self, components, batch):
        outcome = super().losses(components, batch)
        self.drawn.append(torch.rand(len(batch["x"])))
        return outcome


def drawn_in_two_evaluations(run):
    """Return the numbers that this process draws in each of two evaluations."""
    trainer = built(run)
    found = []
    for _ in range(2):
        trainer.objective.drawn.clear()
        trainer.evaluations.on_held_out()
        found.append(torch.cat(trainer.objective.drawn).tolist())
    return found


def test_the_processes_draw_other_numbers_in_an_evaluation(tmp_path, two_workers):
    """Else a mean over the held-out samples would be less certain than that of one process."""
    runs = [made(tmp_path / name, seed=4) for name in ("one", "two")]
    for run in runs:
        run["train"]["objective"] = {"type": "test_data_of_all.Noisy"}
    alone, again = drawn_in_two_evaluations(runs[0])
    torch.manual_seed(4)
    assert alone == again == torch.cat([torch.rand(8), torch.rand(3)]).tolist()
    first, second = two_workers.call(drawn_in_two_evaluations, runs[1])
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert len({*first[0], *second[0]}) == len(first[0]) + len(second[0]) == len(alone)


class Unreadable(TensorSplit):
    """One sample of an epoch cannot be read."""

    def batch(self, indices):
        if 20 in indices.tolist():
            raise OSError("sample 20 is not there")
        return super().batch(indices)


class Damaged(Noise):
    def __init__(self):
        super().__init__()
        self.train = Unreadable(self.train.batch(torch.arange(37)))


def test_a_sample_that_one_process_cannot_read_ends_the_run(tmp_path, two_workers):
    run = made(tmp_path / "run")
    run["data"] |= {"type": "test_data_of_all.Damaged", "params": {}}
    with pytest.raises(WorkerError) as error:
        two_workers.call(run_of, run)
    assert "OSError: sample 20 is not there" in str(error.value)
