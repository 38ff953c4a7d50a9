"""The experiment's config: one validated tree, whose errors carry the path into the YAML."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, OptimizerFactory, Registry
from optimizer.config import (
    Config,
    Count,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    construct,
    explain,
    looking_in,
    nearest,
    refusal,
)

from .. import builtins  # noqa: F401 registers the built-in parts
from ..errors import ConfigError
from ..interfaces.component import MODEL_REGISTRY
from ..interfaces.dataset import DATASET_REGISTRY, DataSet
from ..interfaces.objective import OBJECTIVE_REGISTRY, Objective
from ..runtime.version import newer, written_by
from .class_choice import Choice
from .init_from import NAME, InitConfig
from .marks import FixedInRun, MayChange
from .override_fields import text_fields
from .overrides import apply_overrides
from .paths import UserPath
from .plugins import import_plugins, search_folders, without_what_follows
from .presets import with_preset
from .yaml_file import read_config_file

_NAME_BYTES = 255
"""What file systems take; a component's name is that of its folder."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³")}
"""Names that no folder on Windows can have, in any case of letters."""


class DataConfig(Choice):
    registry: ClassVar[Registry[DataSet]] = DATASET_REGISTRY

    batch_size: FixedInRun[PositiveCount] = 64
    """Samples an update."""
    drop_last: FixedInRun[bool] = False
    """Whether to leave out the last batch of an epoch if it is short."""
    workers: MayChange[Count] = 0
    """Processes that make the training batches ahead; 0: the run makes them itself, one at a time."""
    pin_memory: MayChange[bool] = False
    """Whether training batches are put into pinned memory, from where a CUDA device copies while it computes."""


class ComponentConfig(Choice):
    registry: ClassVar[Registry[nn.Module]] = MODEL_REGISTRY

    freeze: FixedInRun[bool] = False
    """Whether the component is left as it is: no gradients, eval mode, buffers untouched, no optimizer."""
    init_from: MayChange[InitConfig | None] = None
    """What to start from: PATH, PATH:COMPONENT, or a mapping that says more."""


