"""An optimizer's two files: new, whole, of the mode that the umask leaves, plain JSON, and a pair or nothing."""

import errno
import json
import math
import os
import shutil
import socket
import stat

import pytest
import torch
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, StateMismatchError, load_optimizer_state, save_optimizer_state
from optimizer.state.files import TENSORS, VALUES


class Killed(BaseException):
    pass


def stepped(updates=1, **options):
    torch.manual_seed(3)
    module = nn.Linear(5, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](**options).build(module)
    for _ in range(updates):
        module(torch.ones(3, 5)).square().sum().backward()
        optimizer.step()
    return optimizer


def steps_in(folder, name="adamw"):
    fresh = OPTIMIZER_BUILDER_REGISTRY[name]().build(nn.Linear(5, 2))
    load_optimizer_state(fresh, folder)
    return {int(state["step"]) for state in fresh.state.values()}


def refuse_constants(text):
    raise AssertionError(f"{text} is not JSON")


def strict(path):
    return json.loads(path.read_text(), parse_constant=refuse_constants)


def interrupted_at(monkeypatch, count, failure):
    """Let the renaming of the file number `count` fail."""
    replace, calls = os.replace, []

    def failing(source, target, **options):
        calls.append(target)
        if len(calls) == count:
            raise failure
        return replace(source, target, **options)

    monkeypatch.setattr("pathlib.os.replace", failing)


@pytest.mark.parametrize(("count", "left"), [(1, 4), (2, 7)])
@pytest.mark.parametrize("failure", [Killed(), OSError(errno.EIO, "Input/output error")])
def test_a_save_that_is_stopped_between_the_two_files_loses_neither_state(tmp_path, monkeypatch, count, left, failure):
    save_optimizer_state(stepped(4), tmp_path)
    with monkeypatch.context() as patched:
        interrupted_at(patched, count, failure)
        with pytest.raises(type(failure)):
            save_optimizer_state(stepped(7), tmp_path)
    assert steps_in(tmp_path) == {left}
    save_optimizer_state(stepped(9), tmp_path)
    assert steps_in(tmp_path) == {9}
    assert sorted(path.name for path in tmp_path.iterdir()) == [VALUES, TENSORS]


def test_values_left_over_from_another_save_are_not_taken(tmp_path):
    save_optimizer_state(stepped(4), tmp_path)
    left = tmp_path / ".innerstep-abc"
    left.mkdir()
    shutil.move(tmp_path / VALUES, left / VALUES)
    save_optimizer_state(stepped(5), tmp_path / "other")
    shutil.copy(tmp_path / "other" / VALUES, tmp_path / VALUES)
    assert steps_in(tmp_path) == {4}, "these belong to the tensors"
    shutil.copy(tmp_path / "other" / VALUES, left / VALUES)
    with pytest.raises(StateMismatchError, match="do not belong together"):
        steps_in(tmp_path)


def test_only_what_a_save_left_is_removed(tmp_path):
    for name in (".innerstep-mine/notes.txt", f".innerstep-theirs/{TENSORS}", f"elsewhere/{VALUES}"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".innerstep-link").symlink_to(tmp_path / "elsewhere")
    save_optimizer_state(stepped(), tmp_path)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {TENSORS, VALUES, ".innerstep-mine", ".innerstep-link", "elsewhere"}
    assert (tmp_path / "elsewhere" / VALUES).read_text() == "x"


BOTH = ("actor", "critic")


def both(updates):
    return {name: stepped(updates) for name in BOTH}


def steps_of_both(folder, names=BOTH):
    fresh = {name: OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(nn.Linear(5, 2)) for name in names}
    load_optimizer_state(fresh, folder)
    return {int(state["step"]) for one in fresh.values() for state in one.state.values()}


