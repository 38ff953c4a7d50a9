"""Defaults of the section `train` that follow from `model.policy`."""

from collections.abc import Mapping
from typing import Any

from optimizer.config import arguments_model, refusal, shown_value

from ..interfaces.objective import OBJECTIVE_REGISTRY
from .policy import PolicyConfig
from .presets import Preset

_LEROBOT = "lerobot."
_OBJECTIVES = ("lerobot_policy", "policy_loss")
"""The objectives of a policy that computes its own loss."""
_MODES = "normalization_mapping"


def with_objective(raw: object, policy: PolicyConfig | None, is_known: bool) -> object:
    """Return a raw section `train` with the objective of the policy, and the modes in `model.policy.normalization`.

    Args:
        raw: The section.
        policy: The config's `model.policy`.
        is_known: Whether there is no mistake in the section `model`.

    Raises:
        ValidationError: The objective has other modes than the policy, or takes none.
    """
    if not isinstance(raw, Mapping) or (policy is None and is_known):
        return raw
    objective = raw.get("objective")
    if objective is None:
        is_lerobot = policy is not None and policy.type.lower().startswith(_LEROBOT)
        objective = {"type": _OBJECTIVES[0] if is_lerobot else _OBJECTIVES[1]}
    if policy is not None and policy.normalization is not None and isinstance(objective, Mapping):
        objective = _with_modes(objective, policy.normalization)
    return {**raw, "objective": objective}


def joint_clip_norm(presets: Mapping[str, Preset | None]) -> float | None:
    """Return the norm that the presets of a policy's parts recommend for all of them; None: none."""
    norms = [preset.joint_clip_norm for preset in presets.values() if preset is not None]
    return next((norm for norm in norms if norm is not None), None)


def _with_modes(objective: Mapping[str, Any], modes: Mapping[str, str]) -> Mapping[str, Any]:
    kind, params = objective.get("type"), objective.get("params") or {}
    if not isinstance(kind, str) or not isinstance(params, Mapping):
        return objective
    if not _takes_modes(kind):
        rule = (
            f"{shown_value(kind)} has no {_MODES}, so model.policy.normalization would have no effect: set it to null"
        )
        raise refusal(rule, ("objective", "type"), kind)
    given = params.get(_MODES, modes)
    if given != modes:
        rule = f"is {given}, and model.policy.normalization is {dict(modes)}. Leave one of the two lines out"
        raise refusal(rule, ("objective", "params", _MODES), given)
    return {**objective, "params": {**params, _MODES: dict(modes)}}


def _takes_modes(objective: str) -> bool:
    try:
        model = arguments_model(OBJECTIVE_REGISTRY[objective])
    except Exception:  # the class may be the user's, and fails again where it is validated
        return True
    names = {field.alias or name for name, field in model.model_fields.items()}
    return _MODES in names or model.model_config.get("extra") == "allow"
