"""`type: preset`: the optimizer that a component's class recommends for itself."""

from typing import Any

from optimizer import UnknownKeyError
from optimizer.config import UNKNOWN_KEY, refusal

from ..interfaces.component import MODEL_REGISTRY

PRESET = "preset"


def with_preset(name: str, optim: Any, components: Any) -> Any:
    """Return a raw entry of component_optims with `type: preset` replaced by what the component's class says.

    The class's `optimizer_preset()` returns {"type": KEY, "params": {…}}. What the entry itself gives in
    `params` wins. Raises ValidationError if there is no preset.
    """
    if not isinstance(optim, dict) or optim.get("type") != PRESET:
        return optim
    path = ("component_optims", name, "type")
    component = components.get(name) if isinstance(components, dict) else None
    key = component.get("type") if isinstance(component, dict) else None
    try:
        cls = MODEL_REGISTRY[key] if isinstance(key, str) else None
    except UnknownKeyError as error:
        raise refusal(str(error), ("components", name, "type"), key, UNKNOWN_KEY) from None
    preset = getattr(cls, "optimizer_preset", None)
    if not callable(preset):
        raise refusal(
            f"{key or name} brings no preset: its class has no optimizer_preset(). Name an optimizer", path, PRESET
        )
    try:
        recommended = preset()
    except Exception as error:  # a user's code may raise anything
        raise refusal(f"optimizer_preset() of {key} fails: {type(error).__name__}: {error}", path, PRESET) from error
    if not _is_entry(recommended):
        rule = f"optimizer_preset() of {key} must return {{'type': KEY, 'params': {{…}}}}; got {recommended!r}"
        raise refusal(rule, path, PRESET)
    given = {} if optim.get("params") is None else optim["params"]
    params = {**recommended.get("params", {}), **given} if isinstance(given, dict) else given
    return {**optim, "type": recommended["type"], "params": params}


def _is_entry(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() <= {"type", "params"}
    return known and isinstance(value.get("type"), str) and isinstance(value.get("params", {}), dict)
