"""A run's fingerprint, the values that make its training what it is, and the difference between two of them."""

import math
import os
from collections.abc import Collection, Mapping
from functools import reduce
from operator import getitem

from optimizer import Horizon
from optimizer.kernels import IMPLEMENTATIONS
from optimizer.types import JsonObject

from ..config.freeze import FreezeUntil
from ..config.marks import fixed_values
from ..config.schema import ExperimentConfig

_OPTIMIZERS = "model.component_optims."

Row = tuple[str, object, object]
"""The path of a value that differs, and the value on the first and on the second side."""


def run_fingerprint(config: ExperimentConfig, trained: Collection[str], horizon: Horizon) -> JsonObject:
    """Return the values of all fields of the config that are marked as fixed in a run.

    The optimizers' parameters have defaults and lengths filled in, and `freeze.until` is a number of updates.

    Args:
        config: The run's.
        trained: Names of the components that have an optimizer; the entries of others are left out.
        horizon: The length of the run in updates.
    """
    fixed = fixed_values(config)
    turns, optims = config.model.turns, config.model.component_optims
    entries = fixed["model"]["component_optims"]
    fixed["model"]["component_optims"] = {
        name: entries[name] | {"params": optims[name].resolved_params(turns(name, horizon).horizon(horizon))}
        for name in trained
    }
    for name, path in config.model.config_paths.items():
        if isinstance(freeze := config.model.entries[name].freeze, FreezeUntil):
            _section(fixed, path)["freeze"] = {"until": freeze.first_update(horizon)}
    return fixed


def _section(values: JsonObject, path: str) -> JsonObject:
    """Return the values at a dotted path, all of whose names are those of sections."""
    return reduce(getitem, path.split("."), values)


def data_facts(data: JsonObject) -> JsonObject:
    """Return the sizes of the training data, below the config's paths.

    Args:
        data: The trainer's `data` in a checkpoint, which holds the place in the data too.
    """
    return {"data": {name: data[name] for name in ("samples", "steps_per_epoch")}}


def fingerprint_leaves(values: JsonObject) -> JsonObject:
    """Return the fingerprint and the sizes of the data by dotted path.

    Args:
        values: The trainer's values in a checkpoint.
    """
    return leaves(values["config"]) | leaves(data_facts(values["data"]))


def config_changes(saved: JsonObject, now: JsonObject) -> list[Row]:
    """Return the differences between the fingerprints of a checkpoint and of the run as it is configured now.

    Args:
        saved: The trainer's values in the checkpoint.
        now: The same of the run; only `config` and `data` are compared.
    """
    rows = differing_leaves(fingerprint_leaves(saved), fingerprint_leaves(now))
    return sorted((row for row in rows if not _is_unimportant(*row)), key=lambda row: row[0])


def differing_leaves(first: JsonObject, second: JsonObject, absent: object = None) -> list[Row]:
    """Return the rows in which two flat mappings differ. NaN equals NaN.

    Args:
        first: Values by path.
        second: The same for the other side.
        absent: Stands for the value that one side lacks.
    """
    rows = [(path, first.get(path, absent), second.get(path, absent)) for path in {**first, **second}]
    return [row for row in rows if not _is_equal(row[1], row[2])]


def leaves(value: object, path: str = "") -> JsonObject:
    """Return the leaves of nested mappings, and of lists that hold some, by dotted path."""
    if isinstance(value, Mapping):
        named = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        named = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {
        leaf: item for key, inner in named for leaf, item in leaves(inner, f"{path}.{key}" if path else key).items()
    }


def _is_unimportant(path: str, saved: object, now: object) -> bool:
    """Return whether a difference leaves the training the same: in a path's form, or in how the steps are computed.

    A resume logs which implementation takes the steps, if it differs.
    """
    if path.startswith(_OPTIMIZERS) and path.endswith(".params.implementation"):
        return saved in IMPLEMENTATIONS and now in IMPLEMENTATIONS
    return _is_same_path(saved, now)


def _is_same_path(saved: object, now: object) -> bool:
    """Return whether an absolute path is the relative one that an earlier version saved, from the working directory."""
    if not isinstance(saved, str) or not isinstance(now, str) or not os.path.isabs(now) or os.path.isabs(saved):
        return False
    return os.path.realpath(saved) == os.path.realpath(now)


def _is_equal(first: object, second: object) -> bool:
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_is_equal, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)
