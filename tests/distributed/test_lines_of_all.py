"""The metrics of a run of two processes: the lines of one process, there before a save, an evaluation and a failure."""

import json
import math
from pathlib import Path

import pytest
from commands import run_together, write_experiment
from run_together import UPDATES, config, replaced, trained
from torch import distributed, tensor
from worlds import own_world

from trainer import evaluations
from trainer.checkpoint.manager import CheckpointManager
from trainer.errors import SaveError
from trainer.interfaces.objective import Outcome
from trainer.loop.update_report import UpdateReport
from trainer.reporting import training_lines
from trainer.reporting.metrics_file import TIMED
from trainer.reporting.training_lines import TrainingLines

LITTLE = 32
"""Bytes of a message that the sums of an update do not fit into."""
WIDE = 100
"""Metrics of an update whose sums do not fit into a message."""


def lines_of(run):
    """Return the lines without values that depend on time or, as `size` does, on the batch of the process."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    left_out = (*TIMED, "size")
    return [{name: value for name, value in line.items() if name not in left_out} for line in lines]


def places(run):
    return [(line["split"], line["step"]) for line in lines_of(run)]


class Shown:
    """In place of the progress of a run."""

    def rate(self, step):
        return 1.0

    def show(self, line):
        pass


class FullDisk:
    """In place of the metrics of a run: the main process cannot write the line of update 0."""

    def __init__(self):
        self.written = []

    def write(self, line):
        if own_world().is_main and line["step"] == 0:
            raise SaveError("the disk is full")
        self.written.append(line["step"])


def report_of(step, metrics):
    outcome = Outcome({"loss": tensor(1.0)}, {f"metric_{index}": tensor(2.0) for index in range(metrics)})
    return UpdateReport(step, 0, True, [outcome], [8], {}, {}, {}, 0.0, own_world())


def lines_with_a_full_disk():
    """Write three lines of which the first one cannot be written; return the outcome here, and a gathered value.

    Returns:
        The message of the error, the updates observed and those written, and a value gathered afterwards.
    """
    seen, metrics, message = [], FullDisk(), None
    lines = TrainingLines(own_world(), metrics, Shown(), lambda report: seen.append((report.step, *report.losses)))
    for step in range(3):
        lines.add(report_of(step, WIDE))
        lines.write_arrived()
    try:
        lines.write()
    except SaveError as error:
        message = str(error)
    return message, [step for step, _ in seen], metrics.written, own_world().gather(own_world().rank)


def messages_of_lines():
    """Return whether lines wait for all processes before `write` was called, and after it."""
    found, lines = [], TrainingLines(own_world(), FullDisk(), Shown(), lambda report: None)
    for step in (1, 2):
        lines.add(report_of(step, WIDE))
        own_world().barrier()
        while not (lines.need_all or lines._sent[0][0].has_arrived):
            pass
        lines.write_arrived()
        found.append((lines.need_all, bool(lines)))
        lines.write()
    return found


def train_and_look(made, room):
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
    undo.append(replaced(training_lines, "ROOM", room))
    try:
        trained(made)
    finally:
        for each in undo:
            each()
    return found


@pytest.mark.parametrize("room", [training_lines.ROOM, LITTLE], ids=["short", "long"])
def test_lines_of_two_processes_are_in_the_order_of_those_of_one_and_complete_at_each_save(two_workers, tmp_path, room):
    """A save comes at every fourth update and for each best evaluation, an evaluation at every second update."""
    trained(config(tmp_path / "one"))
    found, of_others = two_workers.call(train_and_look, config(tmp_path / "two"), room)
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


def test_sums_that_need_more_than_a_message_wait_for_all_once(two_workers):
    assert two_workers.call(messages_of_lines) == [[(True, True), (False, False)]] * 2


def test_a_line_that_the_main_process_cannot_write_does_not_keep_values_from_the_others(two_workers):
    main, other = two_workers.call(lines_with_a_full_disk)
    assert main == ("the disk is full", [0, 1, 2], [], [0, 1])
    assert other == (None, [0, 1, 2], [0, 1, 2], [0, 1])


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
