"""Mistakes in a config and damage in a data set: refused before the first update, with the place and the remedy."""

import json

import pyarrow as pa
import pytest
from conftest import ROOT
from sample_lerobot_data import FEATURES, change_info, change_table, write_states, write_v21

from trainer import ConfigError
from trainer.config.entries import DataConfig

ROBOT = ROOT / "tests/data/robot"
LENGTHS = [4, 7, 1, 6, 5]
TABLE = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def root(tmp_path):
    return write_states(tmp_path / "data", LENGTHS, files=2)


def opened(**params):
    return DataConfig(type="lerobot", params=params).make("data")


def message(**params):
    with pytest.raises(ValueError, match=r"params|info[.]json|/") as caught:  # a ConfigError, or pydantic's
        opened(**params)
    return str(caught.value)


@pytest.mark.parametrize(
    ("params", "path", "words"),
    [
        ({"episodes": [0, 5]}, "episodes", ["no episode 5", "0 to 4"]),
        ({"exclude_episodes": [7]}, "exclude_episodes", ["no episode 7", "0 to 4"]),
        ({"episodes": [1, 2, 1]}, "episodes", ["each episode once", "has 1 more"]),
        ({"features": ["action", "action"]}, "features", ["each name once", "has action more"]),
        ({"episodes": []}, "episodes", ["one episode"]),
        ({"exclude_episodes": [0, 1, 2, 3, 4]}, "exclude_episodes", ["none is left"]),
        ({"held_out": [4], "episodes": [0, 1]}, "held_out", ["no episode 4", "0, 1"]),
        ({"held_out": 0.9, "episodes": [0]}, "held_out", ["to train on"]),
        ({"held_out": [0, 1], "episodes": [0, 1]}, "held_out", ["to train on"]),
        ({"features": ["observation.stat"]}, "features", ["no feature 'observation.stat'", "'observation.state'"]),
        ({"deltas": {"actions": [0]}}, "deltas", ["no feature 'actions'", "'action'"]),
        ({"deltas": {"timestamp": [0]}, "features": ["action"]}, "deltas", ["no feature 'timestamp'"]),
        ({"delta_timestamps": {"state": [0.0]}}, "delta_timestamps", ["no feature 'state'"]),
        ({"delta_timestamps": {"action": [0.0, 0.15]}}, "delta_timestamps.action", ["1/10", "0.15", "0.2"]),
        ({"deltas": {"action": [0]}, "delta_timestamps": {"action": [0.1]}}, "delta_timestamps", ["in deltas too"]),
        ({"drop_n_last_frames": 7}, "drop_n_last_frames", ["7", "to train on"]),
        ({"drop_n_last_frames": 4, "held_out": [0]}, "drop_n_last_frames", ["held out"]),
        ({"revision": "main"}, "revision", ["repo_id"]),
        ({"repo_id": "lerobot/pusht"}, "", ["one of root and repo_id", "both"]),
        ({"n_obs_steps": 0}, "n_obs_steps", ["greater than or equal to 1"]),
        ({"chunk": 0}, "chunk", ["greater than or equal to 1"]),
        ({"deltas": {"action": []}}, "deltas.action", ["at least 1"]),
        ({"held_out": 1.0}, "held_out", ["less than 1"]),
        ({"held_out": -0.1}, "held_out", ["at least 0"]),
        ({"episode": [1]}, "episode", ["episodes"]),
        ({"frames": "lazyly"}, "frames", ["'cache' or 'lazy'"]),
        ({"n_obs_steps": 2, "features": ["action"]}, "n_obs_steps", ["got 2, and no feature is an observation"]),
        ({"chunk": 8, "features": ["observation.state"]}, "chunk", ["got 8, and no feature is an action"]),
        ({"chunk": 8, "deltas": {"action": [0, 1]}}, "chunk", ["that deltas leave out"]),
        ({"frames": "lazy"}, "frames", ["no camera is loaded"]),
        ({"cache_dir": "/tmp"}, "cache_dir", ["no camera is loaded"]),
        ({"cache_limit_gb": 3}, "cache_limit_gb", ["no camera is loaded"]),
        ({"resize": [8, 8]}, "resize", ["no camera is loaded"]),
        ({"video_backend": "pyav"}, "video_backend", ["no camera is loaded"]),
        ({"image_transforms": [{"type": "a.B"}]}, "image_transforms", ["no camera is loaded"]),
        ({"frames": "lazy", "cache_dir": "/tmp"}, "cache_dir", ["is for frames: cache"]),
        ({"frames": "lazy", "cache_limit_gb": 3}, "cache_limit_gb", ["is for frames: cache"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_path(root, params, path, words):
    text = message(root=str(root), **params)
    assert f"params.{path}" in text or not path
    assert all(word in text for word in words), text


def test_a_place_that_has_no_data_set_is_refused(tmp_path):
    assert "data.params: must have one of root and repo_id; it has neither" in message()
    assert "data.params.root: must be the folder of a data set" in message(root=str(tmp_path / "none"))
    assert "meta/info.json" in message(root=str(tmp_path))


def test_a_place_near_a_data_set_is_refused_with_a_hint(root):
    for wrong in (root.parent, root / "meta"):
        assert f"A data set is in: {root}" in message(root=str(wrong))
    assert "given as repo_id" in message(root="lerobot/pusht")
    assert "repo_id" not in message(root="/lerobot/pusht")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codebase_version": "v2.0"}, ["v3.0 or v2.1", "v2.0", "convert_dataset_v20_to_v21"]),
        ({"codebase_version": "v4.0"}, ["v3.0 or v2.1", "v4.0"]),
        ({"codebase_version": None}, ["codebase_version", "required"]),
        ({"total_frames": 24}, ["total_frames is 24", "23 frames"]),
        ({"total_episodes": 6}, ["total_episodes is 6", "has 5"]),
        ({"fps": 0}, ["fps", "greater than 0"]),
        ({"features": []}, ["features"]),
        ({"data_path": "data/{episode}.parquet"}, ["data/{episode}.parquet", "chunk_index, file_index"]),
        ({"data_path": "data/chunk-{chunk_index:03d}/{file_index.__class__.x}"}, ["must be a path"]),
        ({"data_path": "/data/{file_index}.parquet"}, ["/data/{file_index}.parquet", "in the folder of the data set"]),
        ({"data_path": "../{file_index}.parquet"}, ["../{file_index}.parquet", "in the folder of the data set"]),
        ({"features": {"../../action": FEATURES["action"]}}, ["no slash", "../../action"]),
    ],
)
def test_an_info_that_does_not_fit_is_refused(root, changes, words):
    change_info(root, **changes)
    text = message(root=str(root))
    assert str(root / "meta/info.json") in text
    assert all(word in text for word in words), text


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [cut, lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 50)])
@pytest.mark.parametrize("name", [TABLE, EPISODES, "meta/tasks.parquet", "meta/info.json"])
def test_a_missing_or_cut_file_is_named(root, name, damage):
    damage(root / name)
    text = message(root=str(root))
    assert name in text or (name == EPISODES and "meta/episodes" in text)


