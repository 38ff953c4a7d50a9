"""Runs that evaluate their policy in an environment."""

import io
import json
import os
import re

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file

from trainer import ConfigError, SaveError, StoppedBySignal, UserCodeError, load_config, resume, train
from trainer.offline_trainer import OfflineTrainer

pytest.importorskip("gymnasium", reason="needs the extra `sim`")

import sample_envs
import sample_runs
from sample_envs import config
from sample_runs import ADAMW, PLATEAU, SCHEDULE_FREE, KilledError, two

BEST = {"monitor": "val_success", "mode": "max"}
OWN = {"success", "return", "episode_length", "distance", "max_distance"}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=200)


def trained(run, quiet, *arguments, **changed):
    return train(config(run, *arguments, **changed), console=quiet).run_dir


def last(run):
    return files_of(run / "checkpoints/step_00000012")


def evaluations(run):
    """Return the lines of evaluations by step, without what each has."""
    lines = [line for line in metrics_of(run) if line["split"] == "held_out"]
    return {line["step"]: {name: line[name] for name in line.keys() - {"split", "step", "epoch"}} for line in lines}


def training(run):
    return [line for line in metrics_of(run) if line["split"] == "train"]


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_training_is_the_same_with_and_without_evaluation(tmp_path, quiet, use_async_envs):
    changed = {"policy": {"noise": 0.5}, "env": {"id": "sample/Careless-v0"}}
    without = trained(tmp_path / "without", quiet, policy=changed["policy"])
    evaluation = {"every": 2, "use_async_envs": use_async_envs, "batch_size": 3}
    with_it = trained(tmp_path / "with", quiet, evaluation, eval_every=5, **changed)
    assert last(with_it) == last(without)
    assert training(with_it) == training(without)
    both = [step for step, line in evaluations(with_it).items() if "success" in line]
    assert both == [2, 4, 6, 8, 10, 12]
    again = trained(tmp_path / "again", quiet, evaluation, save_every=6, eval_every=5, **changed)
    assert evaluations(again) == evaluations(with_it)
    resume(again / "checkpoints/step_00000006", console=quiet)
    assert evaluations(again) == evaluations(with_it)
    assert len({line["return"] for line in evaluations(again).values() if "return" in line}) == 6


def test_each_evaluation_has_a_line_with_what_was_due(tmp_path, quiet):
    run = trained(tmp_path / "run", quiet, {"every": 3}, eval_every=4)
    found = {step: set(line) for step, line in evaluations(run).items()}
    held_out = {"loss", "loss/squared"}
    assert found == {3: OWN, 4: held_out, 6: OWN, 8: held_out, 9: OWN, 12: OWN | held_out}
    text = quiet.file.getvalue()
    assert re.search(
        r"after 3 updates, 6 episodes in sample/Reach-v0: success \S+  return \S+  episode_length \S+\n", text
    )
    assert re.search(r"after 12 updates, held out: loss \S+\nafter 12 updates, 6 episodes in", text)


def test_a_run_without_held_out_samples_is_evaluated_in_the_environment_alone(tmp_path, quiet):
    run = trained(tmp_path / "run", quiet, {"every": 6}, data={"held_out": 0}, keep_best=BEST)
    assert {step: set(line) for step, line in evaluations(run).items()} == {6: OWN, 12: OWN}


def test_the_best_checkpoint_is_the_one_with_the_highest_success(tmp_path, quiet):
    run = trained(tmp_path / "run", quiet, {"every": 2}, eval_every=1, keep_best=BEST)
    by_step = {step: line["success"] for step, line in evaluations(run).items() if "success" in line}
    best = max(by_step.values())
    assert 0 < best != by_step[12]
    first = min(step for step, value in by_step.items() if value == best)
    assert (run / "checkpoints/best").read_text().strip() == f"step_{first:08}"


RULES = {
    "other episodes": (BEST, {"train.evaluation.n_episodes": 3}, True),
    "other environments at a time": (BEST, {"train.evaluation.batch_size": 2}, False),
    "another metric": ({}, {"train.evaluation.n_episodes": 3}, False),
}


@pytest.mark.parametrize("case", RULES)
def test_a_resume_that_changes_what_is_monitored_searches_for_the_best_again(tmp_path, quiet, case):
    rule, override, starts_again = RULES[case]
    run = trained(tmp_path / "run", quiet, {"every": 4}, eval_every=4, save_every=4, keep_best=rule)
    printed = Console(file=io.StringIO(), width=200)
    resume(run / "checkpoints/step_00000008", override, console=printed)
    assert ("train.evaluation has changed: the search for the best starts" in printed.file.getvalue()) == starts_again


