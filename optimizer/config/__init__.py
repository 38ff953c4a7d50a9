"""Validated configs: registries of classes by key, types of fields, error messages, modules that a config names."""

from .arguments import arguments_model, check_arguments, construct, signature_model
from .attribute_docs import attribute_docstring
from .errors import UNKNOWN_KEY, UNKNOWN_NAME, explain, filtered, nest, path_of, refusal, reworded, together
from .fields import Beta, Count, NonNegativeNumber, PositiveCount, PositiveFraction, PositiveNumber
from .function_path import function_at
from .importing import (
    NotImportedError,
    PluginWarning,
    folders_of_modules,
    load_module,
    log_imports,
    no_plugins,
    refuse_under_no_plugins,
    search_in,
)
from .messages import bounded, counted, joined, listed, message_of, nearest, shown, shown_value, visible
from .rules import in_yaml
from .synonyms import synonyms
from .tagged_field import REGISTRY_NOTE, TaggedField
from .validation import Config

__all__ = [
    "REGISTRY_NOTE",
    "UNKNOWN_KEY",
    "UNKNOWN_NAME",
    "Beta",
    "Config",
    "Count",
    "NonNegativeNumber",
    "NotImportedError",
    "PluginWarning",
    "PositiveCount",
    "PositiveFraction",
    "PositiveNumber",
    "TaggedField",
    "arguments_model",
    "attribute_docstring",
    "bounded",
    "check_arguments",
    "construct",
    "counted",
    "explain",
    "filtered",
    "folders_of_modules",
    "function_at",
    "in_yaml",
    "joined",
    "listed",
    "load_module",
    "log_imports",
    "message_of",
    "nearest",
    "nest",
    "no_plugins",
    "path_of",
    "refusal",
    "refuse_under_no_plugins",
    "reworded",
    "search_in",
    "shown",
    "shown_value",
    "signature_model",
    "synonyms",
    "together",
    "visible",
]
