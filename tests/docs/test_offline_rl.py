"""The tutorial's blocks are the configs of the pendulum, and its names exist."""

import re

import yaml
from conftest import ROOT, needs
from test_robot_policies import merged

from trainer.interfaces.dataset import DATASET_REGISTRY

PAGE = (ROOT / "docs/offline_rl.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
*IQL, TD3_BC = BLOCKS


def config(name):
    return yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())


def test_the_first_blocks_are_the_config_of_iql():
    assert len(IQL) == 3
    assert merged(*IQL) == config("pendulum_iql")


def test_the_last_block_is_the_difference_of_td3_bc():
    whole = merged(config("pendulum_iql"), TD3_BC)
    for part in ("components", "component_optims"):
        del whole["model"][part]["value"]
    whole["train"]["run_dir"] = "../runs/pendulum_td3_bc"
    assert whole == config("pendulum_td3_bc")


def test_the_parameters_of_the_sources_are_there():
    import inspect

    known = inspect.signature(DATASET_REGISTRY["transitions"]).parameters
    rows = re.findall(r"^\| (?:an .npz file|LeRobot's format|Minari) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    arrays = {"obs", "action", "reward", "next_obs", "terminal", "timeout"}
    assert named - arrays <= {*known, "minari"}
    assert {"path", "root", "repo_id", "minari", "names", "episode_length", "observations"} <= named


def test_the_table_of_a_batch_is_a_batch(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(ROOT / "configs")
    data = DATASET_REGISTRY["transitions"](**config("pendulum_iql")["data"]["params"])
    names = re.findall(r"^\| `([\w.]+)` \| \(N", PAGE, re.MULTILINE)
    assert set(data.train.batch(torch.arange(2))) == set(names)
    assert round(float(data.statistics["return"]["mean"]) * 10) == -305


@needs("gymnasium")
def test_the_configs_can_be_planned(cli):
    for name, line in (("iql", "average of critic_1, tau 0.005"), ("td3_bc", "stepped every 2 updates")):
        code, printed = cli("plan", ROOT / f"configs/pendulum_{name}.yaml")
        assert code == 0, printed
        assert line in printed
