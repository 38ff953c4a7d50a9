"""Frames: equal to LeRobot's, in both ways of decoding."""

import json
import multiprocessing
import os

import pytest
import torch
import xxhash
from conftest import ROOT
from sample_robot_data import DATA, FRONT, TOP, WRIST, windows
from torch.nn.functional import interpolate

from trainer.errors import ConfigError
from trainer.lerobot_data.dataset import LeRobotData
from trainer.lerobot_data.frames import FrameOptions, open_frames
from trainer.lerobot_data.reading import read_meta

GOLDEN = json.loads((ROOT / "tests/golden/robot_data.json").read_text())
ROBOT = read_meta(DATA / "robot")


@pytest.fixture(params=["cache", "lazy"])
def opened(request, tmp_path):
    """Open frames in one of the two ways."""

    def make(camera, meta=ROBOT, episodes=None, **options):
        chosen = FrameOptions(request.param, cache_dir=tmp_path, video_backend="pyav", **options)
        return open_frames(meta, camera, meta.episodes if episodes is None else episodes, chosen)

    return make


@pytest.mark.parametrize("case", GOLDEN["robot"], ids=range(len(GOLDEN["robot"])))
@pytest.mark.parametrize("camera", [FRONT, WRIST, TOP])
def test_frames_equal_those_of_lerobots_samples(opened, case, camera):
    chosen = [episode for episode in ROBOT.episodes if case["episodes"] is None or episode.index in case["episodes"]]
    frames = opened(camera, episodes=chosen)[windows(chosen, case["deltas"].get(camera, [0]))]
    assert len(frames) == case["samples"]
    found = (frames.float() / 255).numpy().tobytes()
    assert xxhash.xxh3_64_hexdigest(found) == case["checksums"][camera]


