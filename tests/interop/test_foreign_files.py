"""Files of other programs for `convert` and `init_from`: one clear line, nothing written, and no memory filled."""

import io
import json
import math

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from sample_damage import DAMAGE, NOT_FILES
from sample_runs import config
from torch import nn

from trainer import train
from trainer.checkpoint.tools import torch_files
from trainer.runtime.files import DamagedCheckpointError, read_json

QUIET = Console(file=io.StringIO())


def nested(levels):
    value = torch.zeros(1)
    for _ in range(levels):
        value = [value]
    return value


def doubled(times):
    """Return a list that holds 2 ** times numbers if it is written out, in a file of a few kilobytes."""
    value = [0.5]
    for _ in range(times):
        value = [value, value]
    return value


def holding_itself():
    values = {"bias": torch.zeros(2)}
    values["me"] = values
    return values


class Renamed(torch.Tensor):
    pass


ODD = {
    "sparse rows": (lambda: torch.eye(6).to_sparse_csr(), "weight cannot be converted: it is sparse (sparse_csr)"),
    "quantized": (
        lambda: torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.quint8),
        "has no type for torch.quint8",
    ),
    "without values": (lambda: torch.empty(7, 7, device="meta"), "is on the device `meta`"),
    "of several lengths": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(5)], layout=torch.jagged),
        "weight cannot be converted: it is a NestedTensor",
    ),
    "complex of 128 bits": (lambda: torch.ones(3, dtype=torch.complex128), "has no type for torch.complex128"),
    "repeated in one dimension": (lambda: torch.ones(9, 1).expand(9, 1 << 36), "needs more memory than the file"),
    "of strides 0": (lambda: torch.zeros(()).expand(3000, 4000, 5000), "needs more memory than the file"),
    "of windows that overlap": (lambda: torch.zeros(70_000).unfold(0, 60_000, 1), "needs more memory than the file"),
}


def refused(cli, folder, file, message):
    out = folder / "out"
    code, printed = cli("checkpoint", "convert", folder, out, "--to", "innerstep")
    assert (code, printed.startswith(f"error: {folder / file}"), message in printed) == (2, True, True), printed
    assert printed.count("\n") == 1
    assert len(printed) < 1000
    assert not [path for path in folder.iterdir() if path.is_dir()]


@pytest.mark.filterwarnings("ignore")  # torch's, where the tensors are made
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_no_file_of_ours_holds_are_named(cli, tmp_path, kind):
    make, message = ODD[kind]
    torch.save({"bias": torch.ones(2), "weight": make()}, tmp_path / "policy.pt")
    refused(cli, tmp_path, "policy.pt", message)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_so_are_those_of_an_optimizer(cli, tmp_path, kind):
    make, _ = ODD[kind]
    torch.save({"weight": torch.ones(2)}, tmp_path / "policy.pt")
    optimizer = {"state": {0: {"momentum_buffer": make()}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    torch.save(optimizer, tmp_path / "policy_opt.pt")
    refused(cli, tmp_path, "policy_opt.pt", ": state.0.momentum_buffer ")


def test_many_names_of_one_large_tensor_are_refused_and_a_few_are_taken(cli, tmp_path):
    shared = torch.arange(50_000.0)
    torch.save({f"layer{index}": shared for index in range(40)}, tmp_path / "policy.pt")
    refused(cli, tmp_path, "policy.pt", "one tensor has too many names")
    torch.save({f"layer{index}": shared for index in range(8)}, tmp_path / "policy.pt")
    code, printed = cli("checkpoint", "convert", tmp_path, tmp_path / "out", "--to", "innerstep")
    assert (code, "8 tensors" in printed) == (0, True), printed


WHOLE = {
    "half precision": torch.ones(3, dtype=torch.bfloat16),
    "truth values": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]),
    "conjugated": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "no element": torch.zeros(0, 1 << 40),
    "one element": torch.tensor(3),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "every second": torch.arange(8.0)[::2],
    "a parameter": nn.Parameter(torch.ones(2)),
    "repeated a little": torch.ones(1).expand(4),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_else_is_dense_is_taken(cli, tmp_path, legacy):
    torch.save(WHOLE, tmp_path / "policy.pt", _use_new_zipfile_serialization=not legacy)
    code, printed = cli("checkpoint", "convert", tmp_path, tmp_path / "out", "--to", "innerstep")
    assert (code, f"{len(WHOLE)} tensors" in printed) == (0, True), printed
    found = load_file(tmp_path / "out/policy/model.safetensors")
    for name, tensor in WHOLE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


CONTAINERS = {
    "names that are not text": {3: torch.zeros(2)},
    "a reserved name": {"__metadata__": torch.zeros(2)},
    "values beside tensors": {"weight": torch.zeros(2), "epoch": 7},
    "deep nesting": {"weight": nested(90)},
    "itself": holding_itself(),
    "containers that are in many": {"weight": doubled(60)},
    "a list": [torch.zeros(2)],
    "a bare tensor": torch.zeros(2),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_is_not_a_state_dict_is_refused(cli, tmp_path, kind):
    torch.save(CONTAINERS[kind], tmp_path / "policy.pt")
    refused(cli, tmp_path, "policy.pt", "policy.pt: ")


@pytest.mark.parametrize(
    "optimizer",
    [
        {"state": {}},
        {"param_groups": [], "epoch": 3},
        {"state": 3, "param_groups": 4},
        {"state": {}, "param_groups": [7]},
        {"state": {}, "param_groups": [{"params": [0], "milestones": doubled(45)}]},
        {"state": {}, "param_groups": [{"params": [0]}], "scheduler": {"last_epoch": doubled(3)}},
    ],
)
def test_what_is_not_an_optimizers_state_dict_is_refused(cli, tmp_path, optimizer):
    torch.save({"weight": torch.ones(2)}, tmp_path / "policy.pt")
    torch.save(optimizer, tmp_path / "policy_opt.pt")
    refused(cli, tmp_path, "policy_opt.pt", "policy_opt.pt: ")


SPOILT = [(file, kind) for file in ("policy.pt", "policy_opt.pt") for kind in (*DAMAGE, *NOT_FILES)]
SPOILT.remove(("policy_opt.pt", "a record that is too short"))  # it has no tensors


@pytest.mark.parametrize(("file", "kind"), SPOILT)
def test_what_torch_did_not_save_is_refused_at_once(cli, tmp_path, monkeypatch, file, kind):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(200)}, tmp_path / "policy.pt")
    torch.save(torch.optim.SGD([nn.Parameter(torch.ones(200))]).state_dict(), tmp_path / "policy_opt.pt")
    spoil, message = {**DAMAGE, **NOT_FILES}[kind]
    if kind in NOT_FILES:
        (tmp_path / file).unlink()
    spoil(tmp_path / file)
    code, printed = cli("checkpoint", "convert", tmp_path, tmp_path / "out", "--to", "innerstep")
    assert (code, f"error: {tmp_path / file}: " in printed, message in printed) == (2, True, True), printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ["", ".safetensors"])