class OptimConfig(Choice):
    registry: ClassVar[Registry[OptimizerFactory]] = OPTIMIZER_BUILDER_REGISTRY

    every: FixedInRun[PositiveCount] = 1
    """Updates of the run between two steps of the component; its schedule and horizon count its own steps."""

    def own_horizon(self, horizon: Horizon) -> Horizon:
        """Return the length of a run in steps of the component."""
        per_epoch = horizon.steps_per_epoch
        return Horizon(
            -(-horizon.total_steps // self.every), None if per_epoch is None else max(1, round(per_epoch / self.every))
        )

    @cached_property
    def factory(self) -> OptimizerFactory:
        factory: OptimizerFactory = construct(self.chosen, self.params)
        return factory

    def resolved_params(self, horizon: Horizon) -> dict[str, Any]:
        """Return the plain parameters with defaults and lengths filled in, for comparison.

        Args:
            horizon: The length of the run in updates.

        Raises:
            ValidationError: A value is missing, or does not fit the horizon.
        """
        factory: Any = self.factory
        if not isinstance(factory, BaseModel):
            return dict(self.params)
        resolved = factory.resolved(self.own_horizon(horizon)) if hasattr(factory, "resolved") else factory
        return resolved.model_dump(mode="json")

    def _validate_params(self) -> None:
        if issubclass(self.chosen, BaseModel):
            _ = self.factory  # it validates its own fields, and is kept: none is validated twice
        else:
            super()._validate_params()


class ObjectiveConfig(Choice):
    registry: ClassVar[Registry[Objective]] = OBJECTIVE_REGISTRY


class ModelConfig(Config):
    components: FixedInRun[dict[str, ComponentConfig]] = Field(min_length=1)
    """The components by name, in the order in which they are built."""
    component_optims: FixedInRun[dict[str, OptimConfig]] = Field(default_factory=dict)
    """One optimizer for each trainable component."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_presets(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(optims := raw.get("component_optims"), dict):
            filled = {name: with_preset(name, optim, raw.get("components")) for name, optim in optims.items()}
            return {**raw, "component_optims": filled}
        return raw

    @field_validator("components")
    @classmethod
    def _check_names(cls, components: dict[str, ComponentConfig]) -> dict[str, ComponentConfig]:
        folders: dict[str, str] = {}
        taken = nn.ModuleDict()  # an instance has more names than its class
        for name in components:
            if not re.fullmatch(NAME, name) or hasattr(taken, name):
                rule = "cannot be a component's name: use letters, digits, _ and -, and no name that nn.ModuleDict has"
                raise refusal(rule, (name,), name)
            if len(name.encode()) > _NAME_BYTES:
                raise refusal(f"a component's name must have at most {_NAME_BYTES} bytes", (name,), name)
            if name.casefold() in _DEVICES:
                raise refusal("cannot be a component's name: Windows has no folder of this name", (name,), name)
            other = folders.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
            if other != name:
                rule = f"must differ from {other!r} in more than case: on some file systems both are one folder"
                raise refusal(rule, (name,), name)
        return components

    @model_validator(mode="after")
    def _check_optims(self) -> Self:
        for name in self.component_optims:
            if name not in self.components:
                suggestion = nearest(name, list(self.components))
                rule = f"there is no component of this name{suggestion} Components: {', '.join(self.components)}"
                raise refusal(rule, ("component_optims", name), name)
        return self


class BestConfig(Config):
    monitor: MayChange[str] = "val_loss"
    """The evaluation's metric, `val_` and its name."""
    mode: MayChange[Literal["min", "max"]] = "min"
    """Whether the lowest or the highest value is the best."""


class TrainConfig(Config):
    objective: FixedInRun[ObjectiveConfig]
    """What is minimised."""
    total_steps: MayChange[PositiveCount | None] = None
    """Updates in the run; or give `epochs`."""
    epochs: MayChange[PositiveCount | None] = None
    """Passes over the training data; or give `total_steps`."""
    run_dir: MayChange[UserPath]
    """Where the run's files go."""
    device: MayChange[str] = "auto"
    """cpu, cuda, cuda:1 …; auto: a CUDA device if there is one."""
    precision: FixedInRun[Literal["fp32", "bf16", "fp16"]] = "fp32"
    """Autocast's type; fp16 scales the loss."""
    accumulate: FixedInRun[PositiveCount] = 1
    """Batches that make one update, in which every sample weighs the same; an epoch's last update has those left."""
    compile: FixedInRun[bool] = False
    """Whether torch.compile compiles each component's forward and backward pass."""
    grad_clip_norm: FixedInRun[NonNegativeNumber | None] = None
    """Joint L2 norm that the gradients of all components are scaled down to; 0 or null: no clipping."""
    log_every: MayChange[PositiveCount] = 10
    """Updates between two lines of metrics."""
    eval_every: MayChange[PositiveCount | None] = None
    """Updates between two evaluations; left out: at the end only."""
    save_every: MayChange[PositiveCount | None] = None
    """Updates between two checkpoints; left out: by the clock and at the end."""
    save_every_minutes: MayChange[PositiveNumber | None] = 30.0
    """Minutes between two checkpoints, beside those by updates; null: none by the clock."""
    save_async: MayChange[bool] = False
    """Whether training goes on while a copy of what is saved is written."""
    keep_last: MayChange[PositiveCount | None] = None
    """How many checkpoints stay, the newest; left out: all."""
    keep_best: MayChange[BestConfig | None] = None
    """What to save and keep the best checkpoint by, besides; {} for the lowest val_loss."""
    on_nonfinite: MayChange[Literal["stop", "skip", "continue"]] = "stop"
    """What to do when a loss or a gradient is NaN or infinite: stop before the step, leave the step out, or take it."""
    on_save_error: MayChange[Literal["stop", "continue"]] = "stop"
    """What to do when a checkpoint or a line of metrics cannot be written."""
    pictures: MayChange[bool] = False
    """Whether to draw the learning rates and the losses at the end (needs the extra `plot`)."""

    def horizon(self, steps_per_epoch: int) -> Horizon:
        """Return the length of the run over data with this many batches in an epoch. Raises ConfigError."""
        total_steps = self.total_steps or (self.epochs or 0) * steps_per_epoch
        if total_steps >= 2**63:
            raise ConfigError(
                f"train.epochs: must make less than 2^63 updates; {self.epochs} of {steps_per_epoch} make {total_steps}"
            )
        return Horizon(total_steps, steps_per_epoch)

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.total_steps is None) == (self.epochs is None):
            rule = f"give total_steps or epochs, one of them; got {self.total_steps} and {self.epochs}"
            raise refusal(rule, ("total_steps",), self.total_steps)
        return self