def test_only_the_files_of_the_chosen_episodes_are_needed(root):
    (root / TABLE).unlink()
    assert len(opened(root=str(root), episodes=[3, 4]).train) == 11
    assert TABLE in message(root=str(root), episodes=[0, 3])


def with_column(name, values):
    return lambda table: table.set_column(table.schema.get_field_index(name), name, [pa.array(values)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(0, 11), ["has 11 rows", "12 frames"]),
        (lambda table: table.drop_columns(["action"]), ["no column 'action'", "timestamp"]),
        (with_column("next.reward", ["a"] * 12), ["'next.reward' must be of the type float32", "string"]),
        (with_column("next.reward", [{"a": 1.0}] * 12), ["'next.reward' must be of the type float32", "struct"]),
        (with_column("next.reward", [None] + [1.0] * 11), ["1 values of 'next.reward' are missing"]),
        (with_column("next.reward", [1.0, float("nan")] * 6), ["'next.reward' has NaN", "episode 0, frame 1"]),
        (with_column("observation.state", [[1.0, 2.0]] * 12), ["'observation.state' must have the shape [3]"]),
        (with_column("frame_index", [0.5] * 12), ["'frame_index' must be of the type int64"]),
        (with_column("index", list(range(1, 13))), ["rows of episode 0", "index 0 to 3"]),
        (with_column("episode_index", [0] * 12), ["rows of episode 1", "episode_index 1"]),
        (with_column("task_index", [0] * 11 + [2]), ["task_index 2 in episode 2, frame 0", "2 tasks"]),
    ],
)
def test_a_table_that_contradicts_the_description_is_refused(root, change, words):
    change_table(root / TABLE, change)
    text = message(root=str(root))
    assert all(word in text for word in words), text