@pytest.mark.parametrize("kind", [*NOT_FILES, "a terabyte of nothing"])
def test_nor_does_a_run_start_from_it(cli, tmp_path, monkeypatch, kind, ending):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / f"w{ending}"
    {**DAMAGE, **NOT_FILES}[kind][0](source)
    raw = config(tmp_path / "run", {"first": {"type": "normed", "init_from": str(source)}}, {"first": {"type": "sgd"}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    code, printed = cli("plan", tmp_path / "config.yaml")
    assert (code in (1, 2), str(source) in printed, "Traceback" in printed) == (True, True, False), printed
    assert printed.count("\n") == 1
    if kind in ("a pipe", "a device", "a socket"):
        assert NOT_FILES[kind][1] in printed


@pytest.mark.parametrize("name", ["optimizer_state.safetensors", "optimizer_param_groups.json", "scheduler_state.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link to nothing"])
def test_lerobots_files_are_files_too(cli, tmp_path, name, kind):
    folder = tmp_path / "training_state"
    folder.mkdir()
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    save_file({"state/0/momentum_buffer": torch.ones(2)}, folder / "optimizer_state.safetensors")
    (folder / "optimizer_param_groups.json").write_text(json.dumps([{"params": [0], "lr": 0.1}]))
    (folder / "scheduler_state.json").write_text('{"last_epoch": 3}')
    (folder / name).unlink()
    NOT_FILES[kind][0](folder / name)
    code, printed = cli("checkpoint", "convert", folder, tmp_path / "out", "--to", "innerstep", "--component", "a")
    assert (code, f"error: {folder / name}: " in printed, NOT_FILES[kind][1] in printed) == (2, True, True), printed


@pytest.mark.parametrize("kind", [torch.int16, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_than_the_configs_are_refused(cli, tmp_path, kind):
    raw = config(tmp_path / "run", {"policy": {"type": "normed"}}, {"policy": {"type": "sgd"}}, total_steps=1)
    train(raw, console=QUIET)
    weights = load_file(tmp_path / "run/checkpoints/step_00000001/policy/model.safetensors")
    torch.save({**weights, "norm.weight": weights["norm.weight"].to(kind)}, tmp_path / "policy.pt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    arguments = ("checkpoint", "convert", tmp_path, tmp_path / "out", "--to", "innerstep", "--config")
    code, printed = cli(*arguments, tmp_path / "config.yaml")
    message = f"policy.pt: the weights do not fit: of another kind of number: norm.weight (saved {kind}, here torch.f"
    assert (code, message in printed, (tmp_path / "out").exists()) == (2, True, False), printed


def test_lerobots_json_is_json_or_there_is_none(cli, tmp_path):
    raw = config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": {"type": "sgd"}}, total_steps=2)
    train(raw, console=QUIET)
    folder = tmp_path / "run/checkpoints/step_00000002"
    values = read_json(folder / "first/optimizer.json")
    values["param_groups"][0]["limit"] = math.inf
    component = tmp_path / "first"
    component.mkdir()
    for file in (folder / "first").iterdir():
        (component / file.name).write_bytes(file.read_bytes())
    (component / "optimizer.json").write_text(json.dumps(values))
    code, printed = cli("checkpoint", "convert", component, tmp_path / "out", "--to", "lerobot")
    assert (code, "LeRobot's JSON cannot hold an option" in printed) == (2, True), printed
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_ends_a_conversion_with_a_message(cli, tmp_path, monkeypatch):
    raw = config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": {"type": "sgd"}}, total_steps=2)
    train(raw, console=QUIET)

    def full(value, file):
        file.write(b"some")
        raise RuntimeError("[enforce fail at inline_container.cc:1] . PytorchStreamWriter failed\nframe #0: …")

    monkeypatch.setattr(torch_files.torch, "save", full)
    code, printed = cli("checkpoint", "convert", tmp_path / "run", tmp_path / "out", "--to", "torch")
    assert (code, "first.pt: cannot be written: [enforce fail" in printed, printed.count("\n")) == (2, True, 1), printed
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_bounds_count_what_is_written_out(tmp_path):
    torch.save({"weight": doubled(15)}, tmp_path / "few.pt")
    assert torch_files.read_torch_file(tmp_path / "few.pt").keys() == {"weight"}
    torch.save({"weight": doubled(20)}, tmp_path / "many.pt")
    with pytest.raises(DamagedCheckpointError, match="holds more than 1,000,000 values"):
        torch_files.read_torch_file(tmp_path / "many.pt")