def test_a_plateau_schedule_follows_the_success(tmp_path, quiet):
    made = config(tmp_path / "run", {"every": 2}, data={"held_out": 0})
    schedule = {**PLATEAU["params"]["schedule"], "monitor": "val_success", "mode": "max", "threshold": 10.0}
    made["model"]["component_optims"]["head"] = {"type": "adamw", "params": {"lr": 0.1, "schedule": schedule}}
    run = train(made, console=quiet).run_dir
    lrs = [line["lr/head"] for line in training(run)]
    assert lrs[::2] == lrs[1::2] == [0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625]


def test_the_policy_is_evaluated_in_eval_mode_at_the_averaged_weights(tmp_path, quiet, monkeypatch):
    seen = []
    actions = sample_envs.ReachPolicy.actions

    def spy(self, components, observation):
        head = components["head"]
        seen.append(
            (head.training, head.linear.weight.clone(), head.norm.running_mean.clone(), torch.is_grad_enabled())
        )
        return actions(self, components, observation)

    monkeypatch.setattr(sample_envs.ReachPolicy, "actions", spy)
    made = config(tmp_path / "run", {}, eval_every=None)
    made["model"]["component_optims"]["head"] = SCHEDULE_FREE
    run = train(made, console=quiet).run_dir
    is_training, weight, mean, has_gradients = seen[-1]
    saved = load_file(run / "checkpoints/step_00000012/head/model.safetensors")
    assert torch.equal(weight, saved["linear.weight"])
    assert not torch.equal(mean, saved["norm.running_mean"]), "the statistics are those of the averaged weights"
    assert not is_training
    assert not has_gradients


WAITING = {
    "at the end only": ({}, {"keep_best": BEST, "eval_every": 3}, "Set train.evaluation.every to less than the 12 upd"),
    "held out at the end only": ({"every": 3}, {"keep_best": {}}, "Set train.eval_every to less than the 12 updates"),
    "no such metric": ({"every": 3}, {"keep_best": {"monitor": "val_sucess"}}, "did you mean 'val_success'"),
}


