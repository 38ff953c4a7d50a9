"""Samples of the data set `lerobot` are those of LeRobot itself, in both versions of the format."""

import json
import shutil

import pytest
import torch
from conftest import ROOT, needs
from sample_lerobot_data import change_info, change_table, write_states, write_v21

from trainer.interfaces.features import FeatureType
from trainer.lerobot_data.dataset import LeRobotData

pytestmark = [needs("lerobot"), pytest.mark.filterwarnings("ignore")]  # LeRobot's libraries warn of much
DATA = ROOT / "tests/data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def ours(root, tmp_path, **params):
    return LeRobotData(str(root), cache_dir=str(tmp_path / "frames"), video_backend="pyav", **params)


def lerobots(root, deltas, episodes=None):
    from lerobot.datasets import LeRobotDataset

    fps = json.loads((root / "meta/info.json").read_text())["fps"]
    times = {name: [delta / fps for delta in steps] for name, steps in deltas.items()}
    return LeRobotDataset("innerstep/test", root, episodes=episodes, delta_timestamps=times, video_backend="pyav")


def windows(data, n_obs_steps, chunk):
    """Return the distances that LeRobot makes of `n_obs_steps` and `chunk`."""
    observed = (FeatureType.STATE, FeatureType.ENV, FeatureType.VISUAL)
    deltas = {name: range(1 - n_obs_steps, 1) for name, feature in data.features.items() if feature.type in observed}
    return deltas | {
        name: range(chunk) for name, feature in data.features.items() if feature.type is FeatureType.ACTION
    }


def assert_equal(data, expected, indices):
    assert len(data.train) == len(expected)
    batch = data.train.batch(torch.tensor(indices))
    for row, index in enumerate(indices):
        sample = expected[index]
        assert data.statistics["tasks"][batch["task_index"][row]] == sample.pop("task")
        assert sample.keys() == batch.keys()
        for name, value in sample.items():
            found = batch[name][row]
            if name in data.features and data.features[name].type is FeatureType.VISUAL:
                found = found.float().reshape(value.shape) / 255  # LeRobot drops the time of a single frame of a video
            assert found.dtype == value.dtype, name
            assert torch.equal(found, value), (name, index)


@pytest.mark.parametrize("n_obs_steps", [1, 2, 3])
@pytest.mark.parametrize(("chunk", "episodes"), [(1, None), (7, [23, 3, 4]), (32, [11])])
def test_samples_of_pusht_are_lerobots(tmp_path, n_obs_steps, chunk, episodes):
    options = {"frames": "lazy", "n_obs_steps": n_obs_steps, "chunk": chunk, "episodes": episodes}
    data = ours(DATA / "pusht", tmp_path, **options)
    expected = lerobots(DATA / "pusht", windows(data, n_obs_steps, chunk), episodes)
    ends = [0, 1, len(expected) - 2, len(expected) - 1]
    assert_equal(data, expected, ends + torch.randint(len(expected), (20,)).tolist())


@pytest.mark.parametrize(("n_obs_steps", "chunk", "episodes"), [(1, 1, None), (2, 16, None), (3, 5, [1, 4])])
@pytest.mark.parametrize("frames", ["cache", "lazy"])
def test_samples_of_several_cameras_and_files_are_lerobots(tmp_path, n_obs_steps, chunk, episodes, frames):
    options = {"frames": frames, "n_obs_steps": n_obs_steps, "chunk": chunk, "episodes": episodes}
    data = ours(DATA / "robot", tmp_path, **options)
    expected = lerobots(DATA / "robot", windows(data, n_obs_steps, chunk), episodes)
    assert_equal(data, expected, list(range(len(expected))))


@pytest.mark.parametrize("name", ["robot", "pusht"])
def test_samples_of_a_set_v21_are_those_of_its_conversion(tmp_path, name):
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    old = write_v21(DATA / name, tmp_path / "old")
    new = tmp_path / "new"
    shutil.copytree(old, new)
    convert_dataset("innerstep/test", root=new, push_to_hub=False)
    data = ours(old, tmp_path, n_obs_steps=2, chunk=3, use_imagenet_stats=False)
    expected = lerobots(new, windows(data, 2, 3))
    assert_equal(data, expected, list(range(0, len(expected), 1 if name == "robot" else 60)))
    found = {feature: values for feature, values in data.statistics.items() if feature != "tasks"}
    assert found.keys() == expected.meta.stats.keys()
    for feature, values in found.items():
        assert values.keys() == expected.meta.stats[feature].keys()
        for statistic, value in values.items():
            assert torch.equal(value, torch.tensor(expected.meta.stats[feature][statistic], dtype=torch.float32))


