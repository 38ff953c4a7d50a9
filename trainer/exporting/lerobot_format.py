"""A run as LeRobot's `pretrained_model` folder."""

from pathlib import Path

from ..errors import ConfigError
from ..lerobot_policies.objective import LeRobotPolicy
from ..lerobot_policies.saving import save_pretrained
from .source import Source

FILES = ("config.json", "model.safetensors", "policy_preprocessor*", "policy_postprocessor*", "README.md")
"""The files that a folder of this format may hold."""


def write_lerobot_format(source: Source, folder: Path) -> list[str]:
    """Write weights, config.json, and both processors into `folder`.

    Returns:
        Lines on the files.

    Raises:
        ConfigError: The policy is not LeRobot's.
        OSError: A file cannot be written.
    """
    policy, objective = source.config.model.policy, source.objective
    if policy is None or not isinstance(objective, LeRobotPolicy):
        there = "model.components alone" if policy is None else f"model.policy.type {policy.type}"
        raise ConfigError(
            f"--to lerobot: LeRobot has no class for {there} with train.objective.type"
            f" {source.config.train.objective.type}. It loads its policies only: runs with `model.policy: {{type:"
            " lerobot.NAME}` and the objective lerobot_policy. Use --to torch."
        )
    save_pretrained(folder, source.components, objective)
    files = sorted(folder.iterdir())
    for path in files:  # safetensors makes files that only the owner can read
        path.chmod((folder / "config.json").stat().st_mode)
    names = ", ".join(path.name for path in files)
    return [f"{{{names}}}: {policy.type}, {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB"]