@pytest.mark.parametrize("case", WAITING)
def test_a_metric_that_does_not_come_in_time_is_refused(tmp_path, quiet, case):
    evaluation, changed, message = WAITING[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(config(tmp_path / "run", evaluation, **changed), console=quiet)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_comes_at_the_end_of_an_episode_alone_may_be_monitored(tmp_path, quiet):
    env = {"id": "sample/Late-v0"}
    run = trained(tmp_path / "run", quiet, {"every": 4}, env=env, keep_best={"monitor": "val_late", "mode": "max"})
    assert {line["late"] for line in evaluations(run).values()} == {5.0}


REFUSED = {
    "batch size": (
        {"batch_size": 7},
        {},
        "train.evaluation.batch_size: batch size cannot be larger than number of epi",
    ),
    "videos": ({"video": 7}, {}, "train.evaluation.video: must be <= 6, n_episodes; got 7"),
    "missing feature": (
        {},
        {"policy": {"reads": ["force"]}},
        "the policy reads 'force', which the observations of sam",
    ),
    "other shape": (
        {},
        {"data": {"wide": True}},
        "reads 'observation.state' of shape [3]; got [2] from sample/Reach-v0",
    ),
    "failing policy": ({}, {"policy": {"way": "raises"}}, "its actor fails on observation.state [1, 2]"),
    "shape of actions": ({}, {"policy": {"way": "shape"}}, "its actor must return actions of shape [1, 2]; got [1, 1]"),
    "NaN": ({}, {"policy": {"way": "nan"}}, "its actor returns an action that is not finite at step 0"),
    "failing environment": ({}, {"env": {"id": "sample/Faulty-v0", "env": {"after": 0}}}, "fails: ZeroDivisionError"),
    "nothing to record": (
        {"video": 1},
        {"env": {"id": "sample/Blind-v0"}},
        "has no render mode rgb_array; it has none",
    ),
    "broken renderer": ({"video": 1}, {"env": {"id": "sample/NoScreen-v0"}}, "to record: OSError: no screen"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_config_that_cannot_work_is_refused_before_the_first_update(tmp_path, quiet, case):
    evaluation, changed, message = REFUSED[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(config(tmp_path / "run", evaluation, **changed), console=quiet)
    assert not (tmp_path / "run").exists()


def test_an_objective_that_does_not_act_is_refused(tmp_path, quiet):
    evaluation = config(tmp_path, {})["train"]["evaluation"]
    made = sample_runs.config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, evaluation=evaluation)
    with pytest.raises(ConfigError, match=r"train.evaluation: needs a policy.* train.objective is Regression"):
        train(made, console=quiet)


def test_building_a_run_leaves_no_environment_open(tmp_path, quiet):
    trainer = OfflineTrainer(load_config(config(tmp_path / "run", {"use_async_envs": True})), quiet)
    assert trainer.evaluations._policy.environment._envs is None


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_an_environment_that_fails_later_ends_the_run_with_its_checkpoint(tmp_path, quiet, use_async_envs):
    pids = tmp_path / "pids"
    env = {"id": "sample/Faulty-v0", "env": {"after": 30, "pidfile": str(pids)}}
    evaluation = {"every": 4, "batch_size": 2, "use_async_envs": use_async_envs}
    with pytest.raises(
        UserCodeError, match=r"(?s)after 4 updates: .*exploded \(sample_envs.py:\d+\).*innerstep resume"
    ):
        train(config(tmp_path / "run", evaluation, env=env), console=quiet)
    assert (tmp_path / "run/checkpoints/step_00000004/manifest.json").is_file()
    others = {int(pid) for pid in pids.read_text().split()} - {os.getpid()}
    assert len(others) == (2 if use_async_envs else 0)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in others)


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_ctrl_c_during_the_episodes_stops_the_run_which_then_resumes_as_if_nothing_was(tmp_path, quiet, use_async_envs):
    options = {"after": 30, "way": "ctrl_c", "once": str(tmp_path / "once"), "run": os.getpid()}
    evaluation = {"every": 4, "batch_size": 2, "use_async_envs": use_async_envs}
    changed = {"env": {"id": "sample/Faulty-v0", "env": options}, "eval_every": 4, "keep_best": BEST}
    (tmp_path / "once").touch()
    whole = trained(tmp_path / "whole", quiet, evaluation, **changed)
    (tmp_path / "once").unlink()
    with pytest.raises(StoppedBySignal, match="SIGINT: stopped after 4 updates; they are saved"):
        train(config(tmp_path / "parts", evaluation, **changed), console=quiet)
    assert evaluations(tmp_path / "parts") == {}
    resume(tmp_path / "parts", console=quiet)
    assert metrics_of(tmp_path / "parts") == metrics_of(whole)
    assert last(tmp_path / "parts") == last(whole)


@pytest.mark.parametrize(("every", "eval_every"), [(4, None), (12, 4), (4, 4)])
def test_a_kill_between_a_checkpoint_and_its_evaluation_loses_nothing(tmp_path, quiet, monkeypatch, every, eval_every):
    changed = {"save_every": 4, "eval_every": eval_every}
    whole = trained(tmp_path / "whole", quiet, {"every": every}, **changed)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.evaluations.Evaluations.evaluate_and_keep", _killed)
        with pytest.raises(KilledError):
            train(config(tmp_path / "parts", {"every": every}, **changed), console=quiet)
    assert sorted(evaluations(tmp_path / "parts")) == []
    resume(tmp_path / "parts", console=quiet)
    assert metrics_of(tmp_path / "parts") == metrics_of(whole)
    assert last(tmp_path / "parts") == last(whole)


def _killed(*arguments):
    raise KilledError


def test_an_evaluation_that_was_written_before_a_kill_is_not_repeated(tmp_path, quiet, monkeypatch):
    changed = {"save_every": 4, "eval_every": 4, "keep_best": BEST}
    whole = trained(tmp_path / "whole", quiet, {"every": 4}, **changed)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.evaluations.observe", _killed)
        with pytest.raises(KilledError):
            train(config(tmp_path / "parts", {"every": 4}, **changed), console=quiet)
    assert sorted(evaluations(tmp_path / "parts")) == [4]
    resumed = Console(file=io.StringIO(), width=200)
    resume(tmp_path / "parts", console=resumed)
    assert re.search(r"after 4 updates, held out: loss \S+\nafter 4 updates, 6 episodes in", resumed.file.getvalue())
    assert metrics_of(tmp_path / "parts") == metrics_of(whole)
    assert last(tmp_path / "parts") == last(whole)


def test_a_resume_without_the_evaluation_that_was_due_writes_no_line_of_it(tmp_path, quiet, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("trainer.evaluations.Evaluations.evaluate_and_keep", _killed)
        with pytest.raises(KilledError):
            trained(tmp_path / "run", quiet, {"every": 4}, data={"held_out": 0}, save_every=4)
    resume(tmp_path / "run", {"train.evaluation": None}, console=quiet)
    assert evaluations(tmp_path / "run") == {}


def test_a_picture_that_cannot_be_written_leaves_a_finished_run(tmp_path, quiet):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    run = trained(tmp_path / "run", quiet, {})
    (run / "rollouts.png").mkdir()
    with pytest.raises(SaveError, match=r"the run is done and saved; .*cannot be written.*after 12 updates"):
        resume(run, {"train.pictures": True}, console=quiet)


def test_pictures_and_videos_show_the_episodes(tmp_path, quiet):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    av = pytest.importorskip("av", reason="needs the extra `robot`")
    run = trained(tmp_path / "run", quiet, {"every": 6, "video": 2}, pictures=True)
    assert {path.name for path in run.glob("*.png")} == {
        "learning_rates.png",
        "losses.png",
        "rollouts.png",
        "success.png",
    }
    assert "rollouts.png: frames" in quiet.file.getvalue().replace("\n", "")
    assert sorted(path.name for path in (run / "videos").iterdir()) == ["episode_100000.mp4", "episode_100001.mp4"]
    with av.open(str(run / "videos/episode_100000.mp4")) as video:
        frames = list(video.decode(video=0))
        assert float(video.streams.video[0].average_rate) == 10
    assert (frames[0].width, frames[0].height) == (12, 8)
    (episode,) = _recorded(run, quiet)
    assert len(frames) == episode.length + 1

    (run / "videos/mine.mp4").touch()
    with pytest.raises(ConfigError, match=r"videos/mine.mp4"):
        train(config(run), overwrite=True, console=quiet)
    (run / "videos/mine.mp4").unlink()
    train(config(run), overwrite=True, console=quiet)
    assert not (run / "videos").exists()
    assert not (run / "rollouts.png").exists()


def _recorded(run, quiet):
    """Return the first episode of the run's last evaluation, run again."""
    config = load_config(run / "config.yaml")
    trainer = OfflineTrainer(config, quiet, resumed=True)
    trainer.restore(run / "checkpoints/step_00000012")
    trainer.components.eval()
    return list(trainer.evaluations._policy.recorded(trainer.components, config.seed, 1, 6))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Blind", "paths of observation.state: sample/Blind-v0 has no render"),
        ("NoScreen", "paths of observation.state: OSError: no screen"),
    ],
)
def test_an_environment_that_cannot_render_is_drawn_as_paths(tmp_path, quiet, name, line):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    run = trained(tmp_path / "run", quiet, {}, env={"id": f"sample/{name}-v0"}, pictures=True)
    assert (run / "rollouts.png").stat().st_size > 1000
    assert line in quiet.file.getvalue().replace("\n", "")


def test_an_environment_that_fails_while_it_is_recorded_leaves_a_finished_run(tmp_path, quiet):
    env = {"id": "sample/NoScreen-v0", "env": {"after": 3}}
    with pytest.raises(UserCodeError, match=r"the run is done and saved; .*no screen"):
        train(config(tmp_path / "run", {"video": 1}, env=env), console=quiet)
    assert json.loads((tmp_path / "run/checkpoints/step_00000012/trainer.json").read_text())["step"] == 12
    assert 12 in evaluations(tmp_path / "run")


def test_an_environment_of_the_user_needs_its_episodes_alone(tmp_path, quiet):
    made = config(tmp_path / "run", {"every": 6, "seed": 4})
    made["train"]["evaluation"] |= {"type": "countdown", "params": {}}
    run = train(made, console=quiet).run_dir
    assert {step: line["return"] for step, line in evaluations(run).items()} == {6: 6.5, 12: 6.5}
    assert {line["left"] for line in evaluations(run).values()} == {2.0}

    made["train"] |= {"run_dir": str(tmp_path / "failing"), "pictures": False}
    made["train"]["evaluation"]["params"] = {"fails_after": 2}
    with pytest.raises(
        UserCodeError, match=r"(?s)after 6 updates: Countdown: an episode fails: LookupError: out of nu"
    ):
        train(made, console=quiet)
    made["train"] |= {"run_dir": str(tmp_path / "refused")}
    made["train"]["evaluation"]["params"] = {"fails_after": 0}
    with pytest.raises(
        ConfigError, match=r"train.evaluation: Countdown: an episode fails: LookupError: out of numbers"
    ):
        train(made, console=quiet)


def test_the_policy_acts_at_the_averages_and_is_evaluated_at_them_again(tmp_path, quiet, cli):
    start = {"decay": 0.999999, "power": None}  # the average stays where the run starts
    runs = {}
    for name, ema in (("averaged", start), ("trained", None)):
        runs[name] = trained(tmp_path / name, quiet, {"every": 4}, ema=ema, keep_best=BEST)
    found = {name: evaluations(run) for name, run in runs.items()}
    assert len({line["distance"] for line in found["trained"].values()}) == 3
    distances = [line["distance"] for line in found["averaged"].values()]
    assert distances == pytest.approx([distances[0]] * 3, abs=1e-3)
    assert training(runs["averaged"]) == training(runs["trained"])
    _, printed = cli("evaluate", runs["averaged"])
    assert f"return {found['averaged'][12]['return']:.4g}" in printed
    assert f"return {found['trained'][12]['return']:.4g}" not in printed
