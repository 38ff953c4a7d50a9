"""Checkpoints that hold a NaN: reported where they are used, and never kept in place of a finite one."""

import io
import json
import math
import shutil

import faults
import mutations
import pytest
import torch
from rich.console import Console

from trainer import train
from trainer.checkpoint.directory import complete_checkpoints
from trainer.checkpoint.health import nonfinite_names
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.names import step_of
from trainer.config.load import load_config
from trainer.run_layout import MANIFEST
from trainer.runtime.files import read_tensors

NAN, INF = math.nan, math.inf


def files(weight=1.0, buffer=1.0, moment=1.0, dtype=torch.float32):
    """Return a checkpoint's files of one component with a trained weight and a buffer."""
    return {
        "part/model.safetensors": {
            "linear.weight": torch.tensor([1.0, weight]).to(dtype),
            "mask": torch.tensor([[0.0, buffer]]),
            "count": torch.tensor(3),
            "empty": torch.ones(0),
        },
        "part/optimizer.safetensors": {
            "linear.weight/exp_avg": torch.tensor([moment]),
            "linear.weight/step": torch.ones(()),
        },
        "part/optimizer.json": {"shapes": {"linear.weight": [2]}},
        "rng.safetensors": {"torch": torch.ones(4, dtype=torch.uint8)},
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"weight": NAN}, ["part.linear.weight"]),
        ({"weight": -INF}, ["part.linear.weight"]),
        ({"buffer": -INF}, []),  # a causal mask
        ({"buffer": NAN}, ["part.mask"]),
        ({"moment": NAN, "weight": INF}, ["part.linear.weight", "part.linear.weight/exp_avg"]),
        ({"moment": INF}, []),
    ],
)
def test_what_is_not_finite_is_named(values, expected):
    assert nonfinite_names(files(**values)) == expected


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_type_is_looked_at(dtype):
    assert nonfinite_names(files(dtype=dtype)) == []
    assert nonfinite_names(files(weight=NAN, dtype=dtype)) == ["part.linear.weight"]


def saved(run, finite, **rules):
    """Save after each update, finite or not as `finite` says; return the steps of the checkpoints that are left."""
    often = {"total_steps": 20, "eval_every": 1, "keep_best": None}
    saving = CheckpointManager(load_config(faults.config(run, **often, **rules)).train, pytest.fail)
    run.mkdir(exist_ok=True)
    for step, is_finite in enumerate(finite, 1):
        saving.save(step, files() if is_finite else files(weight=NAN))
        saving.wait()
    return sorted(map(step_of, complete_checkpoints(run / "checkpoints")))


@pytest.mark.parametrize("save_async", [False, True])
@pytest.mark.parametrize(
    ("finite", "keep_last", "expected"),
    [
        ([1, 1, 1, 1], 2, [3, 4]),
        ([1, 1, 0, 0, 0], 2, [2, 4, 5]),
        ([1, 1, 0, 0, 1], 2, [4, 5]),
        ([1, 0, 0, 1, 0], 1, [4, 5]),
        ([0, 0, 0], 1, [3]),
    ],
)
def test_the_newest_finite_one_is_not_removed_for_one_that_is_not(tmp_path, finite, keep_last, expected, save_async):
    assert saved(tmp_path / "run", finite, keep_last=keep_last, save_async=save_async) == expected


def test_nothing_is_removed_where_a_pointer_cannot_be_read(tmp_path, monkeypatch):
    from trainer.checkpoint import retention
    from trainer.errors import UnreadableError

    said = []

    def unreadable(folder, name):
        raise UnreadableError(f"{folder / name}: cannot be read: Stale file handle")

    often = {"total_steps": 9, "eval_every": 1, "keep_best": {}, "keep_last": 1}
    run = tmp_path / "run"
    run.mkdir()
    saves = CheckpointManager(load_config(faults.config(run, **often)).train, said.append)
    with monkeypatch.context() as patched:
        patched.setattr(retention, "read_pointer", unreadable)
        for step in (1, 2, 3):
            saves.save(step, files())
    assert len(said) == 1, "it is said once"
    assert "cannot be removed: " in said[0]
    assert len(complete_checkpoints(run / "checkpoints")) == 3
    saves.save(4, files())
    assert [path.name for path in complete_checkpoints(run / "checkpoints")] == ["step_00000004"], "and tried again"


@pytest.mark.parametrize("lost", ["removed", "another's"])
def test_the_best_is_kept_by_what_the_run_knows(tmp_path, lost):
    run = tmp_path / "run"
    run.mkdir()
    often = {"total_steps": 9, "eval_every": 1, "keep_best": {}, "keep_last": 1}
    saves = CheckpointManager(load_config(faults.config(run, **often)).train, pytest.fail)
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.6), (4, 0.7)):
        if step == 3 and lost == "removed":
            (run / "checkpoints/best").unlink()
        elif step == 3:
            (run / "checkpoints/best").write_text("step_00000099\n")
        saves.best.observe(step, {"loss": loss})
        saves.save(step, files())
    assert sorted(map(step_of, complete_checkpoints(run / "checkpoints"))) == [2, 4]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("healthy") / "run"
    train(faults.config(run, total_steps=4, eval_every=1, keep_last=None), console=Console(file=io.StringIO()))
    return run


def poison(folder, noted):
    """Put a NaN into a checkpoint's weights. noted: whether its manifest says so, or is of an earlier version."""
    from safetensors.torch import save_file

    path = folder / "second/model.safetensors"
    tensors = read_tensors(path)
    tensors["linear.bias"][0] = NAN
    save_file(tensors, path)
    mutations.seal(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest = manifest | {"finite": False} if noted else {key: manifest[key] for key in manifest if key != "finite"}
    mutations.seal_manifest(folder, manifest)


@pytest.mark.parametrize("noted", [True, False])
def test_weights_that_are_not_finite_are_reported_where_they_are_used(whole, tmp_path, cli, noted):
    run = shutil.copytree(whole, tmp_path / "run")
    last, before = (run / f"checkpoints/step_0000000{step}" for step in (4, 2))
    for step in (3, 4):
        poison(run / f"checkpoints/step_0000000{step}", noted)
    code, printed = cli("checkpoint", "verify", run)
    assert code == 0
    assert [line.endswith("; not finite: second.linear.bias") for line in printed.splitlines()] == [0, 0, 1, 1]
    code, printed = cli("resume", run)
    assert code == 0
    newest = f"The newest finite checkpoint: after 2 updates. `innerstep resume {before}` takes it."
    assert f"{last}: not finite: second.linear.bias. {newest}" in printed.splitlines()
    raw = faults.config(tmp_path / "new")
    raw["model"]["components"] = {**faults.COMPONENTS, "second": {"type": "normed", "init_from": str(run)}}
    (tmp_path / "c.json").write_text(json.dumps(raw))
    assert "  not finite: linear.bias\n" in cli("plan", tmp_path / "c.json")[1]


def test_a_checkpoint_of_before_that_is_finite_is_not_reported(whole, tmp_path, cli):
    run = shutil.copytree(whole, tmp_path / "run")
    folder = run / "checkpoints/step_00000004"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest.pop("finite") is True
    mutations.seal_manifest(folder, manifest)
    assert "not finite" not in cli("resume", run)[1] + cli("checkpoint", "verify", run)[1]
