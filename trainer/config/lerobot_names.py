"""Names of LeRobot's configs at the top level of a config, and their places here."""

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

_PLACES = {
    "dataset": "data.params, with data.type: lerobot",
    "policy": "model.policy, with the policy's own options in params",
    "optimizer": "model.component_optims.policy, with type and params",
    "scheduler": "params.schedule of an entry of model.component_optims",
    "env": "train.evaluation: {type: gym, params: {id: ...}}",
    "eval": "train.evaluation",
    "wandb": "train.log, which has no sink for W&B",
    "batch_size": "data.batch_size",
    "num_workers": "data.workers",
    "steps": "train.total_steps",
    "output_dir": "train.run_dir",
    "job_name": "train.run_dir",
    "log_freq": "train.log_every",
    "save_freq": "train.save_every",
    "eval_steps": "train.eval_every",
    "env_eval_freq": "train.evaluation.every",
    "eval_freq": "train.evaluation.every",
    "use_policy_training_preset": "`type: preset` in model.component_optims",
    "config_path": "the argument of `innerstep train`, without a name",
    "peft": "without a place: adapters are not trained",
    "job": "without a place: a run trains on the machine where it is started",
    "ema": "train.ema",
}
"""The place by LeRobot's name."""
_GENERAL = (
    "batch_size",
    "num_workers",
    "steps",
    "output_dir",
    "job_name",
    "log_freq",
    "save_freq",
    "eval_steps",
    "ema",
)
"""Those that other libraries use too. Alone they make no config of LeRobot's."""
_INNER = {
    "policy.path": "model.policy.path",
    "policy.type": "model.policy.type, as lerobot.TYPE",
    "policy.device": "train.device",
    "policy.use_amp": "train.precision",
    "policy.optimizer": "model.component_optims.policy.params",
    "policy.scheduler": "model.component_optims.policy.params.schedule",
    "policy.optimizer_lr": "model.component_optims.policy.params.lr; the preset takes model.policy.params.optimizer_lr",
    "policy.n_obs_steps": "data.params.n_obs_steps, and model.policy.params.n_obs_steps for a policy that has it",
    "dataset.repo_id": "data.params.repo_id",
    "dataset.root": "data.params.root",
    "dataset.episodes": "data.params.episodes",
    "dataset.eval_split": "data.params.held_out",
    "env.type": "train.evaluation.params.id",
    "env.task": "train.evaluation.params.id",
    "eval.n_episodes": "train.evaluation.n_episodes",
    "eval.batch_size": "train.evaluation.batch_size",
    "eval.use_async_envs": "train.evaluation.use_async_envs",
    "optimizer.type": "model.component_optims.policy.type",
    "optimizer.lr": "model.component_optims.policy.params.lr",
}
_WHOLE = "`innerstep import-lerobot` converts a whole train_config.json (docs/coming_from.md)"
LEROBOT_NAMES = (*_PLACES, *_INNER)
"""Sections and fields of LeRobot's configs, for suggestions."""


def refuse_lerobot_names(config: Mapping[str, object]) -> None:
    """Check that a config has no names of LeRobot's at its top level.

    Raises:
        ValidationError: It has. There is one line a name, with its place here.
    """
    if all(name in _GENERAL or name not in _PLACES for name in config):
        return
    lines = []
    for name in (name for name in config if name in _PLACES):
        value = config[name]
        inner = [key for key in value if f"{name}.{key}" in _INNER] if isinstance(value, Mapping) else []
        lines += [_line((name, key), _INNER[f"{name}.{key}"], value) for key in inner]
        if not inner:
            lines.append(_line((name,), _PLACES[name], value))
    if lines:
        raise ValidationError.from_exception_data("config", lines)


def _line(path: tuple[str, ...], place: str, value: object) -> InitErrorDetails:
    message = f"is a name of LeRobot's configs. Here it is {place}. {_WHOLE}"
    return InitErrorDetails(type=PydanticCustomError("rule", "{message}", {"message": message}), loc=path, input=value)
