"""The tutorial's blocks are the demo's config, its parts for cameras and flows fit together, and its names exist."""

import inspect
import re

import yaml
from conftest import ROOT, needs

from trainer.config.entries import DataConfig
from trainer.config.schema import ExperimentConfig
from trainer.lerobot_data.dataset import LeRobotData
from trainer.policies.feature_options import PolicyOptions

PAGE = (ROOT / "docs/robot_policies.md").read_text()
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
*DEMO, CAMERAS, FLOW, ACT = BLOCKS


def merged(*parts):
    """Return mappings as one, with the values of the last one that has them."""
    whole = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def test_the_first_blocks_are_the_config_of_the_demo():
    assert len(DEMO) == 5
    assert merged(*DEMO) == yaml.safe_load((ROOT / "configs/button_press.yaml").read_text())


@needs("pyarrow")
@needs("av")
@needs("kornia")
def test_the_blocks_for_cameras_and_flows_fit_into_a_config(cli, tmp_path):
    raw = merged(yaml.safe_load((ROOT / "configs/pusht.yaml").read_text()), CAMERAS, FLOW)
    few = {"data": {"params": {"episodes": [0, 1], "held_out": [1], "frames": "lazy"}}, "train": {"evaluation": None}}
    ExperimentConfig.model_validate(merged(raw, few))
    root = {"data": {"params": {"root": str(ROOT / "tests/data/pusht")}}}
    (tmp_path / "pusht.yaml").write_text(yaml.safe_dump(merged(raw, few, root)))
    code, printed = cli("plan", tmp_path / "pusht.yaml")
    assert code == 0, printed
    assert "action_head" in printed


def test_the_block_for_a_policy_of_lerobots_is_the_model_of_its_config():
    assert yaml.safe_load((ROOT / "configs/pusht_act.yaml").read_text())["model"] == ACT["model"]


def test_the_parameters_of_the_data_are_there():
    cells = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    codes = [code for cell in cells for code in re.findall(r"`(.*?)`", cell)]
    assert len(codes) > 8
    for code in codes:
        if ":" in code:
            assert DataConfig(type="lerobot", params=yaml.safe_load(code)).params == yaml.safe_load(code)
        else:
            assert code in inspect.signature(LeRobotData).parameters


def test_the_older_names_of_options_are_options():
    for name in ("input_normalization_modes", "output_normalization_modes", "input_shapes", "output_shapes"):
        assert f"`{name}`" in PAGE
        assert name in PolicyOptions.__annotations__
