"""The checks of the loader in the sections of a config beside their fields, as rules of its JSON schema."""

from collections.abc import Mapping

from ..config.init_from import NAME
from ..config.policy import PolicyConfig
from ..config.schema import ExperimentConfig, ModelConfig, TrainConfig
from ..interfaces.metrics_sink import SINK_REGISTRY
from .schema_classes import key_schema, named_classes
from .schema_values import JsonSchema

_IS_GIVEN: JsonSchema = {"not": {"type": "null"}}
_HAS_POLICY: JsonSchema = {"properties": {"policy": _IS_GIVEN}, "required": ["policy"]}
_NAMES: JsonSchema = {"pattern": rf"^{NAME}$", "patternErrorMessage": "must have letters, digits, _ and - only"}
_EXTENDS: JsonSchema = {
    "type": ["string", "array"],
    "items": {"type": "string"},
    "description": "The file, or files, whose values hold where this one has none.",
}


def add_section_rules(schemas: Mapping[str, JsonSchema], is_whole: bool) -> None:
    """Add the rules to the schemas of the sections.

    Args:
        schemas: By the name of the section's class.
        is_whole: Whether the file has all of the config; false: it extends another one.
    """
    config, model, policy, train = (
        schemas[cls.__name__] for cls in (ExperimentConfig, ModelConfig, PolicyConfig, TrainConfig)
    )
    config["properties"]["extends"] = _EXTENDS
    config["patternProperties"] = {"^x-": {"description": "Values for aliases and interpolations, and nothing else."}}
    model["properties"]["components"]["propertyNames"] = _NAMES
    policy["properties"]["parts"]["propertyNames"] = _NAMES
    train["properties"]["log"]["items"] = key_schema(named_classes(SINK_REGISTRY, ()))
    if is_whole:
        _add_rules_of_whole(config, model, train)


def _add_rules_of_whole(config: JsonSchema, model: JsonSchema, train: JsonSchema) -> None:
    at_least_one = {"properties": {"components": {"minProperties": 1}}, "required": ["components"]}
    model |= {"if": _HAS_POLICY, "else": at_least_one}
    # The objective of a policy may be left out.
    train["required"] = [name for name in train["required"] if name != "objective"]
    config |= {
        "if": {"properties": {"model": _HAS_POLICY}, "required": ["model"]},
        "else": {"properties": {"train": {"required": ["objective"]}}},
    }
    train |= {
        "if": {"properties": {"epochs": _IS_GIVEN}, "required": ["epochs"]},
        "then": {"properties": {"total_steps": {"type": "null"}}},
        "else": {"properties": {"total_steps": _IS_GIVEN}, "required": ["total_steps"]},
    }
