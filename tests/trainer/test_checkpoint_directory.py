"""A checkpoint is complete or absent, and damage is named."""

import json

import pytest
import torch
from sample_damage import flip

from trainer.checkpoint.directory import complete_checkpoints, verify
from trainer.checkpoint.names import write_pointer
from trainer.checkpoint.shares import Share
from trainer.checkpoint.writing import clear_leftovers, remove_checkpoints, write_checkpoint
from trainer.runtime.files import DamagedCheckpointError

FILES = {"part/a.safetensors": {"a": torch.arange(64)}, "b.json": {"b": 1}}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path, 7, Share.of(FILES))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_checkpoint_is_listed_and_verified(checkpoint):
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]
    manifest = verify(checkpoint)
    assert (manifest["step"], sorted(manifest["files"])) == (7, ["b.json", "part/a.safetensors"])
    assert (checkpoint.parent / "latest").read_text().strip() == checkpoint.name


def test_one_that_failed_half_way_is_absent(checkpoint):
    with pytest.raises(TypeError):
        write_checkpoint(checkpoint.parent, 8, Share.of({"b.json": {"b": 1}, "c.json": {"c": object()}}))
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]
    write_checkpoint(checkpoint.parent, 9, Share.of(FILES))
    assert names(checkpoint.parent) == ["latest", "step_00000007", "step_00000009"], "nothing is left over"


def test_the_same_step_saved_again_replaces_the_old_one(checkpoint):
    write_checkpoint(checkpoint.parent, 7, Share.of({"c.json": {}}))
    assert sorted(verify(checkpoint)["files"]) == ["c.json"]
    assert names(checkpoint.parent) == ["latest", "step_00000007"]


def test_one_that_was_about_to_be_replaced_is_put_back(checkpoint):
    checkpoint.rename(checkpoint.with_name(f".replaced-{checkpoint.name}"))  # and then the process was killed
    clear_leftovers(checkpoint.parent)
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]


def test_the_newest_comes_first_and_what_a_resume_left_behind_last(checkpoint):
    for step in (10, 9, 100_000_000):
        write_checkpoint(checkpoint.parent, step, Share.of(FILES))
    steps = [100_000_000, 10, 9, 7]
    assert [int(path.name[5:]) for path in complete_checkpoints(checkpoint.parent)] == steps
    write_pointer(checkpoint.parent, "latest", checkpoint.with_name("step_00000009"))
    assert [int(path.name[5:]) for path in complete_checkpoints(checkpoint.parent)] == [9, 7, 100_000_000, 10]


@pytest.mark.parametrize("text", ["step_00000012\n", "../checkpoints/step_00000007", "", "\0", "x" * 5000])
def test_a_latest_that_names_nothing_is_nothing(checkpoint, text):
    (checkpoint.parent / "latest").write_text(text)
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]


def test_what_is_removed_is_gone(checkpoint):
    other = write_checkpoint(checkpoint.parent, 8, Share.of(FILES))
    remove_checkpoints([checkpoint])
    assert names(checkpoint.parent) == ["latest", other.name]


DAMAGES = {
    "a flipped bit": lambda folder: flip(folder / "part" / "a.safetensors"),
    "a file cut short": lambda folder: (folder / "part" / "a.safetensors").write_bytes(b"\0"),
    "a missing file": lambda folder: (folder / "part" / "a.safetensors").unlink(),
    "an unknown file": lambda folder: (folder / "part" / "a.safetensors").rename(folder / "part" / "a.safetensors2"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest cut short": lambda folder: (folder / "manifest.json").write_text('{"format'),
    "a manifest of nothing": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest of another version": lambda folder: (folder / "manifest.json").write_text('{"format_version": 0}'),
    "a manifest without files": lambda folder: (folder / "manifest.json").write_text('{"format_version": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(checkpoint, damage):
    DAMAGES[damage](checkpoint)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json|a\.safetensors"):
        verify(checkpoint)


def test_every_byte_of_a_manifest_is_looked_at(checkpoint):
    path = checkpoint / "manifest.json"
    before = path.read_bytes()
    for at in range(len(before)):
        flip(path, at)
        try:
            verify(checkpoint)
            named = json.loads(path.read_bytes()) == json.loads(before)  # white space
        except DamagedCheckpointError as error:
            named = "manifest.json" in str(error)
        assert named, at
        path.write_bytes(before)


def test_all_damage_is_told_at_once(checkpoint):
    flip(checkpoint / "part" / "a.safetensors")
    (checkpoint / "b.json").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"b\.json: is missing\n.*a\.safetensors: is not as it was"):
        verify(checkpoint)


def test_a_manifest_is_plain_json(checkpoint):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["files"]["b.json"]["size_bytes"] == (checkpoint / "b.json").stat().st_size
