"""A resume under a changed config: the table of differences, the refusal, and `keep`, which takes the saved values."""

from collections.abc import Mapping

from pydantic import BaseModel

from optimizer.config import bounded, shown, shown_value
from optimizer.types import JsonObject

from ..config.marks import fixed_sections
from ..config.schema import ExperimentConfig
from ..errors import ConfigError
from .fingerprint import Row
from .upgrades import strings, unknown_fields, upgrade_values

_WAYS = (
    "Choose the values to use: --resume.on_change=keep (the saved ones), override (the new ones), or rescale (the new"
    " ones, each schedule entered where the lr is continuous). Or start a new run."
)


def changes_table(rows: list[Row]) -> str:
    """Return the differences as lines of text."""
    lines = [f"  {shown(path)}: saved {shown_value(before)}, now {shown_value(after)}" for path, before, after in rows]
    return bounded("\n".join(lines))


def refuse_changes(rows: list[Row], on_change: str | None, saved: JsonObject, config: ExperimentConfig) -> None:
    """Refuse a resume under a changed config. The error lists the differences and the ways to continue.

    Args:
        rows: The differences.
        on_change: The run's `resume.on_change`: None or `keep`.
        saved: The trainer's values in the checkpoint; those that this version does not know are named.
        config: The run's.

    Raises:
        ConfigError: There is a difference.
    """
    if rows:
        ways = (
            _WAYS if on_change is None else "These cannot be kept. Resume with the earlier values, or start a new run."
        )
        lines = "\n".join([changes_table(rows), *unknown_fields(saved, config), ways])
        raise ConfigError(f"the config differs from the one that the checkpoint was made with:\n{lines}")


def with_saved_values(config: ExperimentConfig, saved: JsonObject, trusted: Mapping[str, object]) -> ExperimentConfig:
    """Return `config` with every field that is fixed in a run as it is in the checkpoint.

    Args:
        config: The run's, as it is configured now.
        saved: The trainer's values in the checkpoint.
        trusted: The run's config as it was written. Only names in it may be imported: a checkpoint brings no code.

    Raises:
        ValueError: `saved` is not a valid state, or names a class that the run's config does not.
    """
    raw = config.model_dump(mode="json")
    known = {*strings(trusted), *strings(raw)}
    for text in strings(saved["config"]):
        if "." in text and text not in known:  # it may be a dotted path
            raise ValueError(
                f"names {shown_value(text)}, which the run's config does not. Add it there if it is yours."
            )
    kind = type(config)
    return kind.model_validate(_merge_saved(kind, raw, upgrade_values(saved, config)["config"]))


def _merge_saved(model: type[BaseModel], raw: JsonObject, saved: JsonObject) -> JsonObject:
    """Return a section of a raw config with the values that `saved` has."""
    merged = {**raw, **saved}
    for name, inner, several in fixed_sections(model):
        now, kept = raw.get(name) or {}, saved[name]
        if several and kept is not None:
            merged[name] = {**now, **{key: _merge_saved(inner, now.get(key, {}), one) for key, one in kept.items()}}
        elif kept is not None:
            merged[name] = _merge_saved(inner, now, kept)
    return merged
