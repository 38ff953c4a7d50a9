"""A checkpoint is complete or absent, and damage is named."""

import json

import pytest

from trainer.checkpoint_files import (
    DamagedCheckpointError,
    complete_checkpoints,
    new_checkpoint,
    verify,
    write_atomically,
)


@pytest.fixture
def checkpoint(tmp_path):
    with new_checkpoint(tmp_path, 7) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a.bin").write_bytes(bytes(range(256)))
        (folder / "b.json").write_text("{}")
    return tmp_path / "step_00000007"


def test_a_finished_checkpoint_is_listed_and_verified(checkpoint):
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]
    manifest = verify(checkpoint)
    assert (manifest["step"], sorted(manifest["files"])) == (7, ["b.json", "part/a.bin"])
    assert (checkpoint.parent / "latest").read_text().strip() == checkpoint.name


def test_one_that_failed_half_way_is_absent(checkpoint):
    class StoppedError(Exception):
        pass

    def stopped_half_way():
        with new_checkpoint(checkpoint.parent, 8) as folder:
            (folder / "a.bin").write_bytes(b"half")
            raise StoppedError

    with pytest.raises(StoppedError):
        stopped_half_way()
    assert complete_checkpoints(checkpoint.parent) == [checkpoint]
    with new_checkpoint(checkpoint.parent, 9):
        pass
    names = sorted(path.name for path in checkpoint.parent.iterdir())
    assert names == ["latest", "step_00000007", "step_00000009"], "the leftover is cleared away"


def test_the_same_step_saved_again_replaces_the_old_one(checkpoint):
    with new_checkpoint(checkpoint.parent, 7) as folder:
        (folder / "c.bin").write_bytes(b"new")
    assert sorted(verify(checkpoint)["files"]) == ["c.bin"]
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["latest", "step_00000007"]


def test_the_newest_comes_first(checkpoint):
    with new_checkpoint(checkpoint.parent, 10):
        pass
    assert [path.name for path in complete_checkpoints(checkpoint.parent)] == ["step_00000010", "step_00000007"]
    write_atomically(checkpoint.parent / "latest", "step_00000007\n")
    assert complete_checkpoints(checkpoint.parent)[0] == checkpoint


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": lambda folder: flip(folder / "part" / "a.bin"),
    "a file cut short": lambda folder: (folder / "part" / "a.bin").write_bytes(b"\0"),
    "a missing file": lambda folder: (folder / "part" / "a.bin").unlink(),
    "an unknown file": lambda folder: (folder / "part" / "a.bin").rename(folder / "part" / "a.bin2"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest cut short": lambda folder: (folder / "manifest.json").write_text('{"format'),
    "a manifest of nothing": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest of another version": lambda folder: (folder / "manifest.json").write_text('{"format_version": 99}'),
    "a manifest without files": lambda folder: (folder / "manifest.json").write_text('{"format_version": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(checkpoint, damage):
    DAMAGES[damage](checkpoint)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json|a\.bin|version"):
        verify(checkpoint)


def test_a_manifest_is_plain_json(checkpoint):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["files"]["part/a.bin"]["size_bytes"] == 256
