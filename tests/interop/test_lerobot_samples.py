"""Samples of `lerobot` beside those of LeRobot's own data set, where it is installed."""

import json

import pytest
import torch
from conftest import ROOT, needs
from sample_robot_data import DATA

from trainer.lerobot_data.dataset import LeRobotData

pytestmark = needs("lerobot")


@pytest.mark.parametrize("frames", ["cache", "lazy"])
@pytest.mark.parametrize(
    ("name", "n_obs_steps", "chunk", "episodes"),
    [
        ("robot", 1, 1, None),
        ("robot", 3, 32, [0, 1, 4]),
        ("robot", 2, 5, None),
        pytest.param("pusht", 1, 1, None, marks=pytest.mark.slow),
        ("pusht", 2, 16, [0, 23]),
        (ROOT / "configs/button_press/demonstrations", 1, 8, None),
        pytest.param("pusht", 3, 32, None, marks=pytest.mark.slow),
    ],
)
def test_samples_equal_lerobots_bit_for_bit(tmp_path, monkeypatch, name, n_obs_steps, chunk, episodes, frames):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets import LeRobotDataset

    info = json.loads((DATA / name / "meta/info.json").read_text())
    observed = [key for key in info["features"] if key.startswith("observation.")]
    deltas = {key: [*range(1 - n_obs_steps, 1)] for key in observed} | {"action": list(range(chunk))}
    times = {key: [delta / info["fps"] for delta in steps] for key, steps in deltas.items()}
    theirs = LeRobotDataset(
        "innerstep/test", DATA / name, episodes=episodes, delta_timestamps=times, video_backend="pyav"
    )
    decoding = {"frames": frames, "video_backend": "pyav"} | ({"cache_dir": str(tmp_path)} if frames == "cache" else {})
    if not any(info["features"][key]["dtype"] in ("image", "video") for key in observed):
        decoding = {}  # options of frames are refused where there are none
    split = LeRobotData(str(DATA / name), n_obs_steps=n_obs_steps, chunk=chunk, episodes=episodes, **decoding).train
    assert len(split) == len(theirs)
    ours = split.batch(torch.arange(len(split)))
    for index in range(len(split)):
        expected = theirs[index]
        assert expected.keys() - ours.keys() == {"task"}
        for key, tensor in ours.items():
            value = tensor[index].float() / 255 if tensor.dtype == torch.uint8 else tensor[index]
            assert value.dtype == expected[key].dtype, key
            # LeRobot drops the dimension for time of videos with one step.
            assert torch.equal(value.reshape(expected[key].shape), expected[key]), (index, key)
