"""`type: preset`: the optimizer that a component's class recommends for itself."""

from typing import Any

from optimizer import UnknownKeyError
from optimizer.validation import refusal
from trainer.components import MODEL_REGISTRY

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
    except UnknownKeyError:
        cls = None  # told where the component is read
    preset = getattr(cls, "optimizer_preset", None)
    if preset is None:
        raise refusal(
            f"{key or name} brings no preset: its class has no optimizer_preset(). Name an optimizer", path, PRESET
        )
    recommended = preset()
    if not isinstance(recommended, dict) or not isinstance(recommended.get("type"), str):
        raise refusal(
            f"optimizer_preset() of {key} must return {{'type': KEY, 'params': {{…}}}}; got {recommended!r}",
            path,
            PRESET,
        )
    params = {**recommended.get("params", {}), **(optim.get("params") or {})}
    return {**optim, "type": recommended["type"], "params": params}
