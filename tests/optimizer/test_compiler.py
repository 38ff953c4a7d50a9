"""A C compiler, whatever it does, ends with a message when the optimizer is built, and leaves no process."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels import native_library, self_test


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Return a function that sets CC to a shell script, and builds an optimizer with compiled steps."""

    def build(script, **params):
        path = tmp_path / "odd-cc"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled", **params).build([nn.Parameter(torch.zeros(3))])

    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 2)
    native_library.library.cache_clear()
    yield build
    native_library.library.cache_clear()


def has_ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # where there is none, what has ended is gone at once
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


HANGING = {
    "waits for another process": "sleep 1000 & echo $! > pid; wait",
    "ignores signals": "trap '' TERM INT HUP; echo $$ > pid; while :; do sleep 1; done",
    "never stops writing": "echo $$ > pid; while :; do echo nothing >&2; echo nothing; done",
}


@pytest.mark.parametrize("script", HANGING)
def test_a_compiler_that_does_not_end_is_killed_with_what_it_started(compiler, tmp_path, script):
    with pytest.raises(ValueError, match=r"odd-cc did not compile native\.c in 2 seconds, and was stopped"):
        compiler(HANGING[script])
    pid = int((tmp_path / "pid").read_text())
    while not has_ended(pid):  # it was killed, which takes a moment
        time.sleep(0.01)


def test_a_process_that_the_compiler_leaves_is_not_waited_for(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 60)
    with pytest.raises(ValueError, match=r"could not compile native\.c: no such flag"):
        compiler("sleep 1000 & echo $! > pid; echo no such flag >&2; exit 1")
    os.kill(int(Path(tmp_path / "pid").read_text()), 9)


def test_of_much_that_a_compiler_says_the_beginning_is_shown(compiler, monkeypatch):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 60)
    with pytest.raises(ValueError, match=r"could not compile native\.c: 1\n2\n") as refusal:
        compiler("seq 100000 >&2; exit 1")
    assert len(str(refusal.value)) < 20_000


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "native.so: cannot open shared object file"),
        ("exit 3", r"could not compile native\.c: it ended with 3$"),
        ("kill -9 $$", r"could not compile native\.c: it ended with -9$"),
        ('for last in "$@"; do case "$last" in *.so) echo junk > "$last";; esac; done', "file too short|invalid ELF"),
        ('for last in "$@"; do case "$last" in *.so) mkdir "$last";; esac; done', "native.so"),
        ("printf '\\377\\376 no' >&2; exit 2", "could not compile native.c: \ufffd\ufffd no"),
    ],
)
def test_a_compiler_that_makes_no_library_is_told_when_the_optimizer_is_built(compiler, script, message):
    with pytest.raises(ValueError, match=f"^implementation: .* has no compiled one here: (.|\n)*({message})"):
        compiler(script)


def test_a_compiler_that_did_not_end_is_not_waited_for_again_at_once(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 0.5)
    message = r"odd-cc did not compile native\.c .* try again in a minute"
    with pytest.raises(ValueError, match=message):
        compiler("echo >> calls; exec sleep 1000")
    for key in ("adamw", "schedule_free_radam"):
        with pytest.raises(ValueError, match=message):
            OPTIMIZER_BUILDER_REGISTRY[key](implementation="compiled").build([nn.Parameter(torch.zeros(3))])
    assert (tmp_path / "calls").read_text() == "\n"


BROKEN = {
    "every thread takes every turn": (
        "#include <omp.h>\n#define omp_get_num_threads() 1\n#define omp_get_thread_num() 0",
        "differs between 1 and 2 threads",
    ),
    "threads that are not there": (
        "#include <omp.h>\n#define omp_get_num_threads() 3\n#define omp_get_thread_num() 2",
        "of [0-9,]+ elements wrong|differs between",
    ),
    "wrong arithmetic": ("#include <tgmath.h>\n#undef sqrt\n#define sqrt(x) (x)", "[0-9,]+ of [0-9,]+ elements wrong"),
}


@NO_COMPILER
@pytest.mark.parametrize("fault", BROKEN)
def test_a_library_that_computes_something_else_is_refused(compiler, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 60)
    monkeypatch.setenv("INNERSTEP_CACHE", str(tmp_path / "kept"))
    header, message = BROKEN[fault]
    (tmp_path / "broken.h").write_text(header)
    with pytest.raises(
        ValueError, match=rf"odd-cc made a library of native\.c that is wrong: .* adam {message}|{message}"
    ):
        compiler('exec cc -include broken.h "$@"')
    assert not list((tmp_path / "kept").glob("*"))


