"""The cache of decoded frames: made once, whole or not at all, and again when its sources change."""

import io
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sample_robot_data import FRONT, TOP, copied

from trainer.errors import ConfigError
from trainer.lerobot_data import frame_cache
from trainer.lerobot_data.frames import FrameOptions, open_frames

SIZE = 53 * 3 * 64 * 96


@pytest.fixture
def meta(tmp_path):
    return copied(tmp_path)


@pytest.fixture
def cached(tmp_path, capsys):
    """Open frames through the cache; return them and what was printed."""

    def make(meta, camera=FRONT, episodes=None, **options):
        chosen = FrameOptions("cache", **{"cache_dir": tmp_path / "cache", "video_backend": "pyav"} | options)
        frames = open_frames(meta, camera, meta.episodes if episodes is None else episodes, chosen)
        return frames[torch.arange(frames._starts[0], frames._ends[-1])], capsys.readouterr().out

    return make


def files(folder, pattern="**/*.u8"):
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def test_frames_are_decoded_once_and_the_size_is_printed_first(cached, meta, tmp_path):
    first, printed = cached(meta)
    (path,) = files(tmp_path / "cache")
    assert printed == f"decoding 53 frames of {FRONT} into {path}: 1.0 MB\n"
    assert path.stat().st_size == SIZE
    made = path.stat().st_mtime_ns
    again, printed = cached(meta)
    assert printed == ""
    assert path.stat().st_mtime_ns == made
    assert torch.equal(first, again)


@pytest.mark.parametrize("camera", [FRONT, TOP])
def test_a_cache_that_is_there_needs_no_decoder(cached, meta, camera, monkeypatch):
    first, _ = cached(meta, camera)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert torch.equal(cached(meta, camera)[0], first)


def test_the_cache_lies_in_the_users_cache_folder(cached, meta, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached(meta, cache_dir=None)
    assert len(files(tmp_path / "xdg/innerstep/frames")) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cached(meta, cache_dir=None)
    assert len(files(tmp_path / "home/.cache/innerstep/frames")) == 1


def test_nothing_is_written_into_the_data_set(cached, meta):
    before = files(meta.root, "**/*")
    cached(meta)
    cached(meta, TOP)
    assert files(meta.root, "**/*") == before


@pytest.mark.parametrize("camera", [FRONT, TOP])
def test_a_source_that_changes_leads_to_another_cache(cached, meta, camera, tmp_path):
    first, _ = cached(meta, camera)
    source = meta.data_files[0] if camera == TOP else meta.episodes[0].videos[camera].path
    os.utime(source, ns=(1, 1))
    second, printed = cached(meta, camera)
    assert "decoding" in printed
    assert f"1 other caches of {camera} are kept" in printed
    assert torch.equal(first, second)
    assert len(files(tmp_path / "cache")) == 2


def test_each_choice_has_its_own_cache(cached, meta, tmp_path):
    choices = [{}, {"resize": (32, 48)}, {"episodes": meta.episodes[:2]}, {"episodes": meta.episodes[1:]}]
    shifted = replace(meta, fps=15.000001)
    for count, choice in enumerate(choices, 1):
        assert "decoding" in cached(meta, **choice)[1]
        assert len(files(tmp_path / "cache")) == count
    assert "decoding" in cached(shifted)[1]
    assert [cached(meta, **choice)[1] for choice in choices] == [""] * 4


def test_data_sets_of_the_same_name_do_not_share_a_cache(cached, tmp_path, meta):
    other = copied(tmp_path / "elsewhere")
    for name in files(meta.root, "**/*"):
        times = (name.stat().st_mtime_ns,) * 2
        os.utime(name, ns=times)
        os.utime(other.root / name.relative_to(meta.root), ns=times)
    assert "decoding" in cached(meta)[1]
    assert "decoding" in cached(other)[1]


@pytest.mark.parametrize("size", [0, 1000, SIZE - 1, SIZE + 1])
def test_a_damaged_cache_is_made_again(cached, meta, tmp_path, size):
    whole, _ = cached(meta)
    (path,) = files(tmp_path / "cache")
    os.truncate(path, size)
    again, printed = cached(meta)
    assert printed.startswith(f"{path}: has {size:,} bytes in place of {SIZE:,}, and is made again\ndecoding 53")
    assert torch.equal(whole, again)


def test_a_cache_beyond_the_limit_is_refused_before_anything_is_written(cached, meta, tmp_path):
    with pytest.raises(ConfigError) as refused:
        cached(meta, cache_limit_gb=0.0009)
    for part in (FRONT, "1.0 MB", "cache_limit_gb is 0.0009", "resize", "lazy"):
        assert part in str(refused.value)
    assert not (tmp_path / "cache").exists()
    cached(meta, cache_limit_gb=0.0009, resize=(32, 48))
    cached(meta, cache_limit_gb=0.001)


def test_a_cache_that_the_disk_cannot_hold_is_refused(cached, meta, monkeypatch):
    usage = type("Usage", (), {"free": 900_000})
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"need 1.0 MB, and .* has 0.9 MB left.*cache_dir.*resize.*lazy"):
        cached(meta)


