"""Safetensors files are those of the library, digested as they are written, and on the disk when the call returns."""

import errno
import hashlib
import io
import os
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from optimizer import OPTIMIZER_BUILDER_REGISTRY, load_optimizer_state, save_optimizer_state
from optimizer.state import tensor_files, write_tensors

PIECE = 1 << 20


def is_known(dtype):
    """Return whether the library has a name for a type."""
    with warnings.catch_warnings(), suppress(KeyError):
        warnings.simplefilter("ignore")  # torch warns of some types
        return bool(save({"a": torch.empty(2, dtype=dtype)}))
    return False


DTYPES = {value for value in vars(torch).values() if isinstance(value, torch.dtype) and is_known(value)}


def test_the_library_takes_many_types():
    assert len(DTYPES) > 12


def tensors():
    """Every type that the library takes; sizes around those of a piece; names that JSON must escape."""
    torch.manual_seed(0)
    bits = torch.randint(0, 256, (3, 16), dtype=torch.uint8)
    return {
        **{f"type {dtype}": (bits % 2 if dtype == torch.bool else bits.clone()).view(dtype) for dtype in DTYPES},
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "byte": torch.ones(1, dtype=torch.uint8),
        "one piece": torch.randn(PIECE // 4),
        "several": torch.randn(3, PIECE // 4 + 7),
        "half": torch.randn(PIECE // 3).half(),
        'é"\n\x01\x7f/\u2028\U0001f600\\\b\f\t': torch.arange(5),
    }


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"é\n": '{"a": [1]}'}])
def test_a_file_is_the_librarys_byte_for_byte(tmp_path, metadata):
    save_file(tensors(), tmp_path / "library", metadata)
    size = write_tensors(tmp_path / "ours", tensors(), metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
    assert size == (tmp_path / "ours").stat().st_size


@pytest.mark.parametrize("metadata", [None, {"a": "b"}])
def test_a_file_without_tensors_is_the_librarys(tmp_path, metadata):
    save_file({}, tmp_path / "library", metadata)
    write_tensors(tmp_path / "ours", {}, metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_the_digest_is_that_of_the_file(tmp_path):
    digest = hashlib.sha256()
    write_tensors(tmp_path / "file", tensors(), None, digest.update)
    assert digest.hexdigest() == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()


def test_the_digest_is_that_of_the_file_if_tensors_change_meanwhile(tmp_path):
    values, digest = torch.zeros(3 * PIECE, dtype=torch.uint8), hashlib.sha256()

    def changing(piece):
        digest.update(piece)
        values.add_(1)

    write_tensors(tmp_path / "file", {"a": values}, None, changing)
    assert digest.hexdigest() == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert len(load_file(tmp_path / "file")["a"].unique()) > 1


def test_a_file_is_complete_when_it_is_flushed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor)))
    size = write_tensors(tmp_path / "file", tensors())
    assert [(each.st_ino, each.st_size) for each in seen] == [((tmp_path / "file").stat().st_ino, size)]


def test_the_disk_starts_before_the_file_is_complete(tmp_path, monkeypatch):
    starts = []

    def call(descriptor, start, count, flag):
        starts.append((start, os.fstat(descriptor).st_size))

    monkeypatch.setattr(tensor_files, "_system_call", lambda: call)
    size = write_tensors(tmp_path / "file", {"a": torch.zeros(20 * PIECE, dtype=torch.uint8)})
    assert starts == [(0, 8 * PIECE), (8 * PIECE, 16 * PIECE)]
    assert size > 16 * PIECE


def test_a_system_without_that_call_writes_the_same(tmp_path, monkeypatch):
    content = {"a": torch.randn(5 * PIECE)}
    write_tensors(tmp_path / "with", content)
    monkeypatch.setattr(tensor_files, "_system_call", lambda: None)
    write_tensors(tmp_path / "without", content)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


class Reluctant(io.FileIO):
    """A file that takes some bytes at a time, as systems may."""

    def write(self, data):
        return super().write(memoryview(data)[:300_000])


def test_a_system_that_writes_less_than_it_is_given_is_given_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Reluctant(path, "x"))
    write_tensors(tmp_path / "file", tensors())
    monkeypatch.undo()
    save_file(tensors(), tmp_path / "library")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "library").read_bytes()


class Full(io.FileIO):
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Full(path, "x"))
    with pytest.raises(OSError, match=r"No space left on device: .*file") as refusal:
        write_tensors(tmp_path / "file", tensors())
    assert refusal.value.errno == errno.ENOSPC


def test_saved_optimizer_state_is_refused_after_a_byte_has_changed(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.1).build([("a", parameter)])
    parameter.grad = torch.ones(4)
    optimizer.step()
    save_optimizer_state(optimizer, tmp_path)
    load_optimizer_state(optimizer, tmp_path)
    path = tmp_path / "optimizer_state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not belong together, or are damaged"):
        load_optimizer_state(optimizer, tmp_path)
