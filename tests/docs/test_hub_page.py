"""docs/hub.md: its commands and examples work against a hub."""

import re

import pytest
import yaml
from conftest import ROOT, needs
from sample_hub import LIBRARY_WARNS, _hub  # noqa: F401  # a fixture

from trainer.checkpoint.init_from import init_component
from trainer.config.entries import ComponentConfig

pytestmark = [needs("huggingface_hub"), LIBRARY_WARNS]


def blocks(page, kind):
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == kind]


@pytest.fixture
def small(hub, cli, tmp_path, monkeypatch):
    """Train the README's small.yaml for 20 updates, with a best checkpoint."""
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load(blocks("README.md", "yaml")[1])
    raw["model"]["component_optims"]["backbone"]["params"]["warmup_steps"] = 5
    raw["train"] |= {"total_steps": 20, "eval_every": 10, "keep_best": {}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw))
    assert cli("train", "small.yaml")[0] == 0


@pytest.mark.usefixtures("small")
def test_the_page_on_the_hub_works_as_it_is_written(cli):
    commands = [line.split("#")[0].split()[1:] for block in blocks("docs/hub.md", "") for line in block.splitlines()]
    assert [command[0] for command in commands] == [*["push"] * 5, "train", "evaluate", "plan"]
    for command in commands:
        code, printed = cli(*command)
        if command[0] == "evaluate":  # the run of the other commands is no policy
            assert "train.objective.type: must be a policy" in printed
        else:
            assert code == 0, printed
    for name, entry in yaml.safe_load(blocks("docs/hub.md", "yaml")[0])["model"]["components"].items():
        config = ComponentConfig(**entry)
        assert config.init_from is not None
        chosen, _ = init_component(name, config.init_from, config.make(name))
        assert chosen
    names = {}
    exec(blocks("docs/hub.md", "python")[0], names)
    assert names["run"].step in (10, 20)
    assert str(names["config"].train.run_dir) == "runs/recipe"