def test_a_disk_that_becomes_full_leaves_nothing_behind(cached, meta, tmp_path, monkeypatch):
    def full(frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.Tensor, "contiguous", full)
    monkeypatch.setattr(torch.Tensor, "numpy", full)
    with pytest.raises(ConfigError, match="cannot be cached: No space left on device"):
        cached(meta)
    assert not files(tmp_path / "cache", "**/*.u8")


def test_a_folder_that_cannot_be_made_is_named(cached, meta, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be cached: Not a directory. Name another cache_dir"):
        cached(meta, cache_dir=tmp_path / "file")


def test_a_fault_while_decoding_leaves_no_cache(cached, meta, tmp_path):
    episode = meta.episodes[1]
    moved = replace(episode, videos={FRONT: replace(episode.videos[FRONT], start_seconds=0.37)})
    with pytest.raises(ConfigError, match="episode 1"):
        cached(replace(meta, episodes=(meta.episodes[0], moved)))
    assert not files(tmp_path / "cache")


PROGRAM = """
import pickle, sys
import torch
from trainer.lerobot_data import video_frames
from trainer.lerobot_data.frames import FrameOptions, open_frames

meta, camera, cache = pickle.load(sys.stdin.buffer)
read = video_frames.VideoFrames.read

def slow(decoder, *arguments, **options):
    for count, frame in enumerate(read(decoder, *arguments, **options)):
        if count == 20:
            print("at frame 20", flush=True)
            sys.stdin.buffer.read(1)
        yield frame

video_frames.VideoFrames.read = slow
sys.stdout.reconfigure(line_buffering=True)
frames = open_frames(meta, camera, meta.episodes, FrameOptions("cache", cache, video_backend="pyav"))
print(int(frames[torch.arange(53)].sum()))
"""


class Run:
    """A process that makes a cache, and stops when 20 frames are decoded until `go` is called."""

    def __init__(self, meta, cache):
        command = [sys.executable, "-c", PROGRAM]  # a new one: a fork would not have the threads of this one
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.output = io.TextIOWrapper(self.process.stdout)
        self.process.stdin.write(pickle.dumps((meta, FRONT, cache)))
        self.process.stdin.flush()

    def go(self):
        self.process.stdin.write(b"1")
        self.process.stdin.flush()

    def end(self):
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.wait()
        self.output.close()
        self.process.stdin.close()


@pytest.fixture
def start(meta, tmp_path):
    """Start a Run. None outlives its test, however that ends."""
    started = []

    def make():
        started.append(Run(meta, tmp_path / "cache"))
        return started[-1]

    yield make
    for run in started:
        run.end()


def test_of_two_runs_at_once_one_decodes_and_the_other_waits(start, tmp_path):
    first = start()
    assert first.output.readline().startswith("decoding 53 frames")
    assert first.output.readline() == "at frame 20\n"
    second = start()
    assert re.fullmatch(r"waiting for .*\.u8, which another run makes\n", second.output.readline())
    first.go()
    (total,), (same,) = (run.output.read().splitlines() for run in (first, second))
    assert total == same
    first.end(), second.end()
    assert not files(tmp_path / "cache", "*/.innerstep-*/*")


def test_a_run_that_is_killed_leaves_no_cache_and_its_rest_is_removed(cached, start, meta, tmp_path):
    killed = start()
    killed.output.readline(), killed.output.readline()
    killed.end()
    assert not files(tmp_path / "cache", "*/*.u8")
    assert len(files(tmp_path / "cache", "*/.innerstep-*/*")) == 1
    frames, printed = cached(meta)
    lazy = open_frames(meta, FRONT, meta.episodes, FrameOptions("lazy", video_backend="pyav"))
    assert torch.equal(frames, lazy[torch.arange(53)])
    assert printed.startswith("decoding 53 frames")
    assert not files(tmp_path / "cache", "*/.innerstep-*/*")


def test_without_locks_two_runs_make_the_cache_side_by_side(cached, start, meta, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "fcntl", None)
    first = start()
    first.output.readline(), first.output.readline()
    frames, printed = cached(meta)
    assert printed.startswith("decoding 53 frames")
    first.go()
    assert first.output.read() == f"{int(frames.sum())}\n"
    first.end()
    assert not files(tmp_path / "cache", "*/.innerstep-*/*")


def test_a_file_system_without_locks_is_no_obstacle(cached, meta, monkeypatch):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(frame_cache.fcntl, "flock", refuse)
    assert "decoding" in cached(meta)[1]
