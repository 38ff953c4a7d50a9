"""A run's fingerprint: all that makes its training what it is, as a checkpoint holds it and a resume compares it."""

from collections.abc import Collection, Mapping
from typing import Any

from optimizer import Horizon

from ..config.marks import fixed_values
from ..config.schema import ExperimentConfig

Row = tuple[str, Any, Any]
"""The path of a value that differs, and the value on the first and on the second side."""


def run_fingerprint(config: ExperimentConfig, trained: Collection[str], horizon: Horizon) -> dict[str, Any]:
    """Return the values of all fields of the config that are marked as fixed in a run.

    The optimizers' parameters have defaults and lengths filled in.

    Args:
        config: The run's.
        trained: Names of the components that have an optimizer; the entries of others are left out.
        horizon: The length of the run in updates.
    """
    fixed = fixed_values(config)
    optims, entries = config.model.component_optims, fixed["model"]["component_optims"]
    fixed["model"]["component_optims"] = {
        name: entries[name] | {"params": optims[name].resolved_params(horizon)} for name in trained
    }
    return fixed


def data_facts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of the training data, below the config's paths.

    Args:
        data: The trainer's `data` in a checkpoint, which holds the place in the data too.
    """
    return {"data": {name: data[name] for name in ("samples", "steps_per_epoch")}}


def fingerprint_leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint and the sizes of the data by dotted path. values: the trainer's, from a checkpoint."""
    return leaves(values["config"]) | leaves(data_facts(values["data"]))


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """Return the differences between the fingerprints of a checkpoint and of the run as it is configured now.

    Args:
        saved: The trainer's values in the checkpoint.
        now: The same of the run; only `config` and `data` are compared.
    """
    before, after = fingerprint_leaves(saved), fingerprint_leaves(now)
    rows = [(path, before.get(path), after.get(path)) for path in sorted({**before, **after})]
    return [row for row in rows if row[1] != row[2]]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
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
