"""`model.policy`: one module, taken apart into components."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, field_validator, model_validator
from torch import nn

from optimizer import Registry
from optimizer.config import Config, refusal

from ..interfaces.component import MODEL_REGISTRY
from ..splitting.parts import REST
from .class_choice import ClassChoice
from .distributed import Placement, ShardUnits
from .freeze import Freeze
from .init_from import InitConfig
from .marks import FixedInRun, MayChange
from .names import check_names
from .paths import SourcePath
from .policy_source import with_source, without_code_of


class PartConfig(Config):
    """A part of the policy that is a component. Text, or a list, stands for a mapping with these `modules` alone."""

    model_config = ConfigDict(json_schema_extra={"type": ["object", "string", "array"], "items": {"type": "string"}})

    modules: FixedInRun[list[str]] = Field(min_length=1)
    """Names of submodules and parameters of the policy, with `*`: `[model.backbone]`, `["model.vae_encoder*"]`. One
    submodule alone is the component, with its own names; of several the names stay those in the policy."""
    freeze: FixedInRun[Freeze] = False
    """As in `model.components`."""
    init_from: MayChange[InitConfig | None] = None
    """As in `model.components`. It comes after the policy's own."""
    placement: MayChange[Placement] = "replicate"
    """As in `model.components`."""
    shard_units: MayChange[ShardUnits] = Field(default_factory=list)
    """As in `model.components`, by the names in the component."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: object) -> object:
        return spelled_out(raw)

    @field_validator("modules", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _from_one_name(cls, raw: object) -> object:
        return [raw] if isinstance(raw, str) else raw


class PolicyConfig(ClassChoice):
    """One module whose parts are components. Everything that no part claims is the component `policy`."""

    registry: ClassVar[Registry[nn.Module]] = MODEL_REGISTRY

    path: MayChange[SourcePath | None] = None
    """A trained policy in place of `type`: a run, LeRobot's `pretrained_model` folder, or `hf://NAME` of a repository.
    `params` that are given win over its own. A run's config has the `type`, `params` and `init_from` that it led to."""
    normalization: FixedInRun[dict[str, str] | None] = None
    """Modes by type of feature, such as `{STATE: MIN_MAX}`; null: those of the policy."""
    parts: FixedInRun[dict[str, PartConfig]] = Field(default_factory=dict)
    """Components by name, each with the submodules that it consists of."""
    freeze: FixedInRun[Freeze] = False
    """As in `model.components`, for the component `policy`."""
    init_from: MayChange[InitConfig | None] = None
    """Saved weights of the whole policy to start from, whether or not it is in parts there; null: those that its class
    begins with."""
    placement: MayChange[Placement] = "replicate"
    """As in `model.components`, for the component `policy`."""
    shard_units: MayChange[ShardUnits] = Field(default_factory=list)
    """As in `model.components`, by the names in the whole policy."""

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_path(cls, raw: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(raw, dict) or raw.get("path") is None:
            return handler(raw)
        with without_code_of(raw["path"]):
            return handler(with_source(raw))

    @field_validator("parts")
    @classmethod
    def _check_names(cls, parts: dict[str, PartConfig]) -> dict[str, PartConfig]:
        check_names(parts, {REST: "the rest of the policy"})
        return parts

    @model_validator(mode="after")
    def _check_init_from(self) -> Self:
        init = self.init_from
        if self.parts and init is not None and (init.optimizer or init.schedule):
            field = "optimizer" if init.optimizer else "schedule"
            rule = "must be false for a policy in parts, each of which has an optimizer: give it in a part's init_from"
            raise refusal(rule, ("init_from", field), True)
        return self


def spelled_out(part: object) -> object:
    """Return a part as a mapping if it is text or a list."""
    return {"modules": part} if isinstance(part, str | list) else part


def with_parts_spelled_out(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config whose parts of the policy are mappings, so that an override can set a field of one."""
    model = raw.get("model")
    policy = model.get("policy") if isinstance(model, Mapping) else None
    parts = policy.get("parts") if isinstance(policy, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(policy, Mapping) or not isinstance(parts, Mapping):
        return raw
    mappings = {name: spelled_out(part) for name, part in parts.items()}
    return {**raw, "model": {**model, "policy": {**policy, "parts": mappings}}}
