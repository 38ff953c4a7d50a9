"""The forms of overrides: lists, switches, tuples, and those of the reference documents with the names used here."""

import re

import pytest
import yaml
from conftest import DIGITS

from trainer import ConfigError, load_config
from trainer.config.overrides import parse_overrides
from trainer.errors import ConfigNote

HEAD = "model.component_optims.head"
RAW = yaml.safe_load(DIGITS.read_text())


def overridden(*arguments, raw=RAW):
    return load_config(raw, parse_overrides(arguments))


def params(config):
    return config.model.component_optims["head"].params


def test_an_item_of_a_list_is_set_by_its_index():
    loaded = overridden("--train.objective.params.wiring.3=scores = head(patches)")
    assert loaded.train.objective.params["wiring"] == [
        *RAW["train"]["objective"]["params"]["wiring"][:3],
        "scores = head(patches)",
    ]
    assert overridden("--model.components.head.params.hidden.0=32").model.components["head"].params["hidden"] == [32]


@pytest.mark.parametrize(
    ("arguments", "hidden"),
    [
        (["+=32"], [64, 32]),
        (["+=32", "+=16"], [64, 32, 16]),
        (["+=[32, 16]"], [64, 32, 16]),
        (["=[8]", "+=4"], [8, 4]),
    ],
)
def test_values_are_appended_to_a_list(arguments, hidden):
    given = [f"--model.components.head.params.hidden{argument}" for argument in arguments]
    assert overridden(*given).model.components["head"].params["hidden"] == hidden


def test_values_are_appended_to_the_default_of_a_list():
    with pytest.raises(ConfigError, match=r"train\.log\.1: .*'a\.b'"):  # jsonl, the default, comes first
        overridden("--train.log+=a.b")
    assert overridden("--plugins+=sample_parts").plugins == ["sample_parts"]


@pytest.mark.parametrize("text", ["sample_parts", "[sample_parts]", "(sample_parts,)"])
def test_text_for_a_list_is_its_only_item(text):
    assert overridden(f"--plugins={text}").plugins == ["sample_parts"]


@pytest.mark.parametrize("given", [["--train.compile"], ["--train.compile", "true"], ["--train.compile=True"]])
def test_a_switch_needs_no_value(given):
    assert overridden(*given).train.compile is True
    assert overridden(*given, "--seed=3").seed == 3


def test_only_a_switch_needs_no_value():
    with pytest.raises(ConfigError, match=r"--train\.log_every: no value; write --train\.log_every=VALUE"):
        overridden("--train.log_every", "--seed=3")
    with pytest.raises(ConfigError, match="compil"):
        overridden("--train.compil")


ADAMW = {**RAW, "model": {**RAW["model"], "component_optims": dict(RAW["model"]["component_optims"])}}
ADAMW["model"]["component_optims"]["head"] = {
    "type": "adamw",
    "params": {"lr": 0.1, "eps": 1e-6, "betas": "(0.8, 0.9)", "schedule": {"type": "linear", "num_warmup_steps": 3}},
}


def test_another_type_drops_the_fields_that_it_does_not_have_with_a_notice():
    with pytest.warns(ConfigNote) as notes:
        loaded = overridden(f"--{HEAD}.type=sgd", f"--{HEAD}.params.momentum=0.9", raw=ADAMW)
    assert params(loaded) == {"lr": 0.1, "momentum": 0.9, "schedule": {"type": "linear", "num_warmup_steps": 3}}
    assert [str(note.message) for note in notes] == [
        f"{HEAD}.params: type changed from adamw to sgd: eps, betas dropped; lr, schedule kept"
    ]


def test_another_type_of_a_schedule_drops_the_fields_beside_it():
    with pytest.warns(ConfigNote, match=r"params\.schedule: type changed from linear to constant: num_warmup_steps dr"):
        loaded = overridden(f"--{HEAD}.params.schedule.type=constant", raw=ADAMW)
    assert params(loaded)["schedule"] == {"type": "constant"}


def test_the_same_type_or_the_whole_entry_drops_nothing():
    assert params(overridden(f"--{HEAD}.type=adamw", raw=ADAMW))["eps"] == 1e-6
    assert params(overridden(f"--{HEAD}={{type: sgd, params: {{lr: 1}}}}", raw=ADAMW)) == {"lr": 1}
    assert params(overridden(f"--{HEAD}.type=sgd", f"--{HEAD}.params={{lr: 2}}", raw=ADAMW)) == {"lr": 2}


def test_a_tuple_is_read_alike_in_a_file_and_in_an_override():
    in_file = load_config(ADAMW).model.component_optims["head"].factory
    on_line = overridden(f"--{HEAD}.params.betas", "(0.8,0.9)", raw=ADAMW).model.component_optims["head"].factory
    assert in_file.betas == on_line.betas == (0.8, 0.9)


DOCUMENTS = {
    "A: type and parameters of an optimizer": [f"--{HEAD}.type=adam", f"--{HEAD}.params.lr=1e-4", DIGITS],
    "A: a separate scheduler": [
        DIGITS,
        f"--{HEAD}.type=adamw",
        f"--{HEAD}.params.schedule.type=cosine_decay_with_warmup",
        f"--{HEAD}.params.schedule.num_warmup_steps=3",
        f"--{HEAD}.params.schedule.num_decay_steps=30",
        f"--{HEAD}.params.schedule.peak_lr=1e-3",
        f"--{HEAD}.params.schedule.decay_lr=1e-4",
    ],
    "C: the space form, True, a tuple": [
        *[DIGITS, f"--{HEAD}.type", "adamw", f"--{HEAD}.params.use_cautious_optimizer", "True"],
        *[f"--{HEAD}.params.lr", "1e-4", f"--{HEAD}.params.betas", "(0.9,0.999)"],
        *[f"--{HEAD}.params.weight_decay", "1e-2"],
    ],
    "C: a bare switch": [DIGITS, f"--{HEAD}.type=adamw", f"--{HEAD}.params.use_cautious_optimizer"],
    "E: dotted overrides": [DIGITS, "--data.batch_size=32", "--model.components.encoder.params.dropout=0.0"],
    "E: --config_path=": [f"--config_path={DIGITS}", "--train.total_steps=70"],
    "E: --config-path in space form": ["--train.total_steps=70", "--config-path", DIGITS],
    "E: --config": ["--config", DIGITS],
    "E: plugin discovery": ["--plugins=sample_parts", DIGITS],
    "E: a switch before the config": ["--data.drop_last", DIGITS],
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_the_command_lines_of_the_reference_documents_work(case, cli):
    code, printed = cli("plan", *DOCUMENTS[case])
    assert code == 0, printed
    assert "head" in printed


def test_device_is_the_environment_variable_of_this_name_or_auto(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text(f"extends: {DIGITS}\ntrain: {{device: '${{oc.env:DEVICE,auto}}'}}\n")
    monkeypatch.delenv("DEVICE", raising=False)
    assert load_config(file).train.device == "auto"
    monkeypatch.setenv("DEVICE", "cpu")
    assert load_config(file).train.device == "cpu"


@pytest.mark.parametrize("given", [["--model.policy.path=runs/other"], ["--model.policy.path", "hf://org/policy"]])
def test_a_path_and_a_type_of_a_policy_are_refused_together(given, cli, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"extends: {DIGITS}\nmodel: {{policy: {{type: lerobot.act}}}}\n")
    code, printed = cli("plan", file, *given)
    assert code == 2
    assert re.search(r"model\.policy\.path is .* and model\.policy\.type is 'lerobot\.act'", printed.replace("\n", " "))
