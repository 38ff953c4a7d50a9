"""`model.policy`: one module, taken apart into components."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from optimizer import Registry
from optimizer.config import Config

from ..interfaces.component import MODEL_REGISTRY
from .class_choice import ClassChoice
from .init_from import InitConfig
from .marks import FixedInRun, MayChange


class PartConfig(Config):
    """A part of the policy that is a component. Text, or a list, stands for a mapping with these `modules` alone."""

    modules: FixedInRun[list[str]] = Field(min_length=1)
    """Names of submodules and parameters of the policy, with `*`: `[model.backbone]`, `["model.vae_encoder*"]`."""
    freeze: FixedInRun[bool | list[str]] = False
    """As in `model.components`."""
    init_from: MayChange[InitConfig | None] = None
    """As in `model.components`. It comes after the policy's own."""


class PolicyConfig(ClassChoice):
    """One module whose parts are components. What no part claims is the component `policy`."""

    registry: ClassVar[Registry[nn.Module]] = MODEL_REGISTRY

    path: MayChange[str | None] = None
    """A trained policy in place of `type`: a run, LeRobot's `pretrained_model` folder, or `hf://NAME` of a repository.
    `params` that are given win over its own. A run's config has the `type`, `params` and `init_from` that it led to."""
    normalization: FixedInRun[dict[str, str] | None] = None
    """Modes by type of feature, such as `{STATE: MIN_MAX}`; null: those of the policy."""
    parts: FixedInRun[dict[str, PartConfig]] = Field(default_factory=dict)
    """Components by name, each with the submodules that it consists of."""
    freeze: FixedInRun[bool | list[str]] = False
    """As in `model.components`, of what no part claims."""
    init_from: MayChange[InitConfig | None] = None
    """Saved weights of the whole policy to start from; null: those that its class begins with."""
