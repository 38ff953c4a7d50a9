"""Writes lerobot_policies.json: the losses of LeRobot's ACT and Diffusion on tests/data/pusht, by its own classes.

Run it with lerobot 0.6.1, torchvision, diffusers, pyarrow and av installed, and without a network:
HF_HUB_OFFLINE=1 PYTHONPATH=.:tests:tests/support python tests/golden/make_lerobot_policies.py

What the trace checks needs LeRobot too, as nothing else can compute these losses: the tests train innerstep beside
LeRobot, and compare LeRobot with this trace, so that a version of LeRobot that trains in another way is noticed.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from sample_lerobot_policies import PARAMS, losses_of_lerobot


def main() -> None:
    """Write the losses of each policy."""
    torch.set_num_threads(1)
    traces = {key: losses_of_lerobot(key)[0] for key in PARAMS}
    golden = {"lerobot": version("lerobot"), "torch": version("torch"), **traces}
    Path(__file__).with_name("lerobot_policies.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
