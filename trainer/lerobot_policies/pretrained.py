"""LeRobot's `pretrained_model` folders: the type and the parameters of the policy in one, by its config.json."""

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime.files import DamagedCheckpointError, read_json
from .arguments import REFUSED

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PATH = "model.policy.path"


def policy_of_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the `type` and the `params` of `model.policy` for a policy that LeRobot saved.

    Fields that are decided elsewhere, such as the device, are left out.

    Args:
        folder: LeRobot's folder, with config.json and model.safetensors.

    Raises:
        ConfigError: It is not such a folder, or its policy is an adapter.
    """
    file = folder / CONFIG
    try:
        content = read_json(file)
    except DamagedCheckpointError as error:
        raise ConfigError(f"{_PATH}: {error}") from error
    if not isinstance(content.get("type"), str):
        raise ConfigError(f"{_PATH}: {file} is not that of a policy: it has no `type`")
    if content.get("use_peft"):
        raise ConfigError(
            f"{_PATH}: {folder} holds an adapter, which cannot be loaded. Merge it into its policy first."
        )
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{_PATH}: {folder} has no {WEIGHTS}")
    kind = content.pop("type")
    return f"lerobot.{kind}", {name: value for name, value in content.items() if name not in REFUSED}
