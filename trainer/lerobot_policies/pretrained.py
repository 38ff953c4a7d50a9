"""LeRobot's `pretrained_model` folders: the type and the parameters of the policy in one, by its config.json."""

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime.files import DamagedCheckpointError, opened_tensors, read_json
from .arguments import REFUSED

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PATH = "model.policy.path"
_OLD_STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


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
    _refuse_old_normalization(folder)
    kind = content.pop("type")
    return f"lerobot.{kind}", {name: value for name, value in content.items() if name not in REFUSED}


def _refuse_old_normalization(folder: Path) -> None:
    """Raise ConfigError if the weights have statistics among them, which LeRobot's processors have today."""
    try:
        with opened_tensors(folder / WEIGHTS) as file:
            old = [name for name in file.keys() if name.startswith(_OLD_STATISTICS)]  # noqa: SIM118  not a mapping
    except ValueError as error:
        raise ConfigError(f"{_PATH}: {error}") from error
    if old:
        raise ConfigError(
            f"{_PATH}: {folder / WEIGHTS} has statistics of an older LeRobot among the weights ({old[0]} …). Run"
            f" `python -m lerobot.processor.migrate_policy_normalization --pretrained-path {folder}`, and give the"
            " folder that it writes."
        )