@pytest.mark.parametrize("case", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_frames_of_a_long_video_equal_lerobots(opened, case):
    meta, expected = read_meta(DATA / "pusht"), GOLDEN["pusht"][case]
    chosen = [
        episode for episode in meta.episodes if expected["episodes"] is None or episode.index in expected["episodes"]
    ]
    numbers = windows(chosen, expected["deltas"].get("observation.image", [0]))
    frames, digest = opened("observation.image", meta, chosen), xxhash.xxh3_64()
    for part in numbers.split(500):
        digest.update((frames[part].float() / 255).numpy().tobytes())
    assert digest.hexdigest() == expected["checksums"]["observation.image"]


@pytest.mark.parametrize("case", GOLDEN["robot"], ids=range(len(GOLDEN["robot"])))
def test_whole_samples_equal_lerobots(case):
    data = LeRobotData(str(DATA / "robot"), deltas=case["deltas"], episodes=case["episodes"], frames="lazy")
    batch = data.train.batch(torch.arange(len(data.train)))
    assert len(data.train) == case["samples"]
    found = {name: tensor.float() / 255 if name in (FRONT, WRIST, TOP) else tensor for name, tensor in batch.items()}
    for name, checksum in case["checksums"].items():
        assert xxhash.xxh3_64_hexdigest(found[name].numpy().tobytes()) == checksum, name


@pytest.mark.parametrize("camera", [FRONT, TOP])
def test_frames_have_the_shape_of_the_indices(opened, camera):
    frames = opened(camera)
    numbers = torch.tensor([[[52, 0], [6, 6]], [[30, 29], [0, 51]]])
    found = frames[numbers]
    assert found.shape == (2, 2, 2, *frames.shape)
    assert found.dtype == torch.uint8
    for place, number in zip(found.flatten(0, 2), numbers.flatten(), strict=True):
        assert torch.equal(place, frames[number])


@pytest.mark.parametrize("camera", [FRONT, TOP])
def test_frames_are_resized_when_they_are_decoded(opened, camera):
    numbers = torch.tensor([0, 8, 33, 50])
    whole, small = opened(camera)[numbers], opened(camera, resize=(20, 30))
    assert small.shape == (3, 20, 30)
    expected = interpolate(whole.float(), (20, 30), mode="bilinear", antialias=True)
    assert (small[numbers] - expected).abs().max() <= 1  # that one is not rounded


def test_resized_frames_are_the_same_from_the_cache_and_lazily(tmp_path):
    numbers = torch.arange(ROBOT.total_frames)
    ways = [FrameOptions(way, tmp_path, resize=(20, 31)) for way in ("cache", "lazy")]
    for camera in (FRONT, TOP):
        cached, lazy = (open_frames(ROBOT, camera, ROBOT.episodes, options)[numbers] for options in ways)
        assert torch.equal(cached, lazy)


def test_lazy_frames_do_not_depend_on_earlier_requests(tmp_path):
    frames = open_frames(ROBOT, FRONT, ROBOT.episodes, FrameOptions("cache", tmp_path))
    lazy = open_frames(ROBOT, FRONT, ROBOT.episodes, FrameOptions("lazy"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        numbers = torch.randint(ROBOT.total_frames, (5,), generator=generator)
        assert torch.equal(lazy[numbers], frames[numbers])


def _sums(sources, results):
    results.put([int(frames[torch.arange(53)].sum()) for frames in sources])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_frames_can_be_sent_to_worker_processes(tmp_path, method):
    context = multiprocessing.get_context(method)
    cases = [(camera, way) for camera in (FRONT, TOP) for way in ("cache", "lazy")]
    sources = [open_frames(ROBOT, camera, ROBOT.episodes, FrameOptions(way, tmp_path)) for camera, way in cases]
    expected = [int(frames[torch.arange(53)].sum()) for frames in sources]  # the files are open when it starts
    results = context.Queue()
    process = context.Process(target=_sums, args=(sources, results))
    process.start()
    assert results.get(timeout=60) == expected
    process.join()
    assert [int(frames[torch.arange(53).flip(0)].sum()) for frames in sources] == expected


def test_a_forked_process_leaves_the_open_files_of_its_parent_alone(tmp_path):
    meta = read_meta(DATA / "pusht")
    lazy, other = (
        open_frames(meta, "observation.image", meta.episodes, FrameOptions("lazy", video_backend="pyav")) for _ in "ab"
    )
    expected = other[torch.arange(600)]
    before = lazy[torch.arange(10)]
    child = os.fork()
    if child == 0:
        lazy[torch.arange(3000, 3010)]
        os._exit(0)
    os.waitpid(child, 0)
    assert torch.equal(torch.cat([before, lazy[torch.arange(10, 600)]]), expected)


def test_what_is_returned_can_be_changed_without_an_effect(opened):
    frames, numbers = opened(FRONT), torch.tensor([3])
    before = frames[numbers].clone()
    frames[numbers].zero_()
    assert torch.equal(frames[numbers], before)


def test_frames_outside_of_the_chosen_episodes_are_an_error(tmp_path):
    frames = open_frames(ROBOT, FRONT, ROBOT.episodes[2::2], FrameOptions("cache", tmp_path))
    for number in (6, 30, 38, 53):
        with pytest.raises(IndexError):
            frames[torch.tensor([number])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [64, 96, 1]}, "must be height, width and 3 channels"),
        ({"info": {"is_depth_map": True}}, "depth maps"),
    ],
)
def test_cameras_without_color_are_refused(opened, change, message):
    features = dict(ROBOT.features) | {FRONT: ROBOT.features[FRONT] | change}
    meta = type(ROBOT)(**{**vars(ROBOT), "features": features})
    with pytest.raises(ConfigError, match=f"{FRONT}.*{message}"):
        opened(FRONT, meta)


def test_shapes_with_channels_first_are_understood(opened):
    feature = ROBOT.features[FRONT] | {"shape": [3, 64, 96], "names": ["channels", "height", "width"]}
    meta = type(ROBOT)(**{**vars(ROBOT), "features": {FRONT: feature}})
    assert opened(FRONT, meta).shape == (3, 64, 96)