class ResumeConfig(Config):
    on_change: MayChange[Literal["keep", "override", "rescale"] | None] = None
    """Which optimizers' configs and ways of training hold where this config and the checkpoint's differ: the
    checkpoint's; this config's; this config's, with each schedule entered where the lr is continuous. Left out:
    the resume stops and shows the differences. Every resume with overrides asks anew."""


class ExperimentConfig(Config):
    """A whole experiment."""

    seed: FixedInRun[Count] = 0
    """Where all randomness starts."""
    plugins: MayChange[list[str]] = Field(default_factory=list)
    """Modules to import first, for what they register: by name, from beside the config or where Python finds them."""
    data: FixedInRun[DataConfig]
    model: FixedInRun[ModelConfig]
    train: FixedInRun[TrainConfig]
    resume: MayChange[ResumeConfig] = Field(default_factory=ResumeConfig)

    @field_validator("plugins", mode="before")
    @classmethod
    def _check_is_a_list(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            raise refusal(f"must be a list of modules: write [{raw}]")
        return raw

    @field_validator("plugins")
    @classmethod
    def _import_plugins(cls, plugins: list[str]) -> list[str]:
        # The field comes before those whose types the plugins register, and so is validated before them.
        import_plugins(plugins)
        return plugins


def load_config(source: Mapping[str, Any] | str | Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Return the validated config of a mapping or a YAML or JSON file, with dotted overrides set.

    Values of a mapping and of overrides may be numpy's and torch's scalars, paths and tuples too. The modules that it
    names are imported: with a file, also from its folder and from the working directory. Within
    `with no_plugins():` none is, and naming one is an error. Raises ConfigError with one line an error.
    """
    raw = source if isinstance(source, Mapping) else read_config_file(Path(source))
    ordered = dict(sorted((overrides or {}).items(), key=lambda item: item[0] != "plugins"))
    try:
        with looking_in([] if isinstance(source, Mapping) else search_folders(Path(source))):
            config = apply_overrides(raw, ordered, _takes_text)
            _refuse_new_names(raw, config, ordered)
            return ExperimentConfig.model_validate(config)
    except ValidationError as error:
        lines = explain(without_what_follows(error))
        if not isinstance(source, Mapping) and any(detail["type"] == "unknown_name" for detail in error.errors()):
            lines += filter(None, [newer(written_by(Path(source)))])
        raise ConfigError("\n".join(lines)) from error


def _takes_text(config: Mapping[str, Any], path: Sequence[str], text: str) -> bool:
    plugins = config.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        with suppress(ValidationError):  # it is reported where the plugins are read
            import_plugins(plugins)
    return text_fields(ExperimentConfig)(config, path, text)


def _refuse_new_names(raw: Mapping[str, Any], config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for an override of a component or an optimizer that is not there, and that it does not make."""
    for key in overrides:
        section, kind, name, *_ = [*key.split("."), "", "", ""]
        if section != "model" or kind not in ("components", "component_optims") or not name:
            continue
        before, now = (
            model.get(kind) if isinstance(model := tree.get("model"), Mapping) else None for tree in (raw, config)
        )
        there = list(before) if isinstance(before, Mapping) else []
        entry = now.get(name) if isinstance(now, Mapping) else None
        if name not in there and isinstance(entry, Mapping) and "type" not in entry:
            raise ConfigError(
                f"--{key}: there is no {name!r} in model.{kind}{nearest(name, there)} To add it, give its type too."
            )
