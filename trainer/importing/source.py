"""Finds and reads LeRobot's train_config.json: a file, a folder that has one, or a repository on the hub."""

from dataclasses import dataclass
from pathlib import Path

from optimizer.config import shown, shown_value

from ..config.plain_values import Plain
from ..config.yaml_file import read_config_file
from ..errors import ConfigError
from ..runtime.hub import is_reference, local_folder

TRAIN_CONFIG = "train_config.json"
_POLICY_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_PRETRAINED = "pretrained_model"
_SOURCE = "TRAIN_CONFIG"


@dataclass(frozen=True)
class TrainConfigFile:
    """A file, its values, and the folder of the policy's weights beside it."""

    path: Path
    values: dict[str, Plain]
    weights: str | None


def read_train_config(source: str) -> TrainConfigFile:
    """Return the values of LeRobot's config of a training run.

    Args:
        source: A JSON or YAML file; a folder with train_config.json, or with pretrained_model; hf://ORG/NAME[@REVISION].

    Raises:
        ConfigError: There is no such file, it cannot be read, or it holds something else.
    """
    folder = local_folder(source, _SOURCE, ["*.json"]) if is_reference(source) else Path(source).expanduser()
    path = _file_in(folder) if folder.is_dir() else folder
    values = read_config_file(path)
    _check_kind(path, values)
    policy = values.get("policy")
    if isinstance(policy, dict) and "path" in policy:
        values = {**values, "policy": _with_its_config(policy)}
    has_weights = (path.parent / _WEIGHTS).is_file()
    return TrainConfigFile(
        path, values, (source if is_reference(source) else str(path.parent)) if has_weights else None
    )


def _file_in(folder: Path) -> Path:
    for inner in (folder, folder / _PRETRAINED, folder / "checkpoints" / "last" / _PRETRAINED):
        if (inner / TRAIN_CONFIG).is_file():
            return inner / TRAIN_CONFIG
    hint = ""
    if (folder / _POLICY_CONFIG).is_file():
        hint = f" It has {_POLICY_CONFIG}, a policy's config: give the folder as model.policy.path in a config."
    raise ConfigError(f"{folder}: has no {TRAIN_CONFIG}.{hint}")


def _check_kind(path: Path, values: dict[str, Plain]) -> None:
    """Raise ConfigError if the values are those of another kind of config."""
    if "data" in values and "model" in values:
        raise ConfigError(f"{path}: is a config of innerstep already; train it by `innerstep train`.")
    if "training" in values or "dataset_repo_id" in values:
        raise ConfigError(
            f"{path}: is a config of LeRobot before 2025, of Hydra (it has training, or dataset_repo_id)."
            f" Load and save it with a LeRobot that writes {TRAIN_CONFIG} first."
        )
    if "dataset" not in values:
        what = "it holds no dataset"
        if "type" in values and ("input_features" in values or "normalization_mapping" in values):
            what = "it is the config of a policy, which has no data set. Give its folder as model.policy.path"
        elif "env" in values and "eval" in values:
            what = "it is the config of an evaluation; `innerstep evaluate` takes a run"
        raise ConfigError(f"{path}: must be LeRobot's config of a training run, {TRAIN_CONFIG}; {what}.")
    for section in ("dataset", "policy", "env", "eval", "wandb", "optimizer", "scheduler", "peft", "job", "ema"):
        value = values.get(section)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{section}: must be a mapping; got {shown_value(value)}")


def _with_its_config(policy: dict[str, Plain]) -> dict[str, Plain]:
    """Return `policy` with the config of the pretrained policy that its `path` names, as LeRobot loads it."""
    path = policy["path"]
    if not isinstance(path, str):
        raise ConfigError(f"policy.path: must be text; got {shown_value(path)}")
    if "type" in policy:
        raise ConfigError(
            f"policy.path: {shown(path)} and policy.type: {shown_value(policy['type'])}: give one of them, path for a"
            " pretrained policy or type for a new one."
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        reference = path if is_reference(path) else f"hf://{path}"
        folder = local_folder(reference, "policy.path", [_POLICY_CONFIG])
    if not (folder / _POLICY_CONFIG).is_file():
        raise ConfigError(f"policy.path: {folder} has no {_POLICY_CONFIG}.")
    own = read_config_file(folder / _POLICY_CONFIG)
    return {**own, "pretrained_path": path, **{name: value for name, value in policy.items() if name != "path"}}
