"""`innerstep config`: the whole config, and where each value comes from."""

import pytest
import yaml
from conftest import DIGITS, files_of

from trainer import load_config

HEAD = "model.component_optims.head"
PARTS = """
from torch import nn
from trainer import MODEL_REGISTRY


@MODEL_REGISTRY.register("grasper")
class Grasper(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layer = nn.Linear(16, 10)

    def forward(self, x):
        return self.layer(x)

    @staticmethod
    def optimizer_preset():
        return {"type": "adamw", "params": {"lr": 0.25, "eps": 1e-6}}
"""
BASE = """\
plugins: [grasper_parts]
x-lr: &lr 0.5
data: {type: digits}
model:
  components:
    head: {type: grasper}
  component_optims:
    head: {type: preset, params: {weight_decay: *lr}}
train:
  objective: {type: classification, params: {wiring: [scores = head(profile)]}}
  total_steps: ${oc.env:STEPS,20}
  run_dir: runs/base
"""
MORE = """\
extends: ../base.yaml
train:
  eval_every: ${.total_steps}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")  # one for all: its module is imported once
    (folder / "sub").mkdir()
    (folder / "grasper_parts.py").write_text(PARTS)
    (folder / "base.yaml").write_text(BASE)
    (folder / "sub/c.yaml").write_text(MORE)
    return folder


@pytest.fixture
def project(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("STEPS", "30")
    return files


def origins_of(printed):
    """Return the text after # on each line, by the key and value before it."""
    pairs = [line.partition("  # ") for line in printed.splitlines() if "  # " in line]
    return {" ".join(before.split()): origin for before, _, origin in pairs}


def test_each_value_has_the_place_that_it_comes_from(cli, project):
    code, printed = cli("config", "sub/c.yaml", "--data.batch_size", "7")
    assert code == 0, printed
    origins = origins_of(printed)
    assert {key: origins[key] for key in origins if origins[key] != "default"} == {
        "plugins: [grasper_parts]": "base.yaml:1",
        "type: digits": "base.yaml:3",
        "batch_size: 7": "--data.batch_size",
        "type: grasper": "base.yaml:6",
        "type: adamw": "preset, base.yaml:8",
        "lr: 0.25": "preset",
        "eps: 1.0e-06": "preset",
        "weight_decay: 0.5": "base.yaml:8",
        "type: classification": "base.yaml:10",
        "wiring: [scores = head(profile)]": "base.yaml:10",
        "total_steps: 30": "env STEPS, base.yaml:11",
        f"run_dir: {project / 'runs/base'}": "base.yaml:12",
        "eval_every: 30": "sub/c.yaml:3",
    }
    assert origins["device: auto"] == "default"


@pytest.mark.parametrize("options", [[], ["--no-origins"]])
def test_what_is_printed_reads_back_to_the_same_config_from_anywhere(cli, project, tmp_path_factory, options):
    code, printed = cli("config", "sub/c.yaml", *options)
    assert code == 0, printed
    copy = tmp_path_factory.mktemp("elsewhere") / "copy.yaml"
    copy.write_text(printed)
    assert load_config(copy).resolved() == load_config(project / "sub/c.yaml").resolved()
    assert ("  # default" in printed) == (not options)


def test_nothing_is_written(cli, project):
    before = files_of(project)
    assert cli("config", "base.yaml")[0] == 0
    assert {name for name in files_of(project) if "__pycache__" not in str(name)} == set(before)


def test_long_lists_have_a_line_for_each_item(cli):
    code, printed = cli("config", DIGITS, "--no-origins")
    assert code == 0
    assert "    wiring:\n" in printed or "wiring: [" in printed
    assert yaml.safe_load(printed)["train"]["objective"]["params"]["wiring"][3] == "scores = head(code)"


def test_a_changed_type_is_reported_in_one_line(cli, project):
    code, printed = cli("config", "sub/c.yaml", f"--{HEAD}.type=sgd", f"--{HEAD}.params.lr=1", f"--{HEAD}.params.eps=2")
    assert code == 2
    code, printed = cli("config", "sub/c.yaml", f"--{HEAD}.type=sgd", f"--{HEAD}.params.lr=1")
    assert code == 0
    assert f"note: {HEAD}.params: type changed from preset to sgd: weight_decay kept\n" in printed
