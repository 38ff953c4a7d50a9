"""Videos and images that are missing, cut or not what the description says."""

import shutil
import sys
import types
from dataclasses import replace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sample_robot_data import FRONT, TOP, copied

from trainer.errors import ConfigError
from trainer.lerobot_data.frames import FrameOptions, open_frames

WAYS = ["cache", "lazy"]


@pytest.fixture
def meta(tmp_path):
    return copied(tmp_path)


@pytest.fixture(params=WAYS)
def opened(request, tmp_path):
    def make(meta, camera=FRONT, **options):
        chosen = FrameOptions(request.param, cache_dir=tmp_path / "cache", **{"video_backend": "pyav"} | options)
        return open_frames(meta, camera, meta.episodes, chosen)

    return make


def video_of(meta, episode, camera=FRONT):
    return meta.episodes[episode].videos[camera].path


def test_a_missing_video_is_named(opened, meta):
    video_of(meta, 2).unlink()
    with pytest.raises(ConfigError, match=r"file-001.mp4: the video of .*front in episode 2 is missing"):
        opened(meta)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.9, 0.995])
@pytest.mark.parametrize("episode", [1, 2])  # the list of frames is at the beginning of the first file
def test_a_cut_video_is_named_when_it_is_opened(opened, meta, episode, kept):
    path = video_of(meta, episode)
    whole = path.read_bytes()
    if episode == 2 and kept == 0.995:
        kept = 0.97  # what comes last there is not needed
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ConfigError, match=r"mp4: the video of .*front in episode.*: it (is cut|cannot be|holds no)"):
        opened(meta)


def test_a_video_without_a_frame_that_its_episodes_have_is_named(opened, meta):
    longer = replace(meta.episodes[-1], end=meta.episodes[-1].end + 1)
    with pytest.raises(ConfigError, match=r"file-003.mp4.*episode 4: it has 14 frames, and its episodes have 15"):
        opened(replace(meta, episodes=(*meta.episodes[:-1], longer)))


def test_frames_that_begin_at_other_times_are_named(opened, meta):
    episode = meta.episodes[1]
    shifted = replace(episode, videos={FRONT: replace(episode.videos[FRONT], start_seconds=0.37)})
    meta = replace(meta, episodes=(meta.episodes[0], shifted, *meta.episodes[2:]))
    with pytest.raises(ConfigError, match=r"frame 0 of episode 1 \(at 0.3700 s\): the next frame is at 0.4000 s"):
        opened(meta)[torch.tensor([6])]


def test_frames_of_another_size_are_named(opened, meta):
    features = {**meta.features, FRONT: meta.features[FRONT] | {"shape": [64, 80, 3]}}
    with pytest.raises(ConfigError, match=r"it has 64 × 96 pixels, and meta/info.json has 64 × 80"):
        opened(replace(meta, features=features))


def test_damage_inside_of_a_video_is_named_with_its_frame(opened, meta):
    path = video_of(meta, 2)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start, size = packets[10].pos, packets[10].size
    content[start : start + size] = bytes(255 - byte for byte in content[start : start + size])
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"file-001.mp4: frame (10|11|12) of episode 2 .* Restore the file"):
        opened(meta)[torch.arange(7, 30)]


def _write_video(path, codec, times, rate=30, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "12", "bf": "2"}
        for number, time in enumerate(times):
            picture = np.full((*size, 3), 10 * number % 250, np.uint8)
            picture[:, : 2 * number % size[1]] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1", "mpeg4"])
def test_keyframes_far_apart_and_frames_out_of_order_are_read_right(tmp_path, meta, codec):
    path = tmp_path / "h264" / "file.mp4"
    _write_video(path, codec, range(40))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    episode = replace(meta.episodes[0], end=40, videos={FRONT: replace(meta.episodes[0].videos[FRONT], path=path)})
    feature = meta.features[FRONT] | {"shape": [48, 64, 3]}
    meta = replace(meta, fps=30, features={FRONT: feature}, episodes=(episode,))
    lazy = open_frames(meta, FRONT, meta.episodes, FrameOptions("lazy", video_backend="pyav"))
    generator = torch.Generator().manual_seed(1)
    for count in (1, 1, 2, 3, 1, 5, 1, 1, 40):
        numbers = torch.randint(40, (count,), generator=generator)
        assert torch.equal(lazy[numbers], expected[numbers])


