"""Validated configs: registries of classes by key, types of fields, error messages, modules that a config names."""

from .arguments import arguments_model, check_arguments, construct, signature_model
from .attribute_docs import attribute_docstring
from .errors import UNKNOWN_KEY, explain, filtered, nest, refusal
from .fields import Beta, Count, NonNegativeNumber, PositiveCount, PositiveNumber
from .importing import (
    NotImportedError,
    PartWarning,
    announcing,
    folders_of,
    looking_in,
    module_named,
    refuse_under_no_plugins,
)
from .messages import bounded, counted, joined, listed, message_of, nearest, shown, shown_value, visible
from .tagged_field import TaggedField
from .validation import Config

__all__ = [
    "UNKNOWN_KEY",
    "Beta",
    "Config",
    "Count",
    "NonNegativeNumber",
    "NotImportedError",
    "PartWarning",
    "PositiveCount",
    "PositiveNumber",
    "TaggedField",
    "announcing",
    "arguments_model",
    "attribute_docstring",
    "bounded",
    "check_arguments",
    "construct",
    "counted",
    "explain",
    "filtered",
    "folders_of",
    "joined",
    "listed",
    "looking_in",
    "message_of",
    "module_named",
    "nearest",
    "nest",
    "refusal",
    "refuse_under_no_plugins",
    "shown",
    "shown_value",
    "signature_model",
    "visible",
]
