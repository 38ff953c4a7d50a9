"""The metrics of a run of two processes: the lines of one process, there before a save, an evaluation and a failure."""

import json
import math
from pathlib import Path

import pytest
from commands import run_together, write_experiment
from run_together import UPDATES, config, replaced, trained
from torch import distributed

from trainer import evaluations
from trainer.checkpoint.manager import CheckpointManager
from trainer.distributed import exchange
from trainer.reporting.metrics_file import TIMED

SHORT = {"_SHORT_BYTES": 40, "_ROOM": 32}
"""As if the sums of an update did not fit into a message."""


def lines_of(run):
    """Return the lines without values that depend on time or, as `size` does, on the batch of the process."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    left_out = (*TIMED, "size")
    return [{name: value for name, value in line.items() if name not in left_out} for line in lines]


def places(run):
    return [(line["split"], line["step"]) for line in lines_of(run)]


def train_and_look(made, constants):
    """Train; return the places of the lines that the main process finds at each save and evaluation of a trainer."""
    save, evaluate, found = CheckpointManager.save, evaluations.evaluate, []

    def look():
        if distributed.get_rank() == 0:
            found.append(places(made["train"]["run_dir"]))

    def saving(*given):
        look()
        return save(*given)

    def evaluating(*given):
        look()
        return evaluate(*given)

    undo = [replaced(CheckpointManager, "save", saving), replaced(evaluations, "evaluate", evaluating)]
    undo += [replaced(exchange, name, value) for name, value in constants.items()]
    try:
        trained(made)
    finally:
        for each in undo:
            each()
    return found


@pytest.mark.parametrize("constants", [{}, SHORT], ids=["short", "long"])
def test_lines_of_two_processes_are_in_the_order_of_those_of_one_and_complete_at_each_save(
    two_workers, tmp_path, constants
):
    """A save comes at every fourth update and for each best evaluation, an evaluation at every second update."""
    trained(config(tmp_path / "one"))
    found, of_others = two_workers.call(train_and_look, config(tmp_path / "two"), constants)
    whole = places(tmp_path / "one")
    assert places(tmp_path / "two") == whole
    assert [step for split, step in whole if split == "train"] == [*range(UPDATES)]
    assert len(found) > UPDATES // 2
    assert not of_others
    for there in found:
        assert there == whole[: len(there)]
        steps = [step for split, step in there if split == "train"]
        assert len(steps) % 2 == 0, "a save or an evaluation is not due after an odd number of updates"


def test_values_of_two_processes_are_those_of_one(two_workers, tmp_path):
    options = {"log_every": 3, "eval_every": 5, "save_every": 6}
    trained(config(tmp_path / "one", **options))
    two_workers.call(trained, config(tmp_path / "two", **options))
    alone, together = lines_of(tmp_path / "one"), lines_of(tmp_path / "two")
    assert [line.keys() for line in together] == [line.keys() for line in alone]
    for one, two in zip(alone, together, strict=True):
        for name, value in one.items():
            assert two[name] == value or math.isclose(two[name], value, rel_tol=1e-4), name


@pytest.mark.parametrize(("what", "where"), [("raise", 0), ("raise", 1), ("kill", 0), ("kill", 1)])
def test_a_failure_leaves_the_lines_of_all_updates_that_are_saved(tmp_path, what, where):
    """A process that is killed at the beginning of an update may not have sent its values of the one before."""
    path = write_experiment(tmp_path, what, where=where)
    ended = run_together(2, "train", path, "--train.log_every=1")
    assert 0 not in ended.codes
    saved = int((tmp_path / "run/checkpoints/latest").read_text().strip().removeprefix("step_"))
    assert saved == (4 if (what, where) == ("kill", 0) else 6)
    steps = [step for split, step in places(tmp_path / "run") if split == "train"][:saved]
    assert steps == [*range(len(steps))]
    assert len(steps) >= (saved - 1 if what == "kill" else saved)
