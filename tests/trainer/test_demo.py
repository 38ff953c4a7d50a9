"""`make demo`: its demonstrations are what its script records, and what is learned from them solves the task."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, needs

from trainer.interfaces.dataset import DataSet

pytestmark = [needs("metaworld"), needs("pyarrow")]

DEMONSTRATIONS = ROOT / "configs/button_press/demonstrations"
CHUNK = 8


@pytest.fixture
def _plugins(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "configs")


@pytest.fixture
def env(_plugins):
    import gymnasium
    from button_press.environment import ID

    made = gymnasium.make(ID)
    yield made
    made.close()


def demonstrations(root=DEMONSTRATIONS, **params) -> DataSet:
    from trainer.lerobot_data.dataset import LeRobotData

    return LeRobotData(root=str(root), chunk=CHUNK, **params)


def rollout(env, seed):
    """Return all that 20 random actions in the episode of `seed` make."""
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 4))
    observation, _ = env.reset(seed=seed)
    seen = [*observation.values()]
    for action in actions:
        observation, reward, *_ = env.step(action)
        seen += [*observation.values(), [reward]]
    return np.concatenate(seen)


def check_statistics(data):
    """Check the statistics of a data set against its frames."""
    batch = data.train.batch(torch.arange(len(data.train)))
    for name in data.features:
        values = batch[name][:, 0].double()
        expected = {
            "min": values.amin(0),
            "max": values.amax(0),
            "mean": values.mean(0),
            "std": values.std(0, correction=0),
            "q10": values.quantile(0.1, dim=0),
        }
        for key, value in expected.items():
            torch.testing.assert_close(data.statistics[name][key], value.float(), rtol=1e-5, atol=1e-6)


def test_the_seed_of_reset_alone_decides_an_episode(env):
    first, other, again = (rollout(env, seed) for seed in (3, 4, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[4:7], other[4:7])  # the button's place


def test_the_script_records_the_demonstrations_of_the_repository(env, tmp_path, monkeypatch):
    from button_press import record

    monkeypatch.setattr(record.gymnasium, "make", lambda _: env)
    record.main(tmp_path / "new", 2)
    kept, new = demonstrations(), demonstrations(tmp_path / "new")
    frames = torch.arange(len(new.train))
    recorded, there = new.train.batch(frames), kept.train.batch(frames)
    assert recorded["episode_index"].unique().tolist() == [0, 1]
    for name, values in recorded.items():  # the physics rounds differently on other processors
        torch.testing.assert_close(values, there[name], rtol=0, atol=1e-3)
    check_statistics(new)
    with pytest.raises(FileExistsError):
        record.main(tmp_path / "new", 2)


def test_the_demonstrations_are_few_and_small_with_statistics_of_their_frames():
    data = demonstrations()
    episodes = data.train.batch(torch.arange(len(data.train)))["episode_index"]
    assert episodes.unique().tolist() == list(range(30))
    check_statistics(data)
    assert sum(path.stat().st_size for path in DEMONSTRATIONS.rglob("*") if path.is_file()) < 3e6


def innerstep(folder, *arguments):
    """Run the command line in `folder`; return its standard output. It must print no warning."""
    command = [sys.executable, "-m", "trainer", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return ran.stdout


def success(line):
    return float(re.search(r"success ([\d.]+)", line)[1])


UNTRAINED = (
    "--train.total_steps=1",
    "--model.component_optims.scene_embedder.params.warmup_steps=0",
    "--train.evaluation.every=null",
    "--train.keep_best=null",
    "--train.pictures=false",
    "--train.run_dir=runs/untrained",
)


@pytest.mark.slow
def test_make_demo_solves_the_task_in_new_places(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    commands = [line.split()[1:] for line in recipe.splitlines()]
    assert [command[0] for command in commands] == ["train", "evaluate"]
    _, evaluated = [innerstep(tmp_path, *command) for command in commands]
    assert success(evaluated.splitlines()[-1]) >= 0.9
    pictures = {path.name for path in (tmp_path / "runs/button_press").glob("*.png")}
    assert pictures == {"learning_rates.png", "losses.png", "rollouts.png", "success.png"}
    untrained = innerstep(tmp_path, "train", commands[0][1], *UNTRAINED)
    assert success(untrained) <= 0.1
