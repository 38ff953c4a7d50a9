"""Losses, metrics, evaluations and BatchNorm statistics of two processes are those of one, but for rounding."""

import pytest
from sample_batch_parts import assert_same_runs, run_of
from sample_runs import ADAMW, SCHEDULE_FREE, config

SHARD = {"placement": "shard"}


def made(run_dir, first=None, second=None, scale="none", optims=None, samples=35, **changed):
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
    return run


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
