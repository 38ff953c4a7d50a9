"""Scripts of policies of every kind: those of offline reinforcement learning, modules with a loss, and averages."""

import pytest
import sample_policies
import torch
from conftest import needs
from rich.console import Console
from safetensors.torch import load_file
from sample_demonstrations import COMPONENTS, IMAGE, policy_config
from sample_transitions import rl_config, write

from trainer import load_run, train

QUIET = Console(quiet=True)


def exported(cli, run, out):
    """Return the model of the script of a run, and the line on the comparison with the run."""
    code, printed = cli("export", run, out, "--to", "torch")
    assert code == 0, printed
    space = {"__name__": "exported", "__file__": str(out / "policy.py")}
    exec((out / "policy.py").read_text(), space)
    return space["load"](), printed


def compared(cli, run, out):
    """Check that the script of a run has its actions bit for bit, and return the names of its tensors."""
    model, printed = exported(cli, run, out)
    loaded = load_run(run)
    policy = loaded.policy
    generator = torch.Generator().manual_seed(6)
    given = {
        name: torch.randint(0, 256, (4, *shape), generator=generator, dtype=torch.uint8)
        if name == IMAGE
        else torch.randn(4, *shape, generator=generator)
        for name, (_, shape) in model.inputs.items()
    }
    with torch.no_grad():
        expected = policy.actions(loaded.components, given)
    assert "bit for bit" in printed
    assert expected.std() > 0
    assert torch.equal(model(given), expected)
    return set(load_file(out / "policy.safetensors"))


@pytest.mark.parametrize("objective", ["iql", "td3_bc"])
def test_an_actor_of_offline_reinforcement_learning_goes_without_its_critics(tmp_path, cli, objective):
    config = rl_config(tmp_path / "run", write(tmp_path / "data.npz"), objective)
    train(config, console=QUIET)
    names = compared(cli, tmp_path / "run", tmp_path / "out")
    assert {name.split(".")[0] for name in names if "/" not in name} == {"actor", "objective"}


def test_a_module_with_its_own_loss_is_exported_whole_and_in_parts(tmp_path, cli):
    for parts in ({}, {"net": ["net"]}):
        run = tmp_path / f"run_{len(parts)}"
        policy = {"type": "sample_policies.Chunks", "parts": parts} if parts else {"type": "sample_policies.Chunks"}
        raw = sample_policies.policy_config(run, policy)
        raw["plugins"].append("sample_demonstrations")
        optims = {name: {"type": "sgd", "params": {"lr": 1e-4}} for name in ("policy", *parts)}
        raw["model"]["component_optims"] = optims
        train(raw | {"data": {"type": "demonstrations", "batch_size": 8}}, console=QUIET)
        names = compared(cli, run, tmp_path / f"out_{len(parts)}")
        assert {"policy.net.weight", "policy.net.bias"} <= names


def test_the_averages_of_a_run_are_exported(tmp_path, cli):
    components = {
        **COMPONENTS,
        "head": {"type": "action_mlp", "params": {"in_features": 32, "action_dim": 2, "chunk": 3}},
    }
    config = policy_config(tmp_path / "run", components=components, ema={"decay": 0.9}, lr=1e-2)
    train(config, console=QUIET)
    compared(cli, tmp_path / "run", tmp_path / "out")
    newest = tmp_path / "run/checkpoints/step_00000012/embedder"
    name = "layers.0.weight"
    found = load_file(tmp_path / "out/policy.safetensors")[f"embedder.{name}"]
    assert torch.equal(found, load_file(newest / "ema.safetensors")[name])
    assert not torch.equal(found, load_file(newest / "model.safetensors")[name])


@needs("torchvision")
def test_a_network_of_torchvisions_is_exported(tmp_path, cli):
    backbone = {
        "type": "vision_backbone",
        "params": {
            "backbone": {"type": "torchvision.models.resnet18", "params": {"num_classes": 8}},
            "out_features": 8,
            "dim": 8,
        },
    }
    head = {"type": "action_mlp", "params": {"in_features": 32, "action_dim": 2, "chunk": 3}}
    train(policy_config(tmp_path / "run", components={**COMPONENTS, "backbone": backbone, "head": head}), console=QUIET)
    names = compared(cli, tmp_path / "run", tmp_path / "out")
    assert "backbone.backbone.layer1.0.bn1.running_var" in names
