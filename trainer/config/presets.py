"""`type: preset`: the optimizer that a component's class recommends for itself."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from optimizer.config import refusal

from ..errors import ConfigError
from .class_choice import ClassChoice
from .names import check_there

PRESET = "preset"
_CLIP = "grad_clip_norm"


@dataclass(frozen=True)
class Preset:
    """An entry of `model.component_optims` that was filled in from the class of its component."""

    entry: Mapping[str, Any]
    """The entry with the optimizer that the class recommends."""
    given: frozenset[str]
    """The names of the parameters that the entry itself had. They win."""
    joint_clip_norm: float | None = None
    """The norm that the class recommends to clip the policy's gradients to; None: none, or the entry gives one."""


def presets_of(raw: object, classes: Mapping[str, ClassChoice], joint: Collection[str]) -> dict[str, Preset]:
    """Return the presets that entries of `model.component_optims` ask for, by component.

    Args:
        raw: The entries.
        classes: The class of each component.
        joint: The components of the policy, whose gradients are clipped together.

    Raises:
        ValidationError: There is no such component, it has no preset, or that is not an entry.
    """
    wanted = {name: entry for name, entry in raw.items() if is_preset(entry)} if isinstance(raw, dict) else {}
    check_there(wanted, classes)
    return {name: _preset_of(name, entry, classes[name], name in joint) for name, entry in wanted.items()}


def with_presets(raw: object, presets: Mapping[str, Preset]) -> object:
    """Return the entries of `model.component_optims` with those that the presets have filled in."""
    filled = {name: preset.entry for name, preset in presets.items()}
    return {**raw, **filled} if isinstance(raw, dict) else raw


def without_presets(raw: object) -> object:
    """Return the entries of `model.component_optims` that name an optimizer."""
    return {name: entry for name, entry in raw.items() if not is_preset(entry)} if isinstance(raw, dict) else raw


def _preset_of(name: str, entry: Mapping[str, Any], component: ClassChoice, joint: bool) -> Preset:
    """Return the preset that one entry asks for.

    The class's `optimizer_preset` is called with the component's parameters if it takes an argument, and returns
    {"type": KEY, "params": {…}}. Parameters in the entry itself take precedence.

    Args:
        name: The component's.
        entry: One of `type: preset`.
        component: The component's class.
        joint: Whether it is one of the policy, whose gradients are clipped together.

    Raises:
        ValidationError: There is no preset, or it is not an entry. The path begins with `name`.
    """
    recommended = _recommended(name, component)
    raw = {} if entry.get("params") is None else entry["params"]
    if not isinstance(raw, dict):
        return Preset({**entry, "type": recommended["type"]}, frozenset())
    params, norm = dict(recommended.get("params", {})), None
    if joint and _CLIP in params and _CLIP not in raw:
        norm, params[_CLIP] = params[_CLIP], 0
    filled = {**entry, "type": recommended["type"], "params": {**params, **raw}}
    return Preset(filled, frozenset(raw), norm)


def is_preset(entry: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether an entry of `model.component_optims` takes the recommended optimizer."""
    return isinstance(entry, dict) and entry.get("type") == PRESET


def _recommended(name: str, component: ClassChoice) -> dict[str, Any]:
    key, path = component.type, (name, "type")
    preset = getattr(component.chosen, "optimizer_preset", None)
    if not callable(preset):
        raise refusal(f"{key} brings no preset: its class has no optimizer_preset(). Name an optimizer", path, PRESET)
    try:
        recommended = preset(component.params) if inspect.signature(preset).parameters else preset()
    except ConfigError as error:  # of parameters that the class refuses
        raise refusal(f"{key} has no preset for its parameters: {error}", path, PRESET) from error
    except Exception as error:  # a user's code may raise anything
        raise refusal(f"optimizer_preset() of {key} fails: {type(error).__name__}: {error}", path, PRESET) from error
    if not _is_entry(recommended):
        rule = f"optimizer_preset() of {key} must return {{'type': KEY, 'params': {{…}}}}; got {recommended!r}"
        raise refusal(rule, path, PRESET)
    return recommended


def _is_entry(value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict) or not value.keys() <= {"type", "params"}:
        return False
    return isinstance(value.get("type"), str) and isinstance(value.get("params", {}), dict)
