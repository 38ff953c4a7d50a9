"""`innerstep evaluate`: the episodes of a trained policy, as in its run, without the data and without a trace."""

import json

import pytest
from conftest import files_of, needs
from rich.console import Console
from sample_runs import ADAMW, MLPS
from sample_runs import config as regression

pytest.importorskip("gymnasium", reason="needs gymnasium")

from sample_envs import config  # which imports gymnasium

from trainer import train

QUIET = Console(quiet=True)
NOISY = {"noise": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with four evaluations, of a policy with noise from two generators. Its weights are good at the end."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    often = {"eval_every": 3, "save_every": 3, "keep_best": {"monitor": "val_return", "mode": "min"}}
    train(config(folder, {"every": 3}, policy=NOISY, **often), console=QUIET)
    return folder


def evaluations(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["split"] == "held_out"}


@pytest.mark.parametrize(
    ("checkpoint", "step"), [("latest", 12), ("best", None), ("{run}/checkpoints/step_00000006", 6)]
)
def test_the_values_are_those_of_the_run_and_nothing_is_written(cli, run, checkpoint, step):
    before = files_of(run)
    code, printed = cli("evaluate", run, "--checkpoint", checkpoint.format(run=run))
    assert code == 0, printed
    if step is None:
        step = int((run / "checkpoints/best").read_text().removeprefix("step_"))
    expected = evaluations(run)[step]
    values = "  ".join(f"{name} {expected[name]:.4g}" for name in ("success", "return", "episode_length"))
    assert f"after {step} updates, 6 episodes in sample/Reach-v0: {values}" in printed
    assert f"distance {expected['distance']:.4g}  max_distance {expected['max_distance']:.4g}" in printed
    assert files_of(run) == before


def test_the_policy_acts_at_the_precision_of_its_run(cli, tmp_path):
    train(config(tmp_path / "run", {}, precision="bf16"), console=QUIET)
    expected = evaluations(tmp_path / "run")[12]
    code, printed = cli("evaluate", tmp_path / "run")
    assert (code, f"return {expected['return']:.4g} " in printed) == (0, True), printed


def test_each_episode_has_a_row_with_its_seed(cli, run):
    _, printed = cli("evaluate", run, "--train.evaluation.n_episodes=3", "--train.evaluation.seed=7")
    lines = printed.splitlines()
    rows = [line.split() for line in lines[lines.index(next(one for one in lines if one.startswith("seed"))) + 1 :][:3]]
    assert [row[0] for row in rows] == ["7", "8", "9"]
    successes = sum(row[1] == "yes" for row in rows) / 3
    returns, steps = (sum(float(row[column]) for row in rows) / 3 for column in (2, 3))
    last = dict(zip(*[iter(lines[-1].partition(": ")[2].split())] * 2, strict=True))
    assert [float(last[name]) for name in ("success", "return", "episode_length")] == pytest.approx(
        [successes, returns, steps], rel=1e-2
    )


def test_an_environment_that_does_not_say_what_success_is_has_a_dash(cli, run):
    code, printed = cli("evaluate", run, "--train.evaluation.params.env.says_success=false")
    assert code == 0
    assert " -  " in printed
    assert "success 0" not in printed


def test_a_run_without_an_environment_names_the_overrides_that_give_it_one(cli, tmp_path):
    train(config(tmp_path / "run"), console=QUIET)
    code, printed = cli("evaluate", tmp_path / "run")
    assert code == 2
    named = [word for word in printed.split() if word.startswith("--")]
    assert [word.partition("=")[0] for word in named] == [
        f"--train.evaluation.{name}" for name in ("type", "params.id", "n_episodes")
    ]
    code, printed = cli(
        "evaluate", tmp_path / "run", *(word.replace("ENVIRONMENT", "sample/Reach-v0") for word in named)
    )
    assert code == 0, printed
    assert "after 12 updates, 20 episodes in sample/Reach-v0: success" in printed


def test_an_objective_that_is_no_policy_is_refused(cli, tmp_path):
    train(regression(tmp_path / "run", MLPS, dict.fromkeys(MLPS, ADAMW)), console=QUIET)
    code, printed = cli("evaluate", tmp_path / "run")
    assert (code, "must be a policy to act" in printed) == (2, True), printed


def test_a_policy_that_fails_ends_with_the_code_of_users_code(cli, run):
    overrides = ["--train.evaluation.params.id=sample/Faulty-v0", "--train.evaluation.params.env.after=3"]
    code, printed = cli("evaluate", run, *overrides)
    assert (code, 'raise ZeroDivisionError("the simulator exploded")' in printed) == (3, True), printed


def test_a_mistake_in_the_command_is_refused(cli, run, tmp_path):
    for arguments, word in (
        (["--checkpoint", "nope"], "there is no checkpoint"),
        (["--train.evaluation.batch_size=9"], "batch size cannot be larger"),
        (["--train.evaluation.video=1"], "--out FOLDER"),
        (["--no-plugins"], "sample_envs"),
        (["--episodes=3"], "no such option"),
    ):
        code, printed = cli("evaluate", run, *arguments)
        assert (code, word in printed) == (2, True), printed
    code, printed = cli("evaluate", tmp_path)
    assert (code, "there is no run here" in printed) == (2, True)


@needs("matplotlib")
@needs("av")
def test_pictures_and_videos_go_into_a_folder_of_choice(cli, run, tmp_path):
    before = files_of(run)
    code, printed = cli("evaluate", run, "--out", tmp_path / "new/pictures", "--train.evaluation.video=2")
    assert code == 0, printed
    there = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    videos = [f"new/pictures/videos/episode_{seed}.mp4" for seed in (100000, 100001)]
    assert there == ["new/pictures/rollouts.png", *videos]
    assert files_of(run) == before
    (tmp_path / "file").touch()
    code, printed = cli("evaluate", run, "--out", tmp_path / "file")
    assert (code, "--out" in printed, "episodes in" in printed) == (1, True, False), printed
