"""Data that is not what a run needs is named before anything is written."""

import pytest
from rich.console import Console
from sample_runs import ADAMW, config

from trainer import ConfigError, train

QUIET = Console(quiet=True)
PARTS = {"train": "the training split", "held_out": "the held-out split"}
MISTAKES = {
    "a list": "{part} must have __len__() and batch(indices); got a list",
    "without batches": "{part} must have __len__() and batch(indices); got a HasNoBatch",
    "empty": "{part} is empty. Check data.params.",
    "ragged": "as many rows as there are samples; got x 5, y 3",
    "without tensors": "as many rows as there are samples; got no tensors",
    "of lists": "TensorSplit takes tensors with one sample a row; 'x' is a list",
    "gives a tuple": "{part}: a batch must be a dict of tensors with one sample a row; got tuple",
    "gives lists": "{part}: a batch must be a dict of tensors; its 'y' is a list",
    "gives too much": "{part}: a batch of 2 samples must have one row a sample in each tensor; its 'x' is of 7 rows",
    "gives a number": "in each tensor; its 'scale' is a number without rows",
    "fails": "{part} cannot make a batch of samples [0, 1]: KeyError: 'episode_7' (sample_trouble_parts.py:",
}


def with_data(run_dir, part, kind, **changed):
    data = {"type": "sample_trouble_parts.BadData", "params": {"part": part, "kind": kind}}
    return config(run_dir, {"first": {"type": "normed"}}, {"first": ADAMW}, data=data, **changed)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_part_that_is_not_data_is_named(tmp_path, part, kind):
    with pytest.raises(ConfigError) as raised:
        train(with_data(tmp_path / "run", part, kind), console=QUIET)
    assert str(raised.value).startswith("data")
    assert MISTAKES[kind].format(part=PARTS[part]) in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_there_is_named(tmp_path, part):
    with pytest.raises(ConfigError, match=f"data: BadData has no '{part}'. Set it in the constructor"):
        train(with_data(tmp_path / "run", part, "not there"), console=QUIET)


def test_an_evaluation_that_will_fail_is_found_before_the_run(tmp_path):
    raw = with_data(tmp_path / "run", "held_out", "gives other data")
    with pytest.raises(ConfigError, match=r"model.components.first: fails on an input of shape \[2, 3\]"):
        train(raw, console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"keep_best": {}, "eval_every": 2}, {"eval_every": 3}])
def test_an_empty_held_out_part_is_named_whoever_waits_for_it(tmp_path, options):
    with pytest.raises(ConfigError, match="Hold out at least one sample, or set held_out to None"):
        train(with_data(tmp_path / "run", "held_out", "empty", **options), console=QUIET)


OUTCOMES = {
    "a vector": r"the loss 'squared' has shape \[3\]. Take its mean over the batch",
    "a tuple": "got a tuple",
    "nothing": r"its losses are \{\}",
    "a text": "the metric 'name' is a str",
}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_losses_that_are_not_numbers_are_named(tmp_path, kind):
    raw = config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": ADAMW})
    raw["train"]["objective"] = {"type": "sample_trouble_parts.ManyLosses", "params": {"kind": kind}}
    with pytest.raises(ConfigError, match=f"train.objective: its losses must return .*; {OUTCOMES[kind]}"):
        train(raw, console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size", [38, 2**63 - 1])
def test_a_batch_larger_than_the_data_is_all_of_it(tmp_path, batch_size):
    raw = config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": ADAMW}, data={"batch_size": batch_size})
    assert train(raw, console=QUIET).step == 12