BROKEN_SHARES = {
    "a share is left out": ("from < to ?", "from < to && thread + 1 < threads ?"),
    "two threads take one share": ("thread = omp_get_thread_num()", "thread = omp_get_thread_num() & ~1"),
    "shares overlap by a piece": ("cut(end, size);", "cut(thread + 1 < threads ? end + PIECE : end, size);"),
    "an element between shares": ("cut(end, size);", "cut(end, size) - (0 < end && end < size);"),
    "counts of a row replace each other": ("work->agreeing[row] += agreeing", "work->agreeing[row] = agreeing"),
}


@NO_COMPILER
@pytest.mark.parametrize("fault", BROKEN_SHARES)
def test_a_library_whose_threads_take_other_shares_is_refused(compiler, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 60)
    monkeypatch.setenv("INNERSTEP_CACHE", str(tmp_path / "kept"))
    source, (right, wrong) = native_library.SOURCE.read_text(), BROKEN_SHARES[fault]
    assert source.count(right) >= 1
    (tmp_path / "native.c").write_text(
        source.replace("#pragma omp atomic\n", "#pragma omp critical\n").replace(right, wrong)
    )
    shutil.copy(native_library.HEADER, tmp_path)
    monkeypatch.setattr(native_library, "SOURCE", tmp_path / "native.c")
    with pytest.raises(ValueError, match=r"a trial of the step cautious_adam differs between 1 and 2 threads"):
        compiler('exec cc "$@"', use_cautious_optimizer=True)
    assert not list((tmp_path / "kept").glob("*"))


@NO_COMPILER
def test_a_step_that_does_not_end_is_refused(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 60)
    monkeypatch.setattr(self_test, "SECONDS", 0.2)
    (tmp_path / "other.c").write_text("#include <unistd.h>\nlong step(void *work, int threads) { return sleep(2); }")
    take_output = 'for last in "$@"; do case "$last" in *.so) out="$last";; esac; done'
    with pytest.raises(ValueError, match=r"a trial of the step adam did not end in 0\.2 seconds"):
        compiler(f'{take_output}; exec cc -shared -fPIC other.c -o "$out"')


@pytest.mark.skipif(shutil.which("clang") is None or sys.platform == "darwin", reason="needs clang, and torch's OpenMP")
def test_clang_with_another_openmp_than_torchs_is_refused(monkeypatch):
    monkeypatch.setenv("CC", "clang")
    native_library.library.cache_clear()
    with pytest.raises(ValueError, match=r"clang (made a library of native\.c that is wrong|could not compile)"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled").build([nn.Parameter(torch.zeros(3))])


def test_an_empty_CC_is_the_usual_compiler(monkeypatch):  # noqa: N802  # the variable's name
    monkeypatch.setenv("CC", "  ")
    monkeypatch.setenv("PATH", "")
    native_library.library.cache_clear()
    with pytest.raises(ValueError, match=r"compiler 'cc' cannot be started: No such file.* Install one, or set CC"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled").build([nn.Parameter(torch.zeros(3))])


@NO_COMPILER
def test_steps_without_openmp_are_those_with_it(monkeypatch):
    """As on macOS, whose compiler has no OpenMP: there a step takes one thread."""

    def stepped():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(size)) for size in (3, 100_000)]
        optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](implementation="compiled").build(parameters)
        for parameter in parameters:
            parameter.grad = parameter.detach().sin()
        optimizer.step()
        return parameters

    native_library.library.cache_clear()
    with_threads = stepped()
    monkeypatch.setattr(native_library.sys, "platform", "darwin")
    monkeypatch.setattr(native_library.platform, "machine", lambda: "x86_64")
    native_library.library.cache_clear()
    for one, other in zip(stepped(), with_threads, strict=True):
        assert torch.equal(one, other)
    assert "-fopenmp" not in native_library._flags_of_system()
    monkeypatch.setattr(native_library.platform, "machine", lambda: "arm64")
    assert native_library._flags_of_system()[0] == "-mcpu=native"
    native_library.library.cache_clear()
