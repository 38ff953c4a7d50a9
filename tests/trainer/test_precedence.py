"""Which value of the config holds: default < files < checkpoint (on_change) < command line."""

import pytest
import yaml
from rich.console import Console
from sample_runs import MLPS, config

from trainer import load_config, load_run, resume, train

LR = "model.component_optims.first.params.lr"


def lr_of(config):
    return config.model.component_optims["first"].factory.lr


@pytest.fixture
def files(tmp_path):
    entry = {"type": "adamw", "params": {"weight_decay": 0.0}}
    base = config(tmp_path / "run", {"first": MLPS["first"]}, {"first": entry}, total_steps=2)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    for name, lr in (("file", 0.2), ("later", 0.3)):
        raw = {"extends": "base.yaml", "model": {"component_optims": {"first": {"params": {"lr": lr}}}}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path


def test_a_file_wins_over_the_default_a_later_file_over_it_and_the_command_line_over_all(files):
    default = lr_of(load_config(files / "base.yaml"))
    assert default not in (0.2, 0.3, 0.4)
    assert lr_of(load_config(files / "file.yaml")) == 0.2
    assert lr_of(load_config([files / "file.yaml", files / "later.yaml"])) == 0.3
    assert lr_of(load_config([files / "file.yaml", files / "later.yaml"], {LR: 0.4})) == 0.4


def test_a_checkpoint_wins_over_the_files_and_the_command_line_over_it(files):
    quiet = Console(quiet=True)
    train(files / "file.yaml", console=quiet)
    saved = files / "run/config.yaml"
    saved.write_text(saved.read_text().replace("lr: 0.2", "lr: 0.3"))
    longer = {"train.total_steps": 3}
    resume(files / "run", {**longer, "resume.on_change": "keep"}, console=quiet)
    assert lr_of(load_run(files / "run").config) == 0.2
    resume(files / "run", {"train.total_steps": 4, LR: 0.4, "resume.on_change": "override"}, console=quiet)
    assert lr_of(load_run(files / "run").config) == 0.4
