"""Strides are state: a tensor that a file holds contiguously comes back with its strides."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, load_optimizer_state, save_optimizer_state
from optimizer.state.strides import STRIDES, without_sharing
from optimizer.state.tensor_files import write_tensors
from trainer.checkpoint.background import copy_to_cpu
from trainer.checkpoint.contents import load_component
from trainer.runtime.files import DamagedCheckpointError, read_tensors


def tensors():
    torch.manual_seed(0)
    return {
        "plain": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one channel": torch.randn(2, 1, 4, 5).to(memory_format=torch.channels_last),
        "one row": torch.randn(1, 7).t(),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0, 3).t(),
        "half": torch.randn(4, 2).bfloat16().t(),
        "complex": torch.randn(2, 3, dtype=torch.complex64).t(),
    }


def is_same(one, other):
    return torch.equal(one, other) and one.stride() == other.stride() and one.dtype == other.dtype


def test_every_dense_layout_goes_through_a_file(tmp_path):
    saved = tensors()
    write_tensors(tmp_path / "t.safetensors", saved)
    read = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == saved.keys()
    for name, tensor in saved.items():
        assert is_same(read[name], tensor), name
    assert torch.equal(load_file(tmp_path / "t.safetensors")["transposed"], saved["transposed"])  # as any tool reads it


def test_contiguous_files_are_as_they_were(tmp_path):
    write_tensors(tmp_path / "ours.safetensors", {"a": torch.ones(2, 3)})
    save_file({"a": torch.ones(2, 3)}, tmp_path / "old.safetensors")
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()
    assert read_tensors(tmp_path / "old.safetensors")["a"].is_contiguous()


def test_what_is_not_dense_is_saved_contiguous(tmp_path):
    wide = torch.arange(12.0).reshape(3, 4)
    plain = without_sharing(
        {"slice": wide[:, 1:3], "expanded": torch.ones(1, 3).expand(4, 3), "same": wide, "again": wide.t()}
    )
    assert plain["slice"].is_contiguous()
    assert plain["expanded"].is_contiguous()
    assert is_same(plain["again"], wide.t())
    assert plain["again"].data_ptr() != plain["same"].data_ptr()
    negated = torch.imag(torch.conj(torch.tensor([1 + 2j, 3 - 4j])))
    write_tensors(tmp_path / "t.safetensors", {"n": negated, "slice": wide[:, 1:3], "again": wide.t()})
    read = read_tensors(tmp_path / "t.safetensors")
    assert read["n"].tolist() == [-2.0, 4.0]
    assert torch.equal(read["slice"], wide[:, 1:3])
    assert is_same(read["again"], wide.t())


@pytest.mark.parametrize(
    "strides",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"other": [1, 0]}',
        '{"a": [0]}',
        '{"a": [0, 0]}',
        '{"a": [0, 2]}',
        '{"a": [1, -1]}',
        '{"a": [1, 0, 2]}',
        '{"a": [true, false]}',
        '{"a": "10"}',
        '{"a": [1e9, 0]}',
        '{"a": {"stride": [1, 1000000]}}',
    ],
)
def test_hostile_strides_are_refused(tmp_path, strides):
    save_file({"a": torch.ones(2, 3)}, tmp_path / "bad.safetensors", {STRIDES: strides})
    with pytest.raises(DamagedCheckpointError, match=r"bad\.safetensors: cannot be read"):
        read_tensors(tmp_path / "bad.safetensors")


def test_the_copies_of_a_save_beside_training_keep_them_when_they_change():
    for value in (torch.randn(3, 3), torch.randn(3, 3).t()):
        first = copy_to_cpu({"a": torch.zeros(3, 3)}, {})
        assert is_same(copy_to_cpu({"a": value}, first)["a"], value)


def test_a_components_parameters_and_buffers_come_back_as_they_lay(tmp_path):
    def component():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 6))
        module.register_buffer("table", torch.randn(5, 2))
        return module

    trained, fresh = component(), component()
    trained.to(memory_format=torch.channels_last)
    trained[1].weight.data = trained[1].weight.data.t().contiguous().t()
    trained.table = trained.table.t().contiguous().t()
    write_tensors(tmp_path / "model.safetensors", without_sharing(trained.state_dict()))
    held = dict(fresh.named_parameters())
    load_component(tmp_path, fresh)
    for name, tensor in trained.state_dict().items():
        assert is_same(fresh.state_dict()[name], tensor), name
    assert all(parameter is held[name] for name, parameter in fresh.named_parameters())


@pytest.mark.parametrize("named", [True, False])
def test_an_optimizers_moments_come_back_as_they_lay(tmp_path, named):
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    build = OPTIMIZER_BUILDER_REGISTRY["adam"]().build
    optimizer, fresh = (build(module if named else module.parameters()) for _ in range(2))
    module(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    save_optimizer_state(optimizer, tmp_path)
    assert json.loads((tmp_path / "optimizer_param_groups.json").read_text()).get("by_position", False) is not named
    load_optimizer_state(fresh, tmp_path)
    moment = optimizer.state[module.weight]["exp_avg"]
    assert not moment.is_contiguous()
    assert is_same(fresh.state[module.weight]["exp_avg"], moment)
