"""The config's `init_from`: the saved weights that a component starts from."""

import os
import re
from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from optimizer.config import Config, refusal

from .marks import MayChange
from .paths import SourcePath, path_of

NAME = r"[A-Za-z_][\w-]*"
"""Pattern of a component's name."""


class InitConfig(Config):
    """The source of a component's initial weights. Text stands for a mapping with this `path` alone."""

    model_config = ConfigDict(json_schema_extra={"type": ["object", "string"]})

    from_text: ClassVar[bool] = True
    """An override takes its text exactly as it was typed."""

    path: MayChange[SourcePath]
    """A run (its newest checkpoint is taken), a checkpoint, a component's folder in one, a .safetensors file, or
    hf://ORG/NAME[@REVISION] of a repository with one of these. `:COMPONENT` at its end sets `component`."""
    component: MayChange[str | None] = None
    """The component's name in the source; null: the same name as here."""
    weights: MayChange[bool] = True
    """Whether to load the weights and buffers."""
    ema: MayChange[bool] = False
    """Whether the weights are the averages of the source's `train.ema`; false: those that it trains at."""
    optimizer: MayChange[bool] = False
    """Whether to load the optimizer's state. Its options (lr, betas, …) stay those of this config."""
    schedule: MayChange[bool] = False
    """Whether to load the schedule's position; false: the schedule starts at update 0."""
    strict: MayChange[bool] = True
    """Whether the names and shapes of all tensors must match; false: those that match are loaded."""
    rename: MayChange[dict[str, str]] = Field(default_factory=dict)
    """New names of tensors by their names in the source, with `*`: `{"encoder.*": "backbone.*"}`. The first rule that
    matches a name holds."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: object) -> object:
        raw = {"path": raw} if isinstance(raw, str) else raw
        if isinstance(raw, dict) and isinstance(raw.get("path"), str) and raw.get("component") is None:
            path, separator, component = raw["path"].rpartition(":")
            if separator and re.fullmatch(NAME, component) and not _exists(raw["path"]):
                return {**raw, "path": path, "component": component}
        return raw

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for pattern, name in self.rename.items():
            if pattern.count("*") != name.count("*"):
                raise refusal(f"must have as many * as the name there; got {name!r}", ("rename", pattern), name)
        if not (self.weights or self.optimizer or self.schedule):
            raise refusal("loads nothing: set weights, optimizer or schedule to true", ())
        if self.ema and not self.weights:
            raise refusal("must be false with weights: false, as averages are weights; got true", ("ema",), True)
        return self


def _exists(text: str) -> bool:
    path = path_of(text)
    return path is not None and os.path.exists(path)
