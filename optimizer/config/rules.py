"""The rule that a value breaks, in plain words, by the type of pydantic's error."""

import re
from collections.abc import Mapping

from .messages import nearest

TOO_LARGE = "must be a whole number of 64 bits, at most 2^63 - 1"
_RULES = {
    "arguments_type": "must be a mapping",
    "bool_parsing": "must be true or false, without quotes",
    "bool_type": "must be true or false, without quotes",
    "bytes_type": "must be text",
    "callable_type": "must be a function, which a config cannot hold",
    "complex_str_parsing": "must be a complex number, as in 1+2j",
    "complex_type": "must be a complex number, as in 1+2j",
    "counter_type": "must be a mapping of whole numbers",
    "dataclass_exact_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "date_from_datetime_inexact": "must be a date, without a time",
    "date_from_datetime_parsing": "must be a date, as in 2026-11-25",
    "date_future": "must be in the future",
    "date_parsing": "must be a date, as in 2026-11-25",
    "date_past": "must be in the past",
    "date_type": "must be a date, as in 2026-11-25",
    "datetime_from_date_parsing": "must be a date and time, as in 2026-11-25T12:00",
    "datetime_future": "must be in the future",
    "datetime_object_invalid": "must be a date and time, as in 2026-11-25T12:00",
    "datetime_parsing": "must be a date and time, as in 2026-11-25T12:00",
    "datetime_past": "must be in the past",
    "datetime_type": "must be a date and time, as in 2026-11-25T12:00",
    "decimal_max_digits": "must have at most {max_digits} digits",
    "decimal_max_places": "must have at most {decimal_places} digits after the point",
    "decimal_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_whole_digits": "must have at most {whole_digits} digits before the point",
    "deque_type": "must be a list",
    "dict_type": "must be a mapping",
    "enum": "must be {expected}",
    "extra_forbidden": "unknown name",
    "finite_number": "must be finite",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "fraction_parsing": "must be a number or a fraction, as in 1/3",
    "fraction_type": "must be a number or a fraction, as in 1/3",
    "frozen_dict_type": "must be a mapping",
    "frozen_set_type": "must be a list",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "int_from_float": "must be a whole number, without a fraction",
    "int_parsing": "must be a whole number",
    "int_parsing_size": TOO_LARGE,
    "int_type": "must be a whole number",
    "invalid_key": "a key must be text",
    "is_instance_of": "must be an object of the class {class}, which a config cannot hold",
    "is_subclass_of": "must be a subclass of {class}, which a config cannot hold",
    "iterable_type": "must be a list",
    "json_invalid": "must be JSON, as text",
    "json_type": "must be JSON, as text",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "mapping_type": "must be a mapping",
    "missing": "required, but not given",
    "missing_argument": "required, but not given",
    "missing_keyword_only_argument": "required, but not given",
    "missing_positional_only_argument": "required, but not given",
    "model_attributes_type": "must be a mapping",
    "model_type": "must be a mapping",
    "multiple_of": "must be a multiple of {multiple_of}",
    "multiple_argument_values": "is given twice",
    "named_tuple_type": "must be a list",
    "none_required": "must be null",
    "ordered_dict_type": "must be a mapping",
    "path_type": "must be a path, as text",
    "recursion_loop": "must not contain itself",
    "recursion_depth_exceeded": "is nested too deeply",
    "sequence_str": "must be a list",
    "set_item_not_hashable": "must hold text and numbers only",
    "set_type": "must be a list",
    "string_not_ascii": "must have ASCII characters only",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
    "string_unicode": "must be text that UTF-8 can hold",
    "time_delta_parsing": "must be a time span, as in 01:30:00, or a number of seconds",
    "time_delta_type": "must be a time span, as in 01:30:00, or a number of seconds",
    "time_parsing": "must be a time, as in 12:30",
    "time_type": "must be a time, as in 12:30",
    "timezone_aware": "must have a time zone",
    "timezone_naive": "must have no time zone",
    "timezone_offset": "must have the time zone {tz_expected}",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "tuple_type": "must be a list",
    "unexpected_keyword_argument": "unknown name",
    "unexpected_positional_argument": "must have fewer items",
    "union_tag_invalid": "{discriminator}: must be one of {expected_tags}",
    "union_tag_not_found": "must have {discriminator}",
    "url_parsing": "must be a URL",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "url_syntax_violation": "must be a URL",
    "url_too_long": "must be a URL of at most {max_length} characters",
    "url_type": "must be a URL, as text",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID, as text",
    "uuid_version": "must be a UUID of version {expected_version}",
}
"""The rule by the error's type, with the values of the error's context."""
_WORDS_FOR_NULL = ("None", "none", "Nil", "nil")
_IN_YAML = {"None": "null", "True": "true", "False": "false", "inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
_WORDS_FOR_BOOLEANS = ("yes", "no", "on", "off", "True", "False", "true", "false")


def rule_of(kind: str, message: str, context: Mapping[str, object]) -> str:
    """Return the rule that a value breaks.

    Args:
        kind: The type of pydantic's error.
        message: Pydantic's message, or that of an own error, which stays as it is.
        context: The values that belong to the error.
    """
    if "message" in context or kind not in _RULES:  # an own error
        return message.removeprefix("Value error, ").removeprefix("Assertion failed, ").replace("Input should", "must")
    if kind == "is_instance_of" and context.get("class") in ("Sequence", "Iterable", "Collection"):
        return "must be a list"
    return _RULES[kind].format_map(_Known(context))


def remedy_of(kind: str, rule: str, value: object) -> str:
    """Return the end of a message that helps to mend a value of a wrong type; "" if nothing does.

    Args:
        kind: The type of pydantic's error.
        rule: As `rule_of` returns it.
        value: The value that breaks the rule.
    """
    text = value if isinstance(value, str) else getattr(value, "text", None)
    if text in _WORDS_FOR_NULL:
        return ". Where no value is allowed, it is written null"
    if kind in ("literal_error", "enum") and isinstance(text, str):
        return nearest(text, re.findall(r"'([^']*)'", rule)).rstrip(".")
    if kind.startswith("bool_") and text in _WORDS_FOR_BOOLEANS:
        return f". Write {'true' if str(text).lower() in ('yes', 'on', 'true') else 'false'}"
    if (
        kind in ("list_type", "sequence_str", "is_instance_of")
        and rule == "must be a list"
        and isinstance(text, str)
        and text.isprintable()
        and len(text) < 60
    ):
        return f". Write [{text}]"
    if kind == "string_type" and isinstance(value, int | float):
        return ". Write it in quotes"
    return ""


def in_yaml(value: object) -> str | None:
    """Return null, true, false, .inf or .nan as a config has them; None: `value` is another one."""
    return _IN_YAML.get(str(value)) if value is None or isinstance(value, bool | float) else None


class _Known(dict[str, object]):
    """The values of a context as they are shown. A name that a version of pydantic does not give stays empty."""

    def __init__(self, context: Mapping[str, object]) -> None:
        super().__init__({name: f"{one:g}" if isinstance(one, float) else one for name, one in context.items()})

    def __missing__(self, name: str) -> str:
        return ""
