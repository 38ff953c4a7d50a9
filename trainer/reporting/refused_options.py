"""The shared options that an optimizer refuses, found by asking its factory."""

from pydantic import ValidationError
from torch import nn

from optimizer import Horizon, ScheduledFactory

_CAUTION = ("use_cautious_optimizer", "cautious_eps", "cautious_min_mean")
_EXAMPLES = {"number": 1e-3, "integer": 1}
"""Values for required parameters, by the type in their JSON schema."""


def refused_options(cls: type[object]) -> dict[str, str]:
    """Return the shared options that the factory `cls` refuses with any value but the default, and the reasons.

    An option counts as taken if this cannot be found out, for instance because it depends on a compiler.
    """
    if not issubclass(cls, ScheduledFactory):
        return {}
    given = _required_values(cls)
    if given is None or _build_error(cls, given) is not None:
        return {}
    refused = {}
    for option, value in (("state_dtype", "bfloat16"), ("stochastic_rounding", True)):
        if reason := _option_error(cls, {**given, option: value}, option):
            refused[option] = reason
    if reason := _build_error(cls, {**given, "use_cautious_optimizer": True}):
        refused |= dict.fromkeys(_CAUTION, reason)
    return refused


def _required_values(cls: type[ScheduledFactory]) -> dict[str, object] | None:
    """Return a value for each required parameter; None if one has another type than a number."""
    schema = cls.model_json_schema(by_alias=True)
    given: dict[str, object] = {}
    for name in schema.get("required", []):
        field = schema["properties"][name]
        kind = field.get("anyOf", [field])[0].get("type")
        if kind not in _EXAMPLES:
            return None
        given[name] = _EXAMPLES[kind]
    return given


def _option_error(cls: type[ScheduledFactory], given: dict[str, object], option: str) -> str | None:
    """Return the rule by which the factory refuses `option` when it is made."""
    try:
        cls.model_validate(given)
    except ValidationError as error:
        return next((detail["msg"] for detail in error.errors() if detail["loc"] == (option,)), None)
    return None


def _build_error(cls: type[ScheduledFactory], given: dict[str, object]) -> str | None:
    """Return why the factory does not build an optimizer for one small matrix."""
    try:
        cls.model_validate(given).build(nn.Linear(2, 2, bias=False), Horizon(total_steps=10, steps_per_epoch=5))
    except Exception as error:  # optimizers have their own
        return str(error)
    return None
