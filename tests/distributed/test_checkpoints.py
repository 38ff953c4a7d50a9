"""Checkpoints of several processes: the files of one, resumed by any number of processes."""

import json
import shutil
import threading
import weakref

import pytest
import torch
import yaml
from conftest import ROOT, files_of
from safetensors.torch import load_file
from sample_damage import flip
from sample_saved_parts import saved_again, saving_config, trained
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from worlds import own_world, trainer_of

from trainer.checkpoint.directory import verify
from trainer.checkpoint.selection import newest_verified
from trainer.checkpoint.shares import Share

MIDDLE, LAST = "checkpoints/step_00000006", "checkpoints/step_00000012"


@pytest.fixture(scope="module")
def run(two_workers, tmp_path_factory):
    """A run of two processes, and what its objectives have noted, by rank."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    return folder, two_workers.call(trained, saving_config(folder))


def content_of(checkpoint):
    """Return the checksums of a checkpoint's files, and its plain values but for those that name the machine."""
    files = files_of(checkpoint)
    values = json.loads((checkpoint / "trainer.json").read_text())
    return {name: files[name] for name in files if name not in ("manifest.json", "trainer.json")}, {
        name: value for name, value in values.items() if name != "provenance"
    }


def noted(reports, from_step=0):
    """Return the samples of each update over all processes, and the learning rates, which are equal in all."""
    updates = {}
    for step, samples, lrs in (update for report in reports for update in report if update[0] >= from_step):
        seen, rates = updates.setdefault(step, ([], lrs))
        seen.extend(samples)
        assert rates == lrs
    return {step: (sorted(samples), lrs) for step, (samples, lrs) in updates.items()}


def test_a_checkpoint_of_two_processes_has_the_files_of_one(run, two_workers, tmp_path):
    saved = run[0] / MIDDLE
    verify(saved)
    of_one = saved_again(saving_config(tmp_path / "one"), saved)
    assert content_of(tmp_path / "one" / MIDDLE) == content_of(saved)
    of_two = two_workers.call(saved_again, saving_config(tmp_path / "two"), tmp_path / "one" / MIDDLE)
    assert files_of(tmp_path / "two" / MIDDLE).keys() == files_of(saved).keys()
    assert content_of(tmp_path / "two" / MIDDLE) == content_of(saved)
    assert of_two == [of_one, of_one]
    assert of_one["sharded"][0] == 6


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_passes_through_four(run, two_workers, four_workers, tmp_path):
    saved = run[0] / MIDDLE
    positions = four_workers.call(saved_again, saving_config(tmp_path / "four"), saved)
    assert content_of(tmp_path / "four" / MIDDLE) == content_of(saved)
    positions += two_workers.call(saved_again, saving_config(tmp_path / "two"), tmp_path / "four" / MIDDLE)
    assert content_of(tmp_path / "two" / MIDDLE) == content_of(saved)
    assert positions == 6 * positions[:1]


def test_a_resume_by_one_process_sees_the_samples_and_rates_of_the_uninterrupted_run(run, tmp_path):
    alone = trained(saving_config(tmp_path / "one"), run[0] / MIDDLE)
    assert noted([alone]) == noted(run[1], from_step=6)


def test_a_resume_by_two_processes_sees_the_samples_and_rates_of_one(two_workers, tmp_path):
    alone = trained(saving_config(tmp_path / "one"))
    reports = two_workers.call(trained, saving_config(tmp_path / "two"), tmp_path / "one" / MIDDLE)
    assert noted(reports) == noted([alone], from_step=6)


@pytest.mark.slow
def test_a_resume_by_four_processes_sees_the_samples_and_rates_of_two(run, four_workers, tmp_path):
    reports = four_workers.call(trained, saving_config(tmp_path / "four"), run[0] / MIDDLE)
    assert noted(reports) == noted(run[1], from_step=6)


def test_a_resume_by_as_many_processes_is_bit_equal(run, two_workers, tmp_path):
    reports = two_workers.call(trained, saving_config(tmp_path / "again"), run[0] / MIDDLE)
    assert noted(reports) == noted(run[1], from_step=6)
    assert files_of(tmp_path / "again" / LAST) == files_of(run[0] / LAST)


def watched_training(made):
    """Train while collectives are recorded: return the group and the thread of each."""
    calls = []

    def watched(name):
        original = getattr(distributed, name)

        def call(*arguments, **options):
            calls.append((options.get("group"), threading.current_thread() is threading.main_thread()))
            return original(*arguments, **options)

        return original, call

    names = ("all_reduce", "all_gather", "broadcast", "batch_isend_irecv", "barrier")
    pairs = {name: watched(name) for name in names}
    try:
        for name, (_, call) in pairs.items():
            setattr(distributed, name, call)
        trained(made)
    finally:
        for name, (original, _) in pairs.items():
            setattr(distributed, name, original)
    saves = own_world().saves
    return {"thread": {group is saves for group, is_main in calls if not is_main}, "calls": len(calls)}