def test_a_gap_in_a_video_is_named(opened, tmp_path, meta):
    path = tmp_path / "gap" / "file.mp4"
    _write_video(path, "mpeg4", [*range(4), *range(5, 12)])
    episode = replace(meta.episodes[0], end=11, videos={FRONT: replace(meta.episodes[0].videos[FRONT], path=path)})
    feature = meta.features[FRONT] | {"shape": [48, 64, 3]}
    meta = replace(meta, fps=30, features={FRONT: feature}, episodes=(episode,))
    with pytest.raises(ConfigError, match=r"frame 4 of episode 0 \(at 0.1333 s\): the next frame is at 0.1667 s"):
        opened(meta)[torch.arange(11)]


def test_a_file_without_video_is_named(opened, meta):
    video_of(meta, 0).write_text("this is not a video")
    with pytest.raises(ConfigError, match=r"file-000.mp4.*episodes 0 to 1: it cannot be opened"):
        opened(meta)


def _fake_torchcodec(monkeypatch, decoder):
    module = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = decoder
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)


def test_torchcodec_that_does_not_load_is_an_error_if_it_is_asked_for(opened, meta, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"video_backend: torchcodec cannot be used.* Use auto or pyav"):
        opened(meta, video_backend="torchcodec")

    def broken(*_, **__):
        raise RuntimeError("Could not load libtorchcodec\nlong text")

    _fake_torchcodec(monkeypatch, broken)
    with pytest.raises(ConfigError, match=r"Could not load libtorchcodec. Use auto"):
        opened(meta, video_backend="torchcodec")
    auto, pyav = (opened(meta, video_backend=backend)[torch.arange(53)] for backend in ("auto", "pyav"))
    assert torch.equal(auto, pyav)


class Decoder:
    """As torchcodec's, of frames that differ from PyAV's."""

    def __init__(self, source, *, num_ffmpeg_threads, seek_mode):
        assert seek_mode == "exact"
        with av.open(source) as container:
            decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        self.times = torch.tensor([time for time, _ in decoded], dtype=torch.float64)
        self.frames = torch.from_numpy(np.stack([255 - picture for _, picture in decoded])).permute(0, 3, 1, 2)

    def get_frames_played_at(self, seconds):
        if seconds[-1] > self.times[-1] + 0.1:
            raise RuntimeError("Invalid pts seconds")
        places = torch.searchsorted(self.times, torch.tensor(seconds, dtype=torch.float64), right=True) - 1
        return types.SimpleNamespace(data=self.frames[places], pts_seconds=self.times[places])


def test_auto_is_torchcodec_where_it_loads(opened, meta, monkeypatch):
    _fake_torchcodec(monkeypatch, Decoder)
    numbers = torch.arange(52, -1, -1)
    pyav = opened(meta)[numbers]
    for backend in ("auto", "torchcodec"):
        assert torch.equal(opened(meta, video_backend=backend)[numbers], 255 - pyav)


def test_a_frame_that_torchcodec_does_not_find_is_named(opened, meta, monkeypatch):
    _fake_torchcodec(monkeypatch, Decoder)
    episode = meta.episodes[1]
    shifted = replace(episode, videos={FRONT: replace(episode.videos[FRONT], start_seconds=0.37)})
    with pytest.raises(ConfigError, match=r"frame 0 of episode 1 \(at 0.3700 s\): the frame before it is at 0.3333 s"):
        opened(replace(meta, episodes=(meta.episodes[0], shifted)), video_backend="torchcodec")[torch.tensor([6])]


def test_without_pyav_the_extra_is_named(opened, meta, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"needs av.*innerstep\[robot\]"):
        opened(meta)


def _replace_image(meta, number, image):
    """Put another value into the column of `top`."""
    path = meta.data_files[0]
    table = pq.read_table(path)
    column = table[TOP].to_pylist()
    column[number] = image
    place = table.schema.get_field_index(TOP)
    pq.write_table(table.set_column(place, TOP, pa.array(column, table.schema.field(TOP).type)), path)


def _png(tmp_path, mode, size=(56, 40)):
    path = tmp_path / f"{mode.replace(';', '')}.png"
    Image.new(mode, size).save(path)
    return path


