"""Compiled libraries in a folder for the next processes: a file that is not whole, or not ours alone, is made again."""

import ctypes
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NO_COMPILER, ROOT
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import kept_libraries, native_library

pytestmark = [
    NO_COMPILER,
    pytest.mark.skipif(not hasattr(os, "getuid"), reason="nothing is kept without file owners"),
]


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Return a compiler that notes each of its calls in the file `calls`, and keeps libraries in `kept`."""
    script = tmp_path / "counted-cc"
    script.write_text(f'#!/bin/sh\necho >> {tmp_path}/calls\nexec cc "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("INNERSTEP_CACHE", str(tmp_path / "kept"))
    native_library.library.cache_clear()
    yield script
    native_library.library.cache_clear()


def build(key="adamw", dtype=torch.float32, **options):
    """Build an optimizer as the first one of a process, and check a step of it."""
    native_library.library.cache_clear()
    p = nn.Parameter(torch.ones(1000, dtype=dtype))
    factory = OPTIMIZER_BUILDER_REGISTRY[key](implementation="compiled", lr=0.5, grad_clip_norm=None, **options)
    optimizer = factory.build([p])
    p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    assert p[999].item() == pytest.approx(0.5, abs=0.01)


def calls(tmp_path):
    return len((tmp_path / "calls").read_text()) if (tmp_path / "calls").exists() else 0


def libraries(tmp_path):
    return sorted((tmp_path / "kept").glob("*.so"))


def test_a_kept_library_is_not_compiled_again(compiler, tmp_path):
    build()
    build()
    assert calls(tmp_path) == 1
    (kept,) = libraries(tmp_path)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    build(dtype=torch.float64)
    assert calls(tmp_path) == len(libraries(tmp_path)) == 2


def rewrite(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:5000])


def link(path):
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_folder(path):
    path.unlink()
    path.mkdir()


def open_to_others(path):
    path.chmod(0o666)


@pytest.mark.parametrize(
    "spoil", [rewrite, cut_off, link, make_pipe, make_folder, open_to_others, Path.unlink], ids=lambda f: f.__name__
)
def test_a_file_that_is_not_as_it_was_written_is_not_loaded(compiler, tmp_path, spoil):
    build()
    (kept,) = libraries(tmp_path)
    spoil(kept)
    build()
    assert calls(tmp_path) == 2


def test_a_library_of_the_right_name_that_computes_something_else_is_made_again(compiler, tmp_path):
    build()
    native_library.library("schedule_free_radam", torch.float32, torch.float32)
    right, other = libraries(tmp_path)
    content = other.read_bytes()
    source = right.name.split("-")[1]
    right.unlink()
    planted = kept_libraries.keep("adam", source, content)
    build()
    assert not planted.exists()
    assert calls(tmp_path) == 3


def change_compiler(compiler, monkeypatch):
    compiler.write_text(compiler.read_text() + "# another version\n")


def change_flags(compiler, monkeypatch):
    monkeypatch.setattr(native_library, "FLAGS", (*native_library.FLAGS, "-DNOTHING"))


def change_arguments(compiler, monkeypatch):
    monkeypatch.setenv("CC", f"{compiler} -DNOTHING")


def change_search_path(compiler, monkeypatch):
    monkeypatch.setenv("CPATH", "/missing")


def change_torch(compiler, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.99.0")


@pytest.mark.parametrize(
    "change",
    [change_compiler, change_flags, change_arguments, change_search_path, change_torch],
    ids=lambda f: f.__name__,
)
def test_a_library_made_otherwise_is_not_taken(compiler, tmp_path, monkeypatch, change):
    build()
    change(compiler, monkeypatch)
    build()
    assert calls(tmp_path) == len(libraries(tmp_path)) == 2


def test_a_library_of_another_processor_is_not_taken(compiler, tmp_path, monkeypatch):
    from optimizer.kernels import made_from

    build()
    monkeypatch.setattr(made_from, "_processor", lambda: b"flags: fpu")
    build()
    assert calls(tmp_path) == 2
    monkeypatch.setattr(made_from, "_processor", lambda: b"")  # not known: nothing is kept or looked for
    build()
    build()
    assert calls(tmp_path) == 4
    assert len(libraries(tmp_path)) == 2


def leave_open(folder):
    folder.mkdir()
    folder.chmod(0o777)


def leave_parent_open(folder):
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


def leave_missing_parent_open(folder):
    folder.parent.chmod(0o777)


def link_to_open(folder):
    target = folder.parent / "open" / "private"
    target.mkdir(parents=True, mode=0o700)
    target.parent.chmod(0o777)
    folder.symlink_to(target)


def make_file(folder):
    folder.write_text("")


def make_dangling_link(folder):
    folder.symlink_to("/proc/missing/else")


def give_away(folder):
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, 12_345, -1)
    except PermissionError:
        pytest.skip("needs root")


@pytest.mark.parametrize(
    "arrange",
    [
        leave_open,
        leave_parent_open,
        leave_missing_parent_open,
        link_to_open,
        make_file,
        make_dangling_link,
        give_away,
    ],
    ids=lambda f: f.__name__,
)
def test_a_folder_that_others_could_write_to_is_not_used(compiler, tmp_path, monkeypatch, arrange):
    folder = tmp_path / "place" / "kept"
    folder.parent.mkdir(mode=0o700)
    arrange(folder)
    before = sorted(folder.parent.rglob("*"))
    monkeypatch.setenv("INNERSTEP_CACHE", str(folder))
    build()
    build()
    assert calls(tmp_path) == 2
    assert sorted(folder.parent.rglob("*")) == before


def test_a_folder_in_one_with_the_sticky_bit_is_used(compiler, tmp_path, monkeypatch):
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    monkeypatch.setenv("INNERSTEP_CACHE", str(tmp_path / "sticky" / "kept"))
    build()
    build()
    assert calls(tmp_path) == 1


def test_a_full_disk_keeps_nothing_and_is_no_error(compiler, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_libraries.os, "replace", full)
    build()
    build()
    assert calls(tmp_path) == 2
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("refused", ["native.so", "kept"])
def test_a_folder_from_which_no_program_runs_is_no_error(compiler, tmp_path, monkeypatch, refused):
    """As if the temporary folder, or that of kept libraries, were mounted with noexec."""
    load = ctypes.CDLL

    def load_elsewhere(path, *arguments, **options):
        if refused in str(path):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path, *arguments, **options)

    monkeypatch.setattr(native_library.ctypes, "CDLL", load_elsewhere)
    build()
    build()
    assert calls(tmp_path) == (1 if refused == "native.so" else 2)


@pytest.mark.parametrize("word", ["off", "OFF "])
def test_nothing_is_kept_when_it_is_turned_off(compiler, tmp_path, monkeypatch, word):
    monkeypatch.setenv("INNERSTEP_CACHE", word)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    build()
    build()
    assert calls(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls", "counted-cc"]


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"INNERSTEP_CACHE": "{0}/a b", "XDG_CACHE_HOME": "{0}/c"}, "a b"),
        ({"INNERSTEP_CACHE": "~/d", "HOME": "{0}/home"}, "home/d"),
        ({"INNERSTEP_CACHE": "", "XDG_CACHE_HOME": "{0}/c"}, "c/innerstep"),
        ({"INNERSTEP_CACHE": " ", "XDG_CACHE_HOME": "c", "HOME": "{0}/home"}, "home/.cache/innerstep"),
    ],
)
def test_the_folder_is_where_the_environment_says(compiler, tmp_path, monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    build()
    assert len(list((tmp_path / place).glob("adam-*.so"))) == 1


def test_a_user_without_a_home_keeps_nothing(compiler, tmp_path, monkeypatch):
    for name in ("INNERSTEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kept_libraries.os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    build()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls", "counted-cc"]


def test_old_libraries_and_what_killed_processes_left_are_removed(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_libraries, "FILES", 3)
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    for number in range(5):
        path = kept_libraries.keep("adam", f"{number:064x}", b"%d" % number)
        os.utime(path, (number, number))
    for name, age in ((".new-old", 7200), (".new-young", 60), ("foreign.so", 10**9)):
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() - age,) * 2)
    build()
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split("-")[1].lstrip("0") for name in names if name.startswith("adam-00000")] == ["3", "4"]
    assert {name for name in names if not name.startswith("adam-")} == {".new-young", "foreign.so"}
    assert len(names) == 5


WORKER = """
import sys, torch
from optimizer import OPTIMIZER_BUILDER_REGISTRY
p = torch.nn.Parameter(torch.ones(200_000))
optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", lr=0.5, grad_clip_norm=None).build([p])
p.grad = torch.ones_like(p)
optimizer.step()
print(p.sum().item())
"""


def started():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_eight_processes_at_once_and_kills_leave_only_whole_libraries(compiler, tmp_path):
    folder = tmp_path / "kept"
    for delay in (0.0, 0.1, 0.2):  # after the compiler began
        native = started()
        while not calls(tmp_path) and native.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        native.send_signal(signal.SIGKILL)
        native.communicate()
        (tmp_path / "calls").unlink()
        for path in libraries(tmp_path):
            path.unlink()
    processes = [started() for _ in range(8)]
    sums = {process.communicate(timeout=120) for process in processes}
    assert len(sums) == 1
    assert not sums.pop()[1]
    for path in folder.glob("*.so"):
        assert kept_libraries._is_whole(path)
    before = calls(tmp_path)
    started().communicate(timeout=120)
    assert calls(tmp_path) == before
