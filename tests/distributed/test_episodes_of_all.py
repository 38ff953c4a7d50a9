"""Episodes of an evaluation in two processes: each runs a share of them, and both have the metrics of all."""

import os

import pytest
import torch

pytest.importorskip("gymnasium", reason="needs the extra `sim`")

from sample_batch_parts import assert_same_runs, built, run_of
from sample_envs import Countdown, ReachPolicy, config
from worlds import own_world

from trainer import UserCodeError
from trainer.interfaces.evaluation import ENVIRONMENT_REGISTRY
from trainer.interfaces.policy import Policy
from trainer.loop.policy_evaluation import EvaluationStoppedError

HEAD = {"type": "wide_mlp", "params": {"in_features": 4, "out_features": 2, "hidden": [5]}}
SHARDED = {"placement": "shard"}


class Exact(ReachPolicy):
    """Draws no random numbers in training."""

    update = Policy.update


@ENVIRONMENT_REGISTRY.register("breaking_on_rank_1")
class BreakingOnRank1(Countdown):
    """Its second evaluation fails in one process."""

    def episodes(self, *arguments, **options):
        self.evaluations = getattr(self, "evaluations", 0) + (options.get("max_steps") is None)
        if self.evaluations > 1 and os.environ.get("RANK") == "1":
            raise LookupError("no display here")
        return super().episodes(*arguments, **options)


def made(run_dir, kind="gym", n_episodes=5, placed=None, **changed):
    evaluation = {"n_episodes": n_episodes, "every": 4, "batch_size": min(2, n_episodes)}
    run = config(run_dir, evaluation, **changed)
    if kind != "gym":
        run["train"]["evaluation"] |= {"type": kind, "params": {}}
    run["plugins"].append("sample_batch_parts")
    run["train"]["objective"]["type"] = "test_episodes_of_all.Exact"
    run["model"]["components"] = {"head": {**HEAD, **(placed or {})}}
    return run


@pytest.mark.parametrize("placed", [{}, SHARDED])
def test_metrics_are_those_of_one_process(tmp_path, two_workers, placed):
    alone = run_of(made(tmp_path / "one", placed=placed, eval_every=6))
    assert any("return" in line for line in alone[1])
    assert_same_runs(two_workers.call(run_of, made(tmp_path / "two", placed=placed, eval_every=6)), alone)


def test_a_process_without_episodes_has_the_metrics_too(tmp_path, two_workers):
    runs = two_workers.call(run_of, made(tmp_path / "run", "countdown", n_episodes=1))
    returns = [[line["return"] for line in lines if "return" in line] for _, lines in runs]
    assert returns == [[100_000.0] * 3] * 2


def drawn(run):
    """Train a run whose weights are sharded; return whether its picture is there."""
    trainer = built(run)
    trainer.run()
    trainer.world.barrier()
    return (trainer.config.train.run_dir / "rollouts.png").is_file()


def test_the_main_process_draws_episodes_of_sharded_components(tmp_path, two_workers):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    assert two_workers.call(drawn, made(tmp_path / "run", placed=SHARDED, pictures=True)) == [True, True]


def failing(run):
    with pytest.raises(UserCodeError) as error:
        built(run).run()
    return str(error.value)


def test_a_failure_in_one_process_ends_all_with_its_message(tmp_path, two_workers):
    for message in two_workers.call(failing, made(tmp_path / "run", "breaking_on_rank_1")):
        assert "no display here" in message


def stopped(run, rank):
    trainer, asked = built(run), []

    def stops():
        asked.append(1)
        return own_world().rank == rank and len(asked) > 3

    with pytest.raises(EvaluationStoppedError):
        trainer.evaluations.in_environment(stops)
    return len(asked)


def test_a_stop_in_one_process_stops_the_evaluation_in_all(tmp_path, two_workers):
    first, second = two_workers.call(stopped, made(tmp_path / "run"), 1)
    assert first > second


def drawn_numbers(run):
    """Return the random numbers that the policy draws in an evaluation, before and after which all draw the same."""
    trainer = built(run)
    numbers = []
    act = type(trainer.objective).actions

    def noting(self, components, observation):
        numbers.append(float(torch.rand(())))
        return act(self, components, observation)

    type(trainer.objective).actions = noting
    try:
        trainer.evaluations.in_environment()
    finally:
        type(trainer.objective).actions = act
    return numbers, float(torch.rand(()))


def test_the_policies_of_two_processes_draw_other_numbers(tmp_path, two_workers):
    first, second = two_workers.call(drawn_numbers, made(tmp_path / "run"))
    assert not set(first[0]) & set(second[0])
    assert first[1] == second[1]
    again = two_workers.call(drawn_numbers, made(tmp_path / "again"))
    assert [numbers for numbers, _ in again] == [first[0], second[0]]
