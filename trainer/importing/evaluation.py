"""`train.evaluation`: episodes in the environment, at LeRobot's seeds."""

from optimizer.config import shown_value

from ..config.plain_values import Plain
from ..errors import ConfigError
from .conversion import Conversion

PLACE = "train.evaluation"
_ARGUMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pusht": ("PushT-v0", ("obs_type", "visualization_width", "visualization_height")),
    "aloha": ("AlohaInsertion-v0", ("obs_type",)),
}
"""The default task, and the arguments that LeRobot hands to gymnasium.make, by the environment's type."""
_LENGTHS = {"pusht": 300, "aloha": 400}
_OWN_CLASSES = (
    "gym_manipulator",
    "isaaclab_arena",
    "libero",
    "libero_plus",
    "metaworld",
    "robocasa",
    "robomme",
    "robotwin",
    "vlabench",
)
_NOT_PASSED = "LeRobot does not hand it to the environment either"
_OF_ENV = ("features", "features_map", "fps", "max_parallel_tasks", "disable_env_checker")


def convert_evaluation(conversion: Conversion, seed: int) -> None:
    """Make `train.evaluation` of `env`, `eval` and `env_eval_freq`.

    Raises:
        ConfigError: A value has a wrong type.
    """
    key = conversion.get("env.type")
    every = conversion.whole("env_eval_freq", f"{PLACE}.every", 20_000)
    if conversion.has("eval_freq"):  # its name until 0.5
        every = conversion.whole("eval_freq", f"{PLACE}.every", 20_000)
    if key is None or every <= 0 or key in _OWN_CLASSES:
        _none(conversion, key, every)
        return
    if not isinstance(key, str):
        raise ConfigError(f"env.type: must be text, such as pusht; got {shown_value(key)}")
    conversion.take("env.type", f"{PLACE}.params.id")
    conversion.put(f"{PLACE}.type", "gym")
    conversion.put(f"{PLACE}.params", _environment(conversion, key))
    _counts(conversion)
    conversion.put(f"{PLACE}.every", every)
    conversion.put(f"{PLACE}.seed", seed, "Of the first episode, as in LeRobot, at each evaluation.")


def _none(conversion: Conversion, key: Plain, every: int) -> None:
    if key is None:
        reason = "there is no env, so that there are no episodes"
        conversion.take("env", PLACE)
    elif every <= 0:
        reason = "env_eval_freq is 0: no episodes are run"
    else:
        reason = (
            "LeRobot builds this environment with its own classes, not by gymnasium.make. Write train.evaluation with"
            " an id of gymnasium's or your own class (docs/extending.md), or take lerobot-eval after"
            " `innerstep export RUN OUT --to lerobot`"
        )
        conversion.comment("train.run_dir", f"No episodes: env.type {key}: {reason}.")
    for name in ("n_episodes", "batch_size", "use_async_envs"):
        conversion.leave(f"eval.{name}", reason)
    for name in conversion.section("env"):
        if name == "type" and every > 0:
            conversion.leave("env.type", reason, None)
        elif name not in _OF_ENV:
            conversion.leave(f"env.{name}", reason)


def _environment(conversion: Conversion, key: str) -> dict[str, Plain]:
    """Return the parameters of the environment, as LeRobot's EnvConfig hands them to gymnasium.make."""
    task, arguments = _ARGUMENTS.get(key, ("", ()))
    task = conversion.text("env.task", f"{PLACE}.params.id") or task
    if not task:
        raise ConfigError("env.task: required for this environment: the part of gymnasium's id after the slash.")
    params: dict[str, Plain] = {"id": f"gym_{key}:gym_{key}/{task}"}
    options = {name: conversion.take(f"env.{name}", f"{PLACE}.params.env.{name}") for name in arguments}
    if "obs_type" in arguments:
        options["obs_type"] = options["obs_type"] or "pixels_agent_pos"
    given: dict[str, Plain] = {name: value for name, value in options.items() if value is not None}
    if given:
        params["env"] = given
    length = conversion.take("env.episode_length", f"{PLACE}.params.max_episode_steps", _LENGTHS.get(key))
    if length is not None:
        params["max_episode_steps"] = length
    conversion.leave("env.render_mode", "train.evaluation.video records episodes", "rgb_array")
    for name in ("observation_height", "observation_width"):
        conversion.leave(f"env.{name}", _NOT_PASSED)
    if key not in _ARGUMENTS:
        for name in conversion.section("env"):
            if name not in ("type", "task", "episode_length", "render_mode", *_OF_ENV):
                conversion.leave(f"env.{name}", "not one of LeRobot's environments: write it below params.env", None)
    return params


def _counts(conversion: Conversion) -> None:
    episodes = conversion.whole("eval.n_episodes", f"{PLACE}.n_episodes", 50)
    conversion.put(f"{PLACE}.n_episodes", episodes)
    at_a_time = conversion.whole("eval.batch_size", f"{PLACE}.batch_size", 0)
    if at_a_time > episodes:
        conversion.put(
            f"{PLACE}.batch_size",
            episodes,
            f"LeRobot lowers eval.batch_size, {at_a_time}, to the number of episodes in silence; here it is an error.",
        )
    elif at_a_time > 0:
        conversion.put(f"{PLACE}.batch_size", at_a_time)
    conversion.put(f"{PLACE}.use_async_envs", conversion.flag("eval.use_async_envs", f"{PLACE}.use_async_envs", True))
