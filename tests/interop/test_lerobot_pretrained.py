"""LeRobot's policies that begin with pretrained weights, presets that group by name, and saved folders of old."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import needs
from rich.console import Console
from safetensors.torch import save_file
from sample_lerobot_policies import PARAMS, config
from torch import nn

from trainer import ConfigError, load_run, resume, train
from trainer.config.load import load_config
from trainer.lerobot_policies import family
from trainer.lerobot_policies.family import OnDemand
from trainer.lerobot_policies.presets import preset_of
from trainer.lerobot_policies.pretrained import policy_of_folder
from trainer.lerobot_policies.saving import save_pretrained
from trainer.offline_trainer import OfflineTrainer
from trainer.setup.preset_groups import with_group_rules
from trainer.splitting.parts import split

WEIGHTS = "ResNet18_Weights.IMAGENET1K_V1"
PRESET = {"policy": {"type": "preset"}}
QUIET = Console(file=io.StringIO())
OWN_GROUPS = {"act": {}, "diffusion": {"use_group_norm": False}}


@pytest.fixture
def downloads(monkeypatch):
    """Return the list of the downloads of torchvision's weights, which come from nowhere."""
    from torchvision.models import _api, resnet18

    asked = []

    def download(url, *args, **options):
        asked.append(url)
        return resnet18().state_dict()

    monkeypatch.setattr(_api, "load_state_dict_from_url", download)
    return asked


@needs("lerobot")
@pytest.mark.slow
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_pretrained_weights_are_downloaded_only_where_no_others_follow(tmp_path, downloads, key):
    params = {"pretrained_backbone_weights": WEIGHTS, **OWN_GROUPS[key]}
    train(config(key, tmp_path / "run", PRESET, params=params, total_steps=2, save_every=1), console=QUIET)
    assert len(downloads) == 1
    loaded = load_run(tmp_path / "run")
    resume(tmp_path / "run/checkpoints/step_00000001", console=QUIET)
    save_pretrained(tmp_path / "out", loaded.components, loaded.objective)
    assert json.loads((tmp_path / "out/config.json").read_text())["pretrained_backbone_weights"] == WEIGHTS
    for source in (tmp_path / "run", tmp_path / "out"):
        raw = config(key, tmp_path / "again", PRESET)
        raw["model"]["policy"] = {"path": str(source)}
        started = OfflineTrainer(load_config(raw), QUIET)
        assert started.components["policy"].config.pretrained_backbone_weights == WEIGHTS
        assert started.config.model.policy.params["pretrained_backbone_weights"] == WEIGHTS
    assert len(downloads) == 1
    assert loaded.policy.n_obs_steps == (2 if key == "diffusion" else 1)


@needs("lerobot")
def test_weights_of_an_older_lerobot_are_refused_with_the_command_to_run(tmp_path):
    folder = tmp_path / "pretrained_model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"type": "act", **PARAMS["act"]}))
    save_file({"model.a": torch.ones(1), "normalize_inputs.buffer_x.mean": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"normalize_inputs.buffer_x.mean.*migrate_policy_normalization --pretrained"):
        policy_of_folder(folder)
    raw = config("act", tmp_path / "run", PRESET)
    raw["model"]["policy"] = {"path": str(folder)}
    with pytest.raises(ConfigError, match=r"^model.policy.path: .*older LeRobot"):
        load_config(raw)
    (folder / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ConfigError, match=r"model.policy.path: .*model.safetensors"):
        policy_of_folder(folder)


@needs("lerobot")
def test_frames_that_lerobot_leaves_out_are_reported_at_the_start(tmp_path):
    def notes(data, **params):
        out = io.StringIO()
        raw = config("diffusion", tmp_path / "run", PRESET, params=params)
        raw["data"]["params"] |= data
        OfflineTrainer(load_config(raw), Console(file=out, width=500))
        return [line for line in out.getvalue().splitlines() if "drop_n_last_frames" in line]

    (line,) = notes({})
    assert "data.params.drop_n_last_frames is 0" in line
    assert "without the last 7 frames" in line
    assert notes({"drop_n_last_frames": 7}) == []
    assert notes({}, drop_n_last_frames=0) == []


class Stub(nn.Module):
    """In place of LeRobot's class: the names of X-VLA, and a config with its optimizer."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.vlm, self.model.soft_prompt_hub, self.model.head = (nn.Linear(2, 2) for _ in range(3))

    def get_optim_params(self):
        return {name: each for name, each in self.named_parameters() if each.requires_grad}


def xvla_config(scheduler=None, **options):
    from lerobot.optim.optimizers import XVLAAdamWConfig

    made = XVLAAdamWConfig(lr=1e-3, weight_decay=0.2, soft_prompt_lr_scale=0.5, **options)
    return SimpleNamespace(get_optimizer_preset=lambda: made, get_scheduler_preset=lambda: scheduler)


@needs("lerobot")
@pytest.mark.parametrize("parts", [{}, {"vlm": ["model.vlm"]}, {"rest": ["model.vlm.weight", "model.soft_prompt*"]}])
def test_groups_by_name_go_by_the_names_in_the_policy(monkeypatch, parts):
    class XVLA(OnDemand, Stub):
        def __init__(self):
            Stub.__init__(self)
            self.config = xvla_config()

        optimizer_preset = classmethod(lambda cls, params: preset_of(xvla_config()))

    whole = XVLA()
    monkeypatch.setattr(family, "XVLA", XVLA, raising=False)
    components = nn.ModuleDict(split(whole, parts))
    raw = {
        "data": {"type": "digits"},
        "model": {
            "policy": {"type": f"{family.__name__}.XVLA", "parts": parts},
            "component_optims": {name: {"type": "preset"} for name in components},
        },
        "train": {"total_steps": 1, "run_dir": "unused", "objective": {"type": "policy_loss"}},
    }
    made = with_group_rules(load_config(raw), components)
    found = {}
    for name, optim in made.model.component_optims.items():
        for group in optim.factory.build(components[name]).param_groups:
            found |= dict.fromkeys(group["params"], (group["lr"], group["weight_decay"]))
    names = {parameter: name for name, parameter in whole.named_parameters()}
    theirs = whole.config.get_optimizer_preset().build(Stub.get_optim_params(whole))
    expected = {p: (group["lr"], group["weight_decay"]) for group in theirs.param_groups for p in group["params"]}
    assert {names[p]: pytest.approx(of) for p, of in found.items()} == {names[p]: of for p, of in expected.items()}
    assert len(set(expected.values())) == 3


@needs("lerobot")
def test_the_list_has_lerobots_policies(cli):
    code, text = cli("list", "--filter", "lerobot.*")
    assert code == 0
    assert "lerobot.act" in text
    assert "lerobot.diffusion" in text


@needs("lerobot")
def test_a_policy_that_learns_online_is_refused(tmp_path):
    raw = config("act", tmp_path / "run", PRESET)
    raw["model"]["policy"] = {"type": "lerobot.gaussian_actor"}
    with pytest.raises(ConfigError) as error:
        OfflineTrainer(load_config(raw), QUIET)
    assert "gaussian_actor" in str(error.value)


@needs("lerobot")
def test_parameters_that_lerobot_refuses_are_reported_with_their_path_by_a_preset(tmp_path):
    raw = config("act", tmp_path / "run", PRESET, params={"vision_backbone": "vgg16"})
    with pytest.raises(ConfigError, match=r"policy.type: lerobot.act has no preset .*: model.policy.params: LeRobot's"):
        load_config(raw)
