"""LeRobot's policies on two processes: the updates of one process, and those of the undisturbed run after kills."""

import pytest
import yaml
from conftest import files_of, finish, metrics_of, needs, start
from killed_ranks import train_with_kills
from processes import torchrun
from sample_lerobot_policies import PARTS, TIMES, config

pytestmark = [needs("lerobot"), pytest.mark.slow]

WITHOUT_NOISE = {
    "act": {"use_vae": False, "dropout": 0.0},
    "diffusion": {
        "num_train_timesteps": 1,
        "beta_schedule": "linear",
        "beta_start": 0.0,
        "beta_end": 0.0,
        "prediction_type": "sample",
        "crop_is_random": False,
    },
}
"""Fields with which a policy needs no random numbers, which differ from process to process."""
UNPADDED = {"drop_n_last_frames": len(TIMES["diffusion"]["deltas"]["action"]) - 1}
"""ACT's loss is a mean over the actions of a process that are within their episodes: here all are."""
IN_FLOAT64 = "from sample_lerobot_float64 import switch_to_float64; switch_to_float64()"
"""A plugin: in float32 the network amplifies that two halves of a batch are summed otherwise than the batch."""


def written(folder, made, **train):
    """Write a config into a file and return the path."""
    made["train"] |= train
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def train_lines(run):
    """Return the lines of updates in a run's metrics, without those of its speed."""
    return [line for line in metrics_of(run) if line["split"] == "train"]


@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_two_processes_make_the_updates_of_one(tmp_path, key):
    made = config(key, tmp_path / "two", {"policy": {"type": "preset"}}, params=WITHOUT_NOISE[key])
    made["data"]["params"] |= UNPADDED
    (tmp_path / "in_float64.py").write_text(IN_FLOAT64)
    path = written(tmp_path, made | {"plugins": ["in_float64"]}, total_steps=10)
    code, output = torchrun(2, "train", path)
    assert code == 0, output
    finish(start("train", path, f"--train.run_dir={tmp_path / 'one'}"))
    two, one = (train_lines(tmp_path / name) for name in ("two", "one"))
    assert len(one) == 10
    for name in ("loss", "grad_norm/policy", "lr/policy"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-9)


@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_a_run_in_parts_whose_ranks_are_killed_ends_as_the_undisturbed_one(tmp_path, key):
    names = [*PARTS[key], *(["policy"] if key == "act" else [])]
    made = config(key, tmp_path / "run", {name: {"type": "preset"} for name in names}, PARTS[key])
    path = written(tmp_path, made, total_steps=40, save_every=5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = torchrun(2, "train", path, "--or-resume", f"--train.run_dir={whole}", "--train.log_every=1")
    assert code == 0, output
    train_with_kills(path, killed, kills=2, seed=0)
    newest = "checkpoints/step_00000040"
    assert files_of(killed / newest) == files_of(whole / newest)
    assert train_lines(killed) == train_lines(whole)
