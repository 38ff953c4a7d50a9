"""The share of the time that updates wait for their batches."""

import json

import pytest
from conftest import metrics_of
from rich.console import Console
from sample_runs import ADAMW, MLPS, config

from trainer import train
from trainer.loop import wait_timer


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(wait_timer, "perf_counter", clock)
    return clock


def batches(clock, *seconds):
    for each in seconds:
        clock.now += each
        yield {}


def test_the_share_is_that_of_the_updates_alone(clock):
    timer = wait_timer.WaitTimer()
    shares = []
    for waits, computes, logged in (((1, 2), 1, False), ((0, 0), 1, True), ((3,), 1, True)):
        for _ in timer.of_update(batches(clock, *waits)):
            clock.now += computes
        shares.append(timer.end_update(start_over=logged))
        clock.now += 100  # an evaluation
    assert shares == [3 / 5, 3 / 7, 3 / 4]


def test_each_training_line_has_the_share_and_no_evaluation_has(tmp_path):
    train(
        config(tmp_path / "run", MLPS, dict.fromkeys(MLPS, ADAMW), eval_every=6, log_every=4),
        console=Console(quiet=True),
    )
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines].count("train") == 4
    assert all(("data_wait" in line) == (line["split"] == "train") for line in lines)
    assert all(0 <= line["data_wait"] <= 1 for line in lines if "data_wait" in line)
    assert not any("data_wait" in line for line in metrics_of(tmp_path / "run"))
