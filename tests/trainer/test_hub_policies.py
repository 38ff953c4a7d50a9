"""`model.policy.path: hf://ORG/NAME`, and a run on the hub exported."""

import pytest
import torch
import yaml
from conftest import DIGITS, files_of, needs
from sample_files import _forgets  # noqa: F401  # a fixture
from sample_hub import LIBRARY_WARNS, _hub  # noqa: F401  # a fixture
from sample_policies import ADAMW, PARTS, policy_config
from sample_strangers import STRANGER

import trainer
from trainer import ConfigError

pytestmark = [needs("huggingface_hub"), LIBRARY_WARNS]
NAME = "someone/small-policy"


def own(folder, **changed):
    """Return the config of a run that needs no plugin in this process."""
    return policy_config(folder, **changed) | {"plugins": []}


@pytest.fixture
def pushed(hub, tmp_path):
    """Push a run of a policy in parts; return the run and the commit."""
    raw = own(tmp_path / "first", policy={"parts": PARTS}, total_steps=2)
    trainer.train(raw)
    return tmp_path / "first", trainer.push_to_hub(tmp_path / "first", NAME).partition("@")[2]


def tuned(folder, path):
    """Return the config of a run of one update, whole, of the policy at `path`, with lr 0."""
    raw = own(folder, total_steps=1)
    still = {**ADAMW, "params": {**ADAMW["params"], "lr": 0.0, "weight_decay": 0.0}}
    raw["model"] = {"policy": {"path": path}, "component_optims": {"policy": still}}
    return raw


def test_a_policy_on_the_hub_is_trained_on_from_its_weights(hub, pushed, tmp_path):
    run, commit = pushed
    trainer.train(tuned(tmp_path / "second", f"hf://{NAME}"))
    saved = yaml.safe_load((tmp_path / "second/config.yaml").read_text())["model"]["policy"]
    assert (saved["path"], saved["type"]) == (None, "small_policy")
    assert saved["init_from"]["path"] == f"hf://{NAME}@{commit}"
    found = dict(trainer.load_run(tmp_path / "second").components["policy"].named_parameters())
    parts = trainer.load_run(run).components
    assert torch.equal(found["model.backbone.0.weight"], parts["backbone"].state_dict()["0.weight"])
    assert torch.equal(found["model.head.weight"], parts["policy"].state_dict()["model.head.weight"])


@pytest.mark.usefixtures("_forgets")
def test_a_policy_on_the_hub_imports_no_module(hub, pushed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(STRANGER)
    config = yaml.safe_load(hub.files(NAME)["config.yaml"])
    config["model"]["policy"]["type"] = "stranger.Policy"
    hub.add("someone/else", {"config.yaml": yaml.safe_dump(config).encode()})
    with pytest.raises(ConfigError, match=r"a policy on the hub imports no module: .*not imported: stranger"):
        trainer.load_config(tuned(tmp_path / "second", "hf://someone/else"))
    assert not (tmp_path / "RAN").exists()


def test_what_is_missing_on_the_hub_is_named_at_the_path(hub, tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.policy\.path: '.*' cannot be loaded: there is no such repository"):
        trainer.load_config(tuned(tmp_path / "second", f"hf://{NAME}"))


def test_a_run_on_the_hub_is_exported(hub, cli, tmp_path):
    trainer.train(trainer.load_config(DIGITS, {"train.run_dir": str(tmp_path / "run"), "train.total_steps": 60}))
    trainer.push_to_hub(tmp_path / "run", NAME)
    for place, out in ((tmp_path / "run", "local"), (f"hf://{NAME}", "exported")):
        code, printed = cli("export", place, tmp_path / out, "--to", "torch")
        assert code == 0, printed
    weights = "model.safetensors"
    assert files_of(tmp_path / "exported")[weights] == files_of(tmp_path / "local")[weights]


@pytest.mark.usefixtures("pushed")
def test_the_page_of_a_policy_lists_its_parts(hub):
    text = hub.files(NAME)["README.md"].decode()
    assert "pipeline_tag: robotics" in text
    assert all(f"| `{name}` | `small_policy` | `adamw` |" in text for name in ("policy", *PARTS))