def test_times_that_do_not_follow_the_frame_rate_are_refused_where_videos_are_read_by_it(tmp_path):
    old = write_v21(ROBOT, tmp_path / "old")
    table = old / "data/chunk-000/episode_000002.parquet"
    times = [0.5 + step / 15 for step in range(23)]
    change_table(table, with_column("timestamp", pa.array(times, pa.float32())))
    text = message(root=str(old), frames="lazy")
    assert "the timestamp of episode 2, frame 0 is 0.5 s; at 15 frames a second" in text
    assert "exclude_episodes" in text
    assert len(opened(root=str(old), frames="lazy", exclude_episodes=[2]).train) == 30
    assert len(opened(root=str(old), features=["action"]).train) == 53


def test_mistakes_are_told_before_frames_are_decoded(tmp_path, capsys):
    mistakes = [
        {"held_out": [7]},
        {"drop_n_last_frames": 23},
        {"image_transforms": [{"type": "sample_transforms.Brightnes"}]},
    ]
    for mistake in mistakes:
        message(root=str(ROBOT), cache_dir=str(tmp_path), **mistake)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_excluded_episode_may_have_values_that_are_not_finite(root):
    change_table(root / TABLE, with_column("next.reward", [float("inf")] + [1.0] * 11))
    assert "exclude_episodes" in message(root=str(root))
    assert len(opened(root=str(root), exclude_episodes=[0]).train) == 19


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(1), ["total_episodes is 5", "has 4"]),
        (with_column("episode_index", [0, 1, 2, 4, 5]), ["episode 3 is missing"]),
        (with_column("dataset_from_index", [0, 4, 11, 13, 18]), ["episode 3 has the frames 13 to 17", "frame 12"]),
        (lambda table: table.drop_columns(["data/file_index"]), ["no column 'data/file_index'"]),
        (
            with_column("dataset_to_index", [4, 11, 12, 18, None]),
            ["'dataset_to_index' must hold values", "int", "None"],
        ),
    ],
)
def test_a_list_of_episodes_with_gaps_is_refused(root, change, words):
    change_table(root / EPISODES, change)
    text = message(root=str(root))
    assert all(word in text for word in words), text


def test_statistics_that_are_no_numbers_are_refused(root):
    (root / "meta/stats.json").write_text(json.dumps({"action": {"mean": ["a"]}}))
    assert "numbers by feature" in message(root=str(root))
    (root / "meta/stats.json").write_text("3")
    assert "meta/stats.json: must hold the statistics by feature; got 3" in message(root=str(root))


def test_texts_and_depth_maps_are_refused_as_features(root):
    depth = {"dtype": "image", "shape": [4, 4, 1], "info": {"is_depth_map": True}}
    change_info(root, features=FEATURES | {"note": {"dtype": "string", "shape": [1]}, "depth": depth})
    assert "statistics['tasks']" in message(root=str(root), features=["note"])
    assert "'depth' consists of depth maps" in message(root=str(root), features=["action", "depth"])
    assert "data.params.features: 'depth'" in message(root=str(root))
    assert len(opened(root=str(root), features=["action"]).train) == 23


def test_a_missing_video_is_named_before_frames_are_decoded(tmp_path):
    old = write_v21(ROBOT, tmp_path / "old")
    video = old / "videos/chunk-000/observation.images.wrist/episode_000003.mp4"
    video.unlink()
    assert str(video) in message(root=str(old), frames="lazy")
    assert len(opened(root=str(old), frames="lazy", episodes=[0]).train) == 6
    assert len(opened(root=str(old), features=["action"]).train) == 53


@pytest.mark.parametrize("name", ["episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl"])
def test_a_line_of_the_format_v21_that_is_invalid_is_named(tmp_path, name):
    old = write_v21(ROBOT, tmp_path / "old")
    path = old / "meta" / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:-5]]))
    assert f"{path}, line {len(lines)}: is not valid JSON" in message(root=str(old), features=["action"])
    path.write_text("\n".join([*lines[:-1], "{}"]))
    assert f"{path}, line {len(lines)}:" in message(root=str(old), features=["action"])


def test_a_data_set_without_statistics_has_none(root):
    (root / "meta/stats.json").unlink()
    assert set(opened(root=str(root)).statistics) == {"tasks"}


def test_pyarrow_that_is_not_installed_is_named_with_its_extra(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'innerstep\[robot\]'"):
        opened(root=str(root))
