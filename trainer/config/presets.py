"""`type: preset`: the optimizer that a component's class recommends for itself."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from optimizer.config import refusal

from .class_choice import ClassChoice

PRESET = "preset"


def with_preset(name: str, entry: Mapping[str, object], component: ClassChoice) -> Mapping[str, object]:
    """Return an entry of `model.component_optims` with the optimizer that the component's class recommends.

    The class's `optimizer_preset()` returns {"type": KEY, "params": {…}}. Parameters in the entry itself take
    precedence.

    Args:
        name: The component's.
        entry: One of `type: preset`.
        component: The component's class.

    Raises:
        ValidationError: There is no preset, or it is not an entry. The path begins with `name`.
    """
    key, path = component.type, (name, "type")
    preset = getattr(component.chosen, "optimizer_preset", None)
    if not callable(preset):
        raise refusal(f"{key} brings no preset: its class has no optimizer_preset(). Name an optimizer", path, PRESET)
    try:
        recommended = preset()
    except Exception as error:  # a user's code may raise anything
        raise refusal(f"optimizer_preset() of {key} fails: {type(error).__name__}: {error}", path, PRESET) from error
    if not _is_entry(recommended):
        rule = f"optimizer_preset() of {key} must return {{'type': KEY, 'params': {{…}}}}; got {recommended!r}"
        raise refusal(rule, path, PRESET)
    given = {} if entry.get("params") is None else entry["params"]
    params = {**recommended.get("params", {}), **given} if isinstance(given, dict) else given
    return {**entry, "type": recommended["type"], "params": params}


def is_preset(entry: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether an entry of `model.component_optims` takes the recommended optimizer."""
    return isinstance(entry, dict) and entry.get("type") == PRESET


def _is_entry(value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict) or not value.keys() <= {"type", "params"}:
        return False
    return isinstance(value.get("type"), str) and isinstance(value.get("params", {}), dict)