def test_numbers_of_any_width_and_dimension_are_lerobots(tmp_path):
    import pandas as pd

    root = write_states(tmp_path / "data", [4, 1, 6], files=2)
    tasks = pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(["lift", "push"], name="task"))
    tasks.to_parquet(root / "meta/tasks.parquet")
    info = json.loads((root / "meta/info.json").read_text())
    number = {"shape": [1], "names": None}
    extra = {"wide": {"dtype": "float64", **number}, "short": {"dtype": "int32", **number}}
    features = {key: value for key, value in info["features"].items() if key != "action"} | extra
    change_info(root, features=features, total_tasks=2)
    for number, rows in enumerate(([0.1, 1e-9, 3.0, 4.0, 5.0], [1.5] * 6)):
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        change_table(path, lambda table, rows=rows: table.drop_columns(["action"]).append_column("wide", [rows]))
        short = _int32([int(value) for value in rows])
        change_table(path, lambda table, short=short: table.append_column("short", [short]))
    deltas = {"observation.state": [-1, 0], "observation.environment_state": [0], "wide": [-2, 5], "next.done": [1]}
    data = ours(root, tmp_path, deltas=deltas)
    assert_equal(data, lerobots(root, deltas), list(range(11)))


def _int32(values):
    import pyarrow as pa

    return pa.array(values, pa.int32())


@pytest.mark.parametrize("drop", [0, 1, 7])
def test_dropped_frames_are_those_of_lerobots_sampler(tmp_path, drop):
    from lerobot.datasets.sampler import EpisodeAwareSampler

    data = ours(DATA / "robot", tmp_path, features=["index"], drop_n_last_frames=drop)
    meta = lerobots(DATA / "robot", {}).meta.episodes
    sampler = EpisodeAwareSampler(meta["dataset_from_index"], meta["dataset_to_index"], drop_n_last_frames=drop)
    assert data.train.batch(torch.arange(len(data.train)))["index"].tolist() == list(sampler)


def test_types_of_features_are_lerobots(tmp_path):
    from lerobot.utils.feature_utils import dataset_to_policy_features

    for name in ("robot", "pusht"):
        features = ours(DATA / name, tmp_path, frames="lazy").features
        expected = dataset_to_policy_features(json.loads((DATA / name / "meta/info.json").read_text())["features"])
        found = {key: value for key, value in features.items() if value.type is not FeatureType.REWARD}
        assert {key: (value.type.value, value.shape) for key, value in found.items()} == {
            key: (value.type.value, tuple(value.shape)) for key, value in expected.items()
        }


def test_arrays_of_several_dimensions_that_lerobot_wrote_are_read(tmp_path):
    from lerobot.datasets import LeRobotDataset

    shapes = {"observation.grid": (2, 3), "observation.cube": (2, 2, 2), "observation.state": (1,), "action": (2,)}
    features = {name: {"dtype": "float32", "shape": shape, "names": None} for name, shape in shapes.items()}
    written = LeRobotDataset.create("innerstep/test", 10, features, root=tmp_path / "data", use_videos=False)
    for length in (3, 2, 4):  # LeRobot cannot write statistics of such arrays for one frame
        for _ in range(length):
            frame = {name: torch.randn(shape).numpy() for name, shape in shapes.items()}
            written.add_frame(frame | {"task": f"task {length}"})
        written.save_episode()
    written.finalize()
    deltas = {name: [-1, 0] for name in shapes}
    data, expected = ours(tmp_path / "data", tmp_path, deltas=deltas), lerobots(tmp_path / "data", deltas)
    assert data.statistics["tasks"] == ("task 3", "task 2", "task 4")
    batch = data.train.batch(torch.arange(9))
    for index in range(9):
        sample = expected[index]
        for name in shapes:
            assert torch.equal(batch[name][index], sample[name].reshape(2, *shapes[name])), name
            assert torch.equal(batch[f"{name}_is_pad"][index], sample[f"{name}_is_pad"])
