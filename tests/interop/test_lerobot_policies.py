"""LeRobot's policies as components: names, parameters, refusals and presets."""

import dataclasses
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT, needs
from pydantic import ValidationError

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.config import check_arguments, construct, explain
from trainer import MODEL_REGISTRY, ConfigError
from trainer.lerobot_policies import family

FEATURES = {
    "input_features": {
        "observation.image": {"type": "VISUAL", "shape": [3, 96, 96]},
        "observation.state": {"type": "STATE", "shape": [2]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


def problem(params, key="lerobot.act"):
    """Return the message about `params`."""
    with pytest.raises(ValidationError) as caught:
        check_arguments(MODEL_REGISTRY[key], params)
    return "\n".join(explain(caught.value))


@needs("lerobot")
def test_a_policy_is_lerobots_own_class_with_the_given_fields():
    from lerobot.policies.act.modeling_act import ACTPolicy

    params = {**FEATURES, "chunk_size": 12, "n_action_steps": 3, "dim_model": 32, "n_heads": 2, "dim_feedforward": 48}
    policy = construct(MODEL_REGISTRY["lerobot.act"], {**params, "pretrained_backbone_weights": None})
    assert isinstance(policy, ACTPolicy)
    config = policy.config
    assert (config.type, config.chunk_size, config.dim_model, config.kl_weight) == ("act", 12, 32, 10.0)
    assert config.input_features["observation.image"].shape == (3, 96, 96)
    assert MODEL_REGISTRY["LeRobot.ACT"] is type(policy)


@needs("lerobot")
def test_names_and_types_of_parameters_are_checked():
    assert "chunk_size" in problem({"chunksize": 3})
    assert "dim_model" in problem({"dim_model": "wide"})
    assert "NormalizationMode" not in problem({"normalization_mapping": {"STATE": "MINMAX"}})


@needs("lerobot")
@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("device", "cuda", "train.device"),
        ("use_amp", True, "train.precision"),
        ("use_peft", True, "adapters"),
        ("pretrained_path", "some/folder", "model.policy.path"),
        ("pretrained_revision", "main", "hf://"),
        ("push_to_hub", False, "innerstep export"),
        ("repo_id", "me/mine", "innerstep export"),
    ],
)
def test_a_field_that_is_decided_elsewhere_is_refused_with_the_place(name, value, place):
    message = problem({name: value})
    assert message.startswith(f"{name}: ")
    assert place in message


@needs("lerobot")
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"chunk_size": 4, "n_action_steps": 9}, "chunk"),
        ({"temporal_ensemble_coeff": 0.01, "n_action_steps": 5}, "temporal"),
        ({"vision_backbone": "vit"}, "ResNet"),
    ],
)
def test_what_lerobot_refuses_is_an_error_with_the_path(params, words):
    with pytest.raises(ConfigError, match=rf"^model\.policy\.params: LeRobot's ACTConfig refuses them: .*{words}"):
        MODEL_REGISTRY["lerobot.act"].optimizer_preset(params)
    with pytest.raises(ValidationError, match=words):
        construct(MODEL_REGISTRY["lerobot.act"], {**FEATURES, **params})


@needs("lerobot")
@pytest.mark.skipif(find_spec("transformers") is not None, reason="needs that transformers is missing")
def test_a_package_that_a_policy_needs_is_named_if_it_is_missing():
    with pytest.raises(ConfigError, match=r"^model\.policy\.params: LeRobot's EO1Config needs .*transformers"):
        MODEL_REGISTRY["lerobot.eo1"].optimizer_preset({})


@needs("lerobot")
def test_an_unknown_policy_is_an_error_with_the_nearest_name(cli):
    with pytest.raises(KeyError, match="'difusion'; did you mean 'diffusion'"):
        MODEL_REGISTRY["lerobot.difusion"]
    assert cli("describe", "lerobot.difusion")[0] == 2


@needs("lerobot")
def test_the_parameters_are_described_with_defaults(cli):
    code, text = cli("describe", "lerobot.act")
    assert code == 0
    assert "component lerobot.act" in text
    assert "kl_weight: number, default 10.0" in text
    assert "    device: " not in text.partition("refused:")[0]
    assert "train.device" in text.partition("refused:")[2]


@needs("lerobot")
@pytest.mark.parametrize("key", ["act", "diffusion"])
def test_nothing_is_printed_when_a_policy_is_built(key):
    params = {**FEATURES, "pretrained_backbone_weights": None}
    code = f"from trainer.lerobot_policies.family import policy_class as c; c({key!r})(**{params})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout + done.stderr == ""


def test_lerobot_is_not_imported_before_a_policy_is_named():
    code = "import sys, trainer.config.schema; assert not {'lerobot', 'draccus'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_lerobot_the_extra_is_named(monkeypatch, cli):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.setitem(sys.modules, "lerobot.policies", None)
    family.policy_class.cache_clear()
    with pytest.raises(ConfigError, match=r"lerobot\.act needs lerobot.*innerstep\[lerobot\]"):
        MODEL_REGISTRY["lerobot.act"]
    code, text = cli("describe", "lerobot.act")
    assert code == 2
    assert "innerstep[lerobot]" in text
    code, text = cli("list")
    (line,) = (line for line in text.splitlines() if line.startswith("  lerobot.NAME "))
    assert (code, "innerstep[lerobot]" in line) == (0, True)


def lerobot_policies():
    """Return the types of policies whose config object can be made with what is installed."""
    try:
        import lerobot.policies  # noqa: F401
        from lerobot.configs import PreTrainedConfig
    except ImportError:
        return ["act"]
    found = []
    for name in PreTrainedConfig.get_known_choices():
        try:
            PreTrainedConfig.get_choice_class(name)(device="cpu")
        except (ImportError, OSError):  # a package that is missing, or a model on the hub
            continue
        found.append(name)
    return found


@needs("lerobot")
@pytest.mark.parametrize("name", [name for name in lerobot_policies() if name not in ("gaussian_actor", "xvla")])
def test_the_preset_has_lerobots_options_and_curve(name):
    import torch
    from lerobot.configs import PreTrainedConfig

    config = PreTrainedConfig.get_choice_class(name)(device="cpu")
    theirs, scheduler = config.get_optimizer_preset(), config.get_scheduler_preset()
    preset = MODEL_REGISTRY[f"lerobot.{name}"].optimizer_preset({})
    factory = OPTIMIZER_BUILDER_REGISTRY[preset["type"]](**preset["params"])
    assert factory.grad_clip_norm == theirs.grad_clip_norm
    total, weight = 120, torch.nn.Parameter(torch.ones(2))
    ours, reference = factory.build([weight], Horizon(total)), theirs.build([weight])
    for option in dataclasses.asdict(theirs).keys() - {"grad_clip_norm", "lr"}:
        assert ours.param_groups[0][option] == getattr(theirs, option), option
    moved = None if scheduler is None else scheduler.build(reference, total)
    for step in range(total):
        assert ours.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12), step
        ours.step()
        reference.step()
        if moved is not None:
            moved.step()
