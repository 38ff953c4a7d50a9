"""`model.policy`: LeRobot's policy, its own options, and the weights that it starts from."""

from collections.abc import Mapping
from pathlib import Path

from optimizer.config import shown_value

from ..config.plain_values import Plain
from ..errors import ConfigError
from .conversion import Conversion

PLACE = "model.policy"
_ELSEWHERE = (
    "type",
    "path",
    "device",
    "use_amp",
    "pretrained_path",
    "pretrained_revision",
    "normalization_mapping",
    "optimizer",
    "scheduler",
    "use_peft",
    "push_to_hub",
    "repo_id",
    "private",
    "tags",
    "license",
)
"""Fields of a policy that are not options of its class here."""
_OLDER = ("learning_rate", "input_shapes", "output_shapes", "input_normalization_modes", "output_normalization_modes")
_FEATURES = ("input_features", "output_features")
"""Left out, or empty, they are those of the data set."""
_ONLINE = ("gaussian_actor", "sac")


def policy_type(conversion: Conversion) -> str:
    """Return the type of the policy.

    Raises:
        ConfigError: There is none, or it is not trained on a fixed data set.
    """
    if conversion.get("reward_model"):
        raise ConfigError("reward_model: a reward model cannot be imported; innerstep trains policies.")
    policy = conversion.get("policy")
    if not isinstance(policy, dict):
        raise ConfigError(f"policy: must be a mapping with type; got {shown_value(policy)}")
    key = policy.get("type")
    if not isinstance(key, str):
        given = "it has path, whose config is on the command line only" if "path" in policy else "none is given"
        raise ConfigError(f"policy.type: must name a policy, such as act; {given}.")
    if "." in key:  # a dotted path would import the module that a file from anywhere names
        raise ConfigError(f"policy.type: must be a key of LeRobot's; got {shown_value(key)}")
    if key in _ONLINE:
        raise ConfigError(
            f"policy.type: {key} learns online, from LeRobot's actor and learner; innerstep trains on fixed data sets."
            " Its objectives iql and td3_bc learn from recorded rewards."
        )
    return key


def convert_policy(conversion: Conversion, key: str) -> None:
    """Make `model.policy` of `policy`.

    Raises:
        ConfigError: Options of two kinds give one thing, or an option has a wrong type.
    """
    given = conversion.section("policy")
    if (pretrained := conversion.text("policy.pretrained_path", f"{PLACE}.path")) is None:
        conversion.take("policy.type", f"{PLACE}.type")
        conversion.put(f"{PLACE}.type", f"lerobot.{key}")
    else:
        conversion.take("policy.type", f"{PLACE}.path")
        where = _reference(pretrained, conversion.text("policy.pretrained_revision", f"{PLACE}.path"))
        conversion.put(f"{PLACE}.path", where, f"lerobot.{key} with these weights; params win over its own config.")
    conversion.take("policy.pretrained_revision", f"{PLACE}.path")
    _normalization(conversion, given)
    params = {
        name: conversion.take(f"policy.{name}", f"{PLACE}.params.{name}")
        for name in given
        if name not in _ELSEWHERE and name not in _OLDER
    }
    params = {name: value for name, value in params.items() if not (name in _FEATURES and not value)}
    params |= _older(conversion, given)
    if params:
        conversion.put(f"{PLACE}.params", params)


def _reference(pretrained: str, revision: str | None) -> str:
    """Return the place of weights as `path` has it: a folder, or a repository on the hub."""
    if Path(pretrained).is_dir() or pretrained.count("/") != 1 or pretrained.startswith((".", "~", "/")):
        return pretrained
    return f"hf://{pretrained}" + ("" if revision is None else f"@{revision}")


def _normalization(conversion: Conversion, given: Mapping[str, Plain]) -> None:
    place = f"{PLACE}.normalization"
    modes = conversion.take("policy.normalization_mapping", place)
    if modes:
        conversion.put(place, modes)
    older = {name: given[name] for name in _OLDER[3:] if given.get(name)}
    if not older:
        return
    if modes:
        raise ConfigError(f"policy.{next(iter(older))} and policy.normalization_mapping: two spellings of one thing.")
    by_type: dict[str, Plain] = {}
    for name, by_feature in older.items():
        conversion.take(f"policy.{name}", place)
        if not isinstance(by_feature, dict):
            raise ConfigError(f"policy.{name}: must be a mapping; got {shown_value(by_feature)}")
        for feature, mode in by_feature.items():
            kind, upper = _type_of(feature, name.startswith("output")), str(mode).upper()
            if by_type.setdefault(kind, upper) != upper:
                raise ConfigError(
                    f"policy.{name}.{feature}: must be {by_type[kind]} as of the other features of type {kind};"
                    f" LeRobot's policies have one mode for a type. Got {shown_value(mode)}"
                )
    conversion.put(place, by_type, "By type of feature, as LeRobot's policies have it today.")


def _older(conversion: Conversion, given: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return the params that fields of LeRobot's older configs become."""
    params: dict[str, Plain] = {}
    if "learning_rate" in given:
        params["optimizer_lr"] = conversion.take("policy.learning_rate", f"{PLACE}.params.optimizer_lr")
        conversion.comment(f"{PLACE}.params", "LeRobot's policy.learning_rate is optimizer_lr, which the preset takes.")
    for shapes, features in (("input_shapes", "input_features"), ("output_shapes", "output_features")):
        if shapes not in given:
            continue
        if given.get(features):
            raise ConfigError(
                f"policy.{shapes} and policy.{features}: two spellings of one thing. Leave one of them out."
            )
        value = conversion.take(f"policy.{shapes}", f"{PLACE}.params.{features}")
        if not isinstance(value, dict):
            raise ConfigError(f"policy.{shapes}: must be a mapping; got {shown_value(value)}")
        is_output = shapes == "output_shapes"
        params[features] = {name: {"type": _type_of(name, is_output), "shape": shape} for name, shape in value.items()}
    return params


def _type_of(feature: str, is_output: bool) -> str:
    if is_output:
        return "ACTION"
    if "image" in feature:
        return "VISUAL"
    return "ENV" if feature == "observation.environment_state" else "STATE"
