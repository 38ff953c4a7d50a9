"""The data set `lerobot`: equal to LeRobot's by golden checksums, in both versions of the format."""

import json

import pytest
import torch
import xxhash
from conftest import ROOT
from sample_lerobot_data import (
    FEATURES,
    change_info,
    change_table,
    columns_of,
    statistics_of,
    write_states,
    write_v21,
)

from trainer.interfaces.features import Feature, FeatureType
from trainer.lerobot_data.dataset import LeRobotData

PUSHT = ROOT / "tests/data/pusht"
GOLDEN = json.loads((ROOT / "tests/golden/lerobot_samples.json").read_text())["cases"]
NUMBERS = [name for name in json.loads((PUSHT / "meta/info.json").read_text())["features"] if "image" not in name]
LENGTHS = [4, 7, 1, 6, 5]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_states(tmp_path_factory.mktemp("states") / "data", LENGTHS)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Return the folder of a copy of pusht in the format v2.1."""
    return write_v21(PUSHT, tmp_path_factory.mktemp("old") / "pusht")


def everything(split):
    return split.batch(torch.arange(len(split)))


def episodes_of(split):
    return sorted(set(everything(split)["episode_index"].tolist()))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['n_obs_steps']}-{case['chunk']}-{case['episodes']}")
def test_samples_equal_lerobots(case):
    chosen = {name: case[name] for name in ("n_obs_steps", "chunk", "episodes")}
    split = LeRobotData(str(PUSHT), features=NUMBERS, **chosen).train
    assert len(split) == case["samples"]
    batch = split.batch(torch.arange(0, len(split), case["every"]))
    found = {name: xxhash.xxh3_64_hexdigest(tensor.numpy().tobytes()) for name, tensor in batch.items()}
    assert found == case["checksums"]


def test_a_copy_in_the_format_v21_has_the_same_samples_and_frames(old):
    options = {"n_obs_steps": 2, "chunk": 5, "episodes": [1, 4], "frames": "lazy", "video_backend": "pyav"}
    new, copied = LeRobotData(str(PUSHT), **options), LeRobotData(str(old), **options)
    assert len(copied.train) == len(new.train)
    indices = torch.tensor([0, 1, 240, 243, 244, 300])
    before, after = copied.train.batch(indices), new.train.batch(indices)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert copied.features == new.features
    assert copied.statistics["tasks"] == new.statistics["tasks"]


def test_statistics_of_the_format_v21_are_aggregated_over_the_episodes(old):
    stats, expected = (
        LeRobotData(str(old), features=NUMBERS).statistics,
        json.loads((PUSHT / "meta/stats.json").read_text()),
    )
    for name in ("mean", "std", "min", "max", "count"):
        found, values = stats["action"][name], torch.tensor(expected["action"][name], dtype=torch.float32)
        torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-3)


def test_features_have_the_types_of_lerobot_and_the_shapes_of_a_batch(root):
    data = LeRobotData(str(root))
    assert data.features == {
        "observation.state": Feature(FeatureType.STATE, (3,)),
        "observation.environment_state": Feature(FeatureType.ENV, (2, 2)),
        "action": Feature(FeatureType.ACTION, (1,)),
        "next.reward": Feature(FeatureType.REWARD, ()),
    }
    batch = data.train.batch(torch.arange(3))
    for name, feature in data.features.items():
        time = 0 if feature.type is FeatureType.REWARD else 1
        assert tuple(batch[name].shape[1 + time :]) == feature.shape


def test_cameras_have_imagenets_statistics_unless_told_otherwise():
    options = {"episodes": [0], "frames": "lazy", "video_backend": "pyav"}
    imagenet, own = (LeRobotData(str(PUSHT), **options, use_imagenet_stats=on) for on in (True, False))
    assert imagenet.features["observation.image"] == Feature(FeatureType.VISUAL, (3, 96, 96))
    assert imagenet.statistics["observation.image"]["mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert imagenet.statistics["observation.image"]["std"].flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    saved = json.loads((PUSHT / "meta/stats.json").read_text())["observation.image"]
    assert own.statistics["observation.image"]["mean"].tolist() == torch.tensor(saved["mean"]).tolist()
    for data in (imagenet, own):
        assert data.statistics["observation.image"]["max"].shape == (3, 1, 1)
        assert data.statistics["observation.image"]["mean"].shape == (3, 1, 1)


def test_frames_of_a_batch_are_uint8_with_a_dimension_for_time_and_can_be_resized():
    options = {"episodes": [0], "frames": "lazy", "video_backend": "pyav", "n_obs_steps": 2}
    data = LeRobotData(str(PUSHT), **options, resize=(24, 32))
    image = data.train.batch(torch.arange(3))["observation.image"]
    assert (image.dtype, image.shape) == (torch.uint8, (3, 2, 3, 24, 32))
    assert data.features["observation.image"].shape == (3, 24, 32)


def test_statistics_are_those_of_the_whole_set_and_tasks_have_their_texts(root):
    data = LeRobotData(str(root), episodes=[1])
    expected = statistics_of(columns_of(LENGTHS))
    assert data.statistics["tasks"] == ("lift", "push")
    for name in FEATURES:
        for statistic, value in expected[name].items():
            found = data.statistics[name][statistic]
            assert found.dtype == torch.float32
            assert torch.equal(found, torch.tensor(value, dtype=torch.float32)), (name, statistic)


@pytest.mark.parametrize(
    ("options", "train", "held_out"),
    [
        ({}, [0, 1, 2, 3, 4], None),
        ({"held_out": 0.4}, [0, 1, 2], [3, 4]),
        ({"held_out": 0.01}, [0, 1, 2, 3], [4]),
        ({"held_out": [1, 4]}, [0, 2, 3], [1, 4]),
        ({"held_out": 0.5, "episodes": [4, 1, 0, 2], "exclude_episodes": [2, 3]}, [0], [1, 4]),
    ],
)
def test_episodes_are_chosen_and_held_out_as_a_whole(root, options, train, held_out):
    data = LeRobotData(str(root), **options)
    assert episodes_of(data.train) == train
    assert (None if data.held_out is None else episodes_of(data.held_out)) == held_out


def test_dropped_frames_are_no_samples_of_either_split(root):
    data = LeRobotData(str(root), drop_n_last_frames=2, held_out=[3])
    assert everything(data.train)["frame_index"].tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]
    assert everything(data.held_out)["frame_index"].tolist() == [0, 1, 2, 3]


def test_features_limit_a_batch_to_themselves(root):
    batch = LeRobotData(str(root), features=["action", "timestamp"]).train.batch(torch.arange(2))
    assert set(batch) == {"action", "action_is_pad", "timestamp"}


def test_columns_of_other_widths_have_the_types_of_lerobot(root, tmp_path):
    wide = write_states(tmp_path / "wide", LENGTHS)
    features = FEATURES | {
        "next.reward": {"dtype": "float64", "shape": [1]},
        "task_index": {"dtype": "int32", "shape": [1]},
    }
    change_info(wide, features=features)
    table = wide / "data/chunk-000/file-000.parquet"
    change_table(table, lambda rows: _cast(_cast(rows, "next.reward", "double"), "task_index", "int32"))
    found, expected = (everything(LeRobotData(str(folder)).train) for folder in (wide, root))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert {name: tensor.dtype for name, tensor in found.items()} == {name: t.dtype for name, t in expected.items()}


def _cast(table, name, kind):
    return table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))


def test_columns_of_text_are_left_out_and_texts_of_tasks_are_in_the_statistics(tmp_path):
    root = write_states(tmp_path / "data", LENGTHS)
    change_info(root, features=FEATURES | {"note": {"dtype": "string", "shape": [1]}})
    change_table(root / "data/chunk-000/file-000.parquet", lambda table: table.append_column("note", [["a"] * 23]))
    assert "note" not in LeRobotData(str(root)).train.batch(torch.arange(2))


def test_the_fingerprint_changes_with_the_content_and_not_with_the_place(root, tmp_path):
    first = LeRobotData(str(root)).fingerprint()
    assert LeRobotData(str(write_states(tmp_path / "same", LENGTHS))).fingerprint() == first
    assert LeRobotData(str(write_states(tmp_path / "files", LENGTHS, files=3))).fingerprint() == first
    changed = write_states(tmp_path / "values", LENGTHS)
    rewards = [[0.5] * sum(LENGTHS)]
    change_table(
        changed / "data/chunk-000/file-000.parquet",
        lambda table: table.drop_columns(["next.reward"]).append_column("next.reward", rewards),
    )
    assert LeRobotData(str(changed)).fingerprint() != first
    assert LeRobotData(str(write_states(tmp_path / "tasks", LENGTHS, tasks=("lift", "pull")))).fingerprint() != first
    assert LeRobotData(str(root), episodes=[0]).fingerprint() != first


def test_image_transforms_change_the_frames_to_train_on_only():
    transforms = [{"type": "kornia.augmentation.RandomHorizontalFlip", "params": {"p": 1.0}}]
    options = {"episodes": [0, 1], "held_out": [1], "frames": "lazy", "video_backend": "pyav"}
    plain, changed = (LeRobotData(str(PUSHT), **options, image_transforms=given) for given in (None, transforms))
    before, after = (data.train.batch(torch.arange(4))["observation.image"] for data in (plain, changed))
    torch.testing.assert_close(after, before.float().flip(-1) / 255)
    for split in (plain.held_out, changed.held_out):
        assert split.batch(torch.arange(4))["observation.image"].dtype == torch.uint8