@pytest.mark.parametrize("names", [BOTH, BOTH[::-1]])
@pytest.mark.parametrize("failure", [Killed(), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize(("count", "left"), [(1, 2), (2, 6), (3, 6), (4, 6)])
def test_a_save_of_several_is_there_for_all_of_them_or_for_none(tmp_path, monkeypatch, count, left, failure, names):
    save_optimizer_state(both(2), tmp_path)
    with monkeypatch.context() as patched:
        interrupted_at(patched, count, failure)
        with pytest.raises(type(failure)):
            save_optimizer_state(both(6), tmp_path)
    assert steps_of_both(tmp_path, names) == {left}
    save_optimizer_state(both(3), tmp_path)
    assert steps_of_both(tmp_path, names) == {3}
    assert {path.name for name in BOTH for path in (tmp_path / name).iterdir()} == {VALUES, TENSORS}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_so_is_the_first_save(tmp_path, monkeypatch, count):
    with monkeypatch.context() as patched:
        interrupted_at(patched, count, Killed())
        with pytest.raises(Killed):
            save_optimizer_state(both(6), tmp_path)
    assert steps_of_both(tmp_path) == {6}


def test_what_cannot_be_saved_of_one_leaves_all_as_they_were(tmp_path):
    save_optimizer_state(both(2), tmp_path)
    made = both(5)
    made["critic"].param_groups[0]["odd"] = object()
    with pytest.raises(ValueError, match="cannot be saved"):
        save_optimizer_state(made, tmp_path)
    assert steps_of_both(tmp_path) == {2}
    assert {path.name for name in BOTH for path in (tmp_path / name).iterdir()} == {VALUES, TENSORS}


def test_optimizers_that_were_not_saved_by_one_call_are_not_loaded_as_one(tmp_path):
    save_optimizer_state(both(2), tmp_path)
    save_optimizer_state({"actor": stepped(6)}, tmp_path)
    with pytest.raises(StateMismatchError, match=r"actor, critic were not saved together.*Load each alone"):
        steps_of_both(tmp_path)
    assert [steps_in(tmp_path / name) for name in BOTH] == [{6}, {2}]
    for name in BOTH:
        save_optimizer_state(stepped(3), tmp_path / name)
    assert steps_of_both(tmp_path) == {3}, "one by one, as a user wants it"


@pytest.mark.parametrize("umask", [0o007, 0o027])
def test_the_files_have_the_mode_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_optimizer_state({"a": stepped()}, tmp_path / "new")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {"a": 0o777 & ~umask, TENSORS: 0o666 & ~umask, VALUES: 0o666 & ~umask}


def test_links_in_the_folder_are_replaced_and_not_followed(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "state"
    victim.write_text("precious")
    folder.mkdir()
    for name in (TENSORS, VALUES, f".{TENSORS}.{os.getpid()}", f".{VALUES}.{os.getpid()}"):
        (folder / name).symlink_to(victim)
    save_optimizer_state(stepped(2), folder)
    assert victim.read_text() == "precious"
    assert not (folder / TENSORS).is_symlink()
    assert not (folder / VALUES).is_symlink()
    assert steps_in(folder) == {2}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_options_that_are_not_finite_are_plain_json_and_come_back(tmp_path, value):
    optimizer = stepped()
    optimizer.param_groups[0]["threshold"] = value
    optimizer.param_groups[0]["bounds"] = [0.5, value]
    save_optimizer_state(optimizer, tmp_path)
    group = strict(tmp_path / VALUES)["param_groups"][0]
    assert group["threshold"] == {"nonfinite": repr(value)}
    again = stepped()
    again.param_groups[0] |= {"threshold": 1.0, "bounds": [1.0, 1.0]}
    load_optimizer_state(again, tmp_path)
    got = again.param_groups[0]
    assert [repr(got["threshold"]), repr(list(got["bounds"]))] == [repr(value), repr([0.5, value])]


def test_files_of_earlier_versions_with_tokens_that_are_not_json_are_read(tmp_path):
    optimizer = stepped(3)
    save_optimizer_state(optimizer, tmp_path)
    values = json.loads((tmp_path / VALUES).read_text())
    values["param_groups"][0]["threshold"] = math.inf
    (tmp_path / VALUES).write_text(json.dumps(values))
    assert "Infinity" in (tmp_path / VALUES).read_text()
    assert steps_in(tmp_path) == {3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.eye(3).to_sparse(), "it is sparse"),
        (torch.empty(3, device="meta"), "on the device `meta`"),
        (torch.ones(2, dtype=torch.complex128), "no type for torch.complex128"),
    ],
)
def test_state_that_cannot_be_saved_is_named_and_leaves_the_old_files(tmp_path, entry, message):
    optimizer = stepped(4)
    save_optimizer_state(optimizer, tmp_path)
    optimizer.state[optimizer.param_groups[0]["params"][0]]["odd"] = entry
    with pytest.raises(ValueError, match=f"'weight/odd' cannot be saved.*{message}"):
        save_optimizer_state(optimizer, tmp_path)
    assert steps_in(tmp_path) == {4}
    assert len(list(tmp_path.iterdir())) == 2


def test_an_option_that_is_no_plain_value_is_refused_and_leaves_the_old_files(tmp_path):
    optimizer = stepped(4)
    save_optimizer_state(optimizer, tmp_path)
    optimizer.param_groups[0]["hook"] = print
    with pytest.raises(ValueError, match="an option cannot be saved"):
        save_optimizer_state(optimizer, tmp_path)
    assert steps_in(tmp_path) == {4}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_folders_that_cannot_be_flushed_are_no_obstacle_and_a_failing_disk_is(tmp_path, monkeypatch, number):
    fsync, answers = os.fsync, [number]

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(answers[0], os.strerror(answers[0]))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    save_optimizer_state(stepped(2), tmp_path)
    assert steps_in(tmp_path) == {2}
    answers[0] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        save_optimizer_state(stepped(3), tmp_path)
    assert steps_in(tmp_path) == {2}


def fill_sparsely(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def bind(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a socket's path must be short


IN_PLACE = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": bind,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("file", [TENSORS, VALUES])
@pytest.mark.parametrize("kind", IN_PLACE)
def test_what_is_not_a_file_is_not_waited_for(tmp_path, monkeypatch, file, kind):
    monkeypatch.chdir(tmp_path)
    save_optimizer_state(stepped(), tmp_path)
    (tmp_path / file).unlink()
    IN_PLACE[kind](tmp_path / file)
    with pytest.raises(OSError, match=file):
        steps_in(tmp_path)


@pytest.mark.parametrize("file", [TENSORS, VALUES])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"[" * 200_000, b"7", b'"text"', b"[7]", b'[{"params": 3}]'])
def test_damage_is_named(tmp_path, file, content):
    save_optimizer_state(stepped(), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StateMismatchError, match=str(tmp_path)):
        steps_in(tmp_path)


def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path):
    save_optimizer_state(stepped(), tmp_path)
    fill_sparsely(tmp_path / VALUES)
    with pytest.raises(OSError, match="must have at most"):
        steps_in(tmp_path)