def test_an_asynchronous_run_writes_the_same_and_its_thread_keeps_to_its_group(run, two_workers, tmp_path):
    reports = two_workers.call(watched_training, saving_config(tmp_path / "async", save_async=True))
    assert [report["thread"] for report in reports] == [{True}, {True}]
    for step in (3, 6, 9, 12):
        name = f"checkpoints/step_{step:08d}"
        assert files_of(tmp_path / "async" / name) == files_of(run[0] / name)


def best_of(made):
    """Train a run that keeps its best checkpoint; return the record of it."""
    trainer = trainer_of(made)
    trainer.run()
    return trainer.checkpoints.best.record, trainer.checkpoints.holds(12), trainer.checkpoints.holds(9)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_processes_know_the_best_checkpoint(two_workers, tmp_path, asynchronous):
    options = {"eval_every": 2, "keep_best": {}, "keep_last": 1, "save_async": asynchronous}
    first, second = two_workers.call(best_of, saving_config(tmp_path / "run", **options))
    assert first == second
    record, *held = first
    assert held == [True, False]
    assert (tmp_path / "run/checkpoints/best").read_text() == f"step_{record['step']:08d}\n"


def parts_of_five_components():
    """Return the files in each part of this process's share, and whether the tensors of the part before were there."""
    mesh = init_device_mesh("cpu", (2,))
    layers = {f"layer{index}": fully_shard(nn.Linear(6, 5), mesh=mesh) for index in (0, 1, 2, 4)}
    layers = {**layers, "layer3": nn.Linear(6, 5)}
    files = {f"{name}/model.safetensors": layers[name].state_dict() for name in sorted(layers)}
    names, kept, before = [], [], []
    for part in Share.of({**files, "trainer.json": {"step": 3}}, own_world()).parts:
        names.append(sorted(part))
        kept.append(any(tensor() is not None for tensor in before))
        before = [weakref.ref(tensor) for content in part.values() for tensor in content.values() if names[1:]]
        del part
    return names, kept


def test_a_process_holds_its_own_components_and_one_sharded_component_at_a_time(two_workers):
    (first, kept), (second, kept_too) = two_workers.call(parts_of_five_components)
    assert first == [
        ["trainer.json"],
        ["layer0/model.safetensors"],
        ["layer2/model.safetensors"],
        ["layer4/model.safetensors"],
    ]
    assert second == [["layer3/model.safetensors"], ["layer1/model.safetensors"], []]
    assert not any(kept + kept_too)


def test_the_commands_on_checkpoints_take_those_of_several_processes(run, tmp_path, cli):
    saved_again(saving_config(tmp_path / "one"), run[0] / MIDDLE)
    assert cli("checkpoint", "verify", run[0])[0] == 0
    assert "averaging" in cli("checkpoint", "inspect", run[0])[1]
    assert cli("checkpoint", "diff", run[0] / MIDDLE, tmp_path / "one" / MIDDLE)[0] == 0
    assert cli("checkpoint", "export", run[0] / MIDDLE, "--out", tmp_path / "weights.safetensors")[0] == 0
    assert cli("checkpoint", "convert", run[0] / MIDDLE, tmp_path / "torch", "--to", "torch")[0] == 0


def point_of(run_dir):
    """Return the checkpoint that a resume takes, the damaged ones, and the lines that a process logs."""
    lines = []
    point = newest_verified(run_dir, lines.append, own_world())
    return point.folder and point.folder.name, [folder.name for folder in point.damaged], lines


def test_a_damage_that_one_process_finds_is_known_to_all(run, two_workers, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    newest = copy / LAST
    names = sorted(json.loads((newest / "manifest.json").read_text())["files"])
    for name in names[2:4]:  # one file for each process
        flip(newest / name, -1)
    first, second = two_workers.call(point_of, copy)
    assert first == second
    folder, damaged, lines = first
    assert (folder, damaged) == ("step_00000009", ["step_00000012"])
    assert all(name in "\n".join(lines) for name in names[2:4])
    assert lines == point_of(copy)[2]


def test_a_damaged_manifest_is_reported_once(run, two_workers, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / LAST / "manifest.json").write_text("{}")
    (folder, _, lines), _ = two_workers.call(point_of, tmp_path / "run")
    assert folder == "step_00000009"
    assert len(lines) == 1
    assert lines[0].count("manifest.json") == 1


@pytest.mark.parametrize("version", ["v1", "0_1_0"])
def test_two_processes_restore_the_checkpoint_of_an_earlier_version_and_shard_it(two_workers, tmp_path, version):
    old = ROOT / "tests/golden" / f"checkpoint_{version}"
    made = yaml.safe_load((old / "config.yaml").read_text())
    made["train"]["run_dir"] = str(tmp_path / "run")
    made["model"]["components"]["falling"]["placement"] = "shard"
    made["resume"] = {"on_change": "override"}  # v1 has no state of its objective
    saved = old / "checkpoints/step_00000007"
    positions = two_workers.call(saved_again, made, saved)
    assert [at for at, _ in positions[1].values()] == [7, 7, 7]
    for component in ("warm", "falling", "frozen"):
        for path in (saved / component).glob("*.safetensors"):
            again = load_file(tmp_path / "run/checkpoints/step_00000007" / component / path.name)
            before = load_file(path)
            assert again.keys() == before.keys()
            assert all(torch.equal(again[name], before[name]) for name in before)