def _eps(folder):
    Image.new("RGB", (56, 40)).save(folder / "image.eps")
    return (folder / "image.eps").read_bytes()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda folder: None, "neither bytes nor a path"),
        (lambda folder: {"bytes": b"no image", "path": None}, "it cannot be read"),
        (lambda folder: {"bytes": _png(folder, "RGB").read_bytes()[:-40], "path": None}, "it cannot be read"),
        (lambda folder: {"bytes": _eps(folder), "path": None}, "it cannot be read: cannot identify"),  # PostScript
        (lambda folder: {"bytes": None, "path": "images/7.png"}, "it cannot be read.*images/7.png"),
        (lambda folder: {"bytes": _png(folder, "RGBA").read_bytes(), "path": None}, "mode of it is RGBA"),
        (lambda folder: {"bytes": _png(folder, "L").read_bytes(), "path": None}, "mode of it is L"),
        (lambda folder: {"bytes": _png(folder, "I;16").read_bytes(), "path": None}, "mode of it is I;16"),
        (lambda folder: {"bytes": _png(folder, "RGB", (9, 40)).read_bytes(), "path": None}, "it has 40 × 9 pixels"),
    ],
)
def test_an_image_that_is_no_frame_is_named(opened, tmp_path, meta, image, message):
    _replace_image(meta, 9, image(tmp_path))
    with pytest.raises(ConfigError, match=rf"file-000.parquet: {TOP}: the image of frame 2 of episode 2: .*{message}"):
        opened(meta, TOP)[torch.tensor([9])]


def test_an_image_may_be_a_file_beside_the_data(opened, tmp_path, meta):
    picture = np.arange(40 * 56 * 3, dtype=np.uint8).reshape(40, 56, 3)
    (meta.root / "images").mkdir()
    Image.fromarray(picture).save(meta.root / "images/9.png")
    _replace_image(meta, 9, {"bytes": None, "path": "images/9.png"})
    assert torch.equal(opened(meta, TOP)[torch.tensor(9)], torch.from_numpy(picture).permute(2, 0, 1))


def test_more_rows_than_frames_are_an_error(opened, meta):
    with pytest.raises(ConfigError, match=r"file-000.parquet: has 39 rows, and its episodes have 30 frames"):
        opened(replace(meta, episodes=meta.episodes[:3]), TOP)


def test_files_of_other_episodes_are_not_needed(opened, meta):
    whole = opened(meta, TOP)[torch.arange(39, 53)]
    meta.data_files[0].unlink()
    chosen = FrameOptions("lazy")
    assert torch.equal(open_frames(meta, TOP, meta.episodes[4:], chosen)[torch.arange(39, 53)], whole)


def test_a_missing_column_of_images_is_named(opened, meta):
    path = meta.data_files[1]
    pq.write_table(pq.read_table(path).drop_columns([TOP]), path)
    with pytest.raises(ConfigError, match=rf"file-001.parquet: has no column {TOP}"):
        opened(meta, TOP)


def test_a_damaged_parquet_file_is_named(opened, meta):
    path = meta.data_files[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"file-001.parquet: cannot be read"):
        opened(meta, TOP)


def test_images_do_not_stay_in_memory_beyond_a_limit(meta, monkeypatch):
    numbers = torch.tensor([50, 3, 8])
    expected = open_frames(meta, TOP, meta.episodes, FrameOptions("lazy"))[numbers]
    monkeypatch.setattr("trainer.lerobot_data.image_files._KEPT_BYTES", 1)
    frames = open_frames(meta, TOP, meta.episodes, FrameOptions("lazy"))
    for _ in range(2):
        assert torch.equal(frames[numbers], expected)
        assert len(frames._decoder._kept) == 1  # of five episodes, each a row group


def test_a_file_that_is_open_is_closed_when_there_are_too_many(meta, monkeypatch):
    frames = open_frames(meta, FRONT, meta.episodes, FrameOptions("lazy", video_backend="pyav"))
    expected = frames[torch.arange(53)]
    monkeypatch.setattr("trainer.lerobot_data.video_frames._MAX_OPEN", 2)
    few = open_frames(meta, FRONT, meta.episodes, FrameOptions("lazy", video_backend="pyav"))
    for _ in range(2):
        assert torch.equal(few[torch.arange(53)], expected)
    shutil.rmtree(meta.root / "videos")
    with pytest.raises(ConfigError, match="cannot be opened"):  # of the first, which had to be closed
        few[torch.tensor([0])]
