"""`make demo`: its demonstrations are what its script records, and what is learned from them solves the task."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, needs

from trainer.interfaces.dataset import DataSet

pytestmark = [needs("metaworld"), needs("pyarrow")]

CONFIG = "configs/button_press.yaml"
DEMONSTRATIONS = ROOT / "configs/button_press/demonstrations"
EPISODES, CHUNK = 30, 8


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
    with pytest.raises(FileExistsError):
        record.main(tmp_path / "new", 2)


def test_the_statistics_of_the_demonstrations_are_those_of_their_frames():
    data = demonstrations()
    batch = data.train.batch(torch.arange(len(data.train)))
    assert batch["episode_index"].unique().tolist() == list(range(EPISODES))
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


def test_the_demonstrations_are_few_and_small():
    assert sum(path.stat().st_size for path in DEMONSTRATIONS.rglob("*") if path.is_file()) < 3e6


@pytest.mark.slow
def test_make_demo_solves_the_task_in_new_places(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "trainer", "train", CONFIG]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    run = tmp_path / "runs/button_press"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("success", 0) for line in lines) >= 0.9
