"""Optimizer state by parameter name: checked, loaded, and written to files."""

from ..transforms.shards import is_sharded, local_part, local_tensor
from .atomic_files import (
    ASIDE,
    MAX_JSON_BYTES,
    NotAFileError,
    check_is_file,
    check_size,
    flush,
    open_to_append,
    private_folder,
    read_limited,
    replacing,
    write_json,
    write_new,
)
from .checks import Shapes, compare_shapes
from .dtypes import number_kind, torch_name
from .lerobot_files import LEROBOT_SCHEDULER, TENSORS, VALUES, lerobot_state_dict, scheduler_position
from .named import (
    has_names,
    names_by_id,
    parameter_shapes,
    rename_parameters,
    restrict_parameters,
    shapes_by_name,
    state_by_id,
    state_by_name,
)
from .named_loading import option_from_json
from .plain_json import decode_json, decode_line, encode_line
from .pytree_json import from_json, to_json
from .savable_tensors import unreadable_reason, unsavable_name_reason, unsavable_reason, unsavable_tensor_reason
from .sharded_tensors import gathered, shard_like
from .strides import has_default_strides, restore_strides, without_sharing
from .tensor_files import as_bytes, write_tensors

__all__ = [
    "ASIDE",
    "LEROBOT_SCHEDULER",
    "MAX_JSON_BYTES",
    "TENSORS",
    "VALUES",
    "NotAFileError",
    "Shapes",
    "as_bytes",
    "check_is_file",
    "check_size",
    "compare_shapes",
    "decode_json",
    "decode_line",
    "encode_line",
    "flush",
    "from_json",
    "gathered",
    "has_default_strides",
    "has_names",
    "is_sharded",
    "lerobot_state_dict",
    "local_part",
    "local_tensor",
    "names_by_id",
    "number_kind",
    "open_to_append",
    "option_from_json",
    "parameter_shapes",
    "private_folder",
    "read_limited",
    "rename_parameters",
    "replacing",
    "restore_strides",
    "restrict_parameters",
    "scheduler_position",
    "shapes_by_name",
    "shard_like",
    "state_by_id",
    "state_by_name",
    "to_json",
    "torch_name",
    "unreadable_reason",
    "unsavable_name_reason",
    "unsavable_reason",
    "unsavable_tensor_reason",
    "without_sharing",
    "write_json",
    "write_new",
    "write_tensors",
]
