"""Optimizer state by parameter name: checked, loaded, and written to files."""

from .atomic_files import (
    ASIDE,
    MOST_JSON,
    NotAFileError,
    aside_of,
    check_is_file,
    check_size,
    content,
    flush,
    open_new,
    open_to_append,
    replacing,
    write_json,
    write_new,
    write_tensors,
)
from .checks import compare_shapes
from .files import LEROBOTS_SCHEDULER, TENSORS, VALUES, lerobots_groups, lerobots_state
from .named import renamed, restricted, shapes_of, state_by_id, state_by_name
from .named_loading import as_in
from .plain_json import decoded, decoded_line, encoded_line
from .pytree_json import from_json, to_json
from .savable_tensors import unsavable_name, unsavable_tensor, without_values
from .strides import independent, is_usual, unpacked

__all__ = [
    "ASIDE",
    "LEROBOTS_SCHEDULER",
    "MOST_JSON",
    "TENSORS",
    "VALUES",
    "NotAFileError",
    "as_in",
    "aside_of",
    "check_is_file",
    "check_size",
    "compare_shapes",
    "content",
    "decoded",
    "decoded_line",
    "encoded_line",
    "flush",
    "from_json",
    "independent",
    "is_usual",
    "lerobots_groups",
    "lerobots_state",
    "open_new",
    "open_to_append",
    "renamed",
    "replacing",
    "restricted",
    "shapes_of",
    "state_by_id",
    "state_by_name",
    "to_json",
    "unpacked",
    "unsavable_name",
    "unsavable_tensor",
    "without_values",
    "write_json",
    "write_new",
    "write_tensors",
]
