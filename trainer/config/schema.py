"""The experiment's config: one validated tree, whose errors carry the path into the YAML."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
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

    batch_size: PositiveCount = 64
    """Samples in a batch, in training and in an evaluation. An update takes `train.accumulate` batches."""
    drop_last: bool = False
    """Whether to leave out the last batch of an epoch if it is short; false: the batch is trained on."""
    workers: Count = 0
    """Processes that make the training batches in advance; 0: the run makes each batch itself when it needs it."""
    pin_memory: bool = False
    """Whether training batches are put into pinned memory, from which a CUDA device copies in the background."""


class ComponentConfig(Choice):
    registry: ClassVar[Registry[nn.Module]] = MODEL_REGISTRY

    freeze: bool = False
    """Whether the component stays as it is: no gradients, no optimizer, eval mode, fixed buffers; false: it trains."""
    init_from: InitConfig | None = None
    """Saved weights to start from: PATH, PATH:COMPONENT, or a mapping; null: random weights from `seed`."""


class OptimConfig(Choice):
    registry: ClassVar[Registry[OptimizerFactory]] = OPTIMIZER_BUILDER_REGISTRY

    every: PositiveCount = 1
    """Updates from one step of the component to the next; 1: every update steps it. Its schedule counts its steps."""

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


class ObjectiveConfig(Choice):
    registry: ClassVar[Registry[Objective]] = OBJECTIVE_REGISTRY


class ModelConfig(Config):
    components: dict[str, ComponentConfig] = Field(min_length=1)
    """The components by name, at least one, in the order in which they are built."""
    component_optims: dict[str, OptimConfig] = Field(default_factory=dict)
    """The optimizers by the name of their component: one for each that trains. An entry for a frozen one is skipped.
    `type: preset` takes the optimizer that the component's class recommends."""

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
    monitor: str = "val_loss"
    """Metric of an evaluation to compare: `val_` and its name. The default is the loss on the held-out samples."""
    mode: Literal["min", "max"] = "min"
    """Whether the lowest (min) or the highest (max) value is the best."""


class TrainConfig(Config):
    objective: ObjectiveConfig
    """The objective, which computes the losses to minimise."""
    total_steps: PositiveCount | None = None
    """Length of the run in updates. Exactly one of `total_steps` and `epochs` is given."""
    epochs: PositiveCount | None = None
    """Length of the run in passes over the training samples. Exactly one of `total_steps` and `epochs` is given."""
    run_dir: UserPath
    """Directory of the run's files; `~` and `$NAME` are filled in. A relative path starts at the working directory."""
    device: str = "auto"
    """Device to train on: `cpu`, `cuda` or `cuda:1`, say; auto: the current CUDA device if any, else the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number type of the forward pass: bf16 and fp16 by torch.autocast; fp32: without it. Weights keep their type. fp16
    scales the loss, and skips an update whose gradients overflow."""
    accumulate: PositiveCount = 1
    """Batches in one update; every sample in it weighs the same. An epoch's last update has the remaining ones."""
    compile: bool = False
    """Whether torch.compile compiles each component's forward and backward pass."""
    grad_clip_norm: NonNegativeNumber | None = None
    """Joint L2 norm that the gradients of all components are scaled down to; 0 or null: no clipping."""
    log_every: PositiveCount = 10
    """Updates from one training line in metrics.jsonl to the next. The first and the last update always have one."""
    log: list[str] = Field(default=["jsonl"])
    """Places that metrics go to, by key. One is always jsonl, metrics.jsonl in the run directory: a resume reads it."""
    eval_every: PositiveCount | None = None
    """Updates from one evaluation on the held-out samples to the next; null: none before the one at the end."""
    save_every: PositiveCount | None = None
    """Updates from one checkpoint to the next; null: none by updates. There is always one at the end."""
    save_every_minutes: PositiveNumber | None = 30.0
    """Minutes from one checkpoint to the next, in addition to those by updates; null: none by the clock."""
    save_async: bool = False
    """Whether training continues while a checkpoint is written, from a copy of it in CPU memory."""
    keep_last: PositiveCount | None = None
    """Number of newest checkpoints to keep; null: all. The best one, and the newest finite one, are always kept."""
    keep_best: BestConfig | None = None
    """Metric by which the best checkpoint is saved and kept as well; `{}`: the lowest val_loss; null: no best one."""
    on_nonfinite: Literal["stop", "skip", "continue"] = "stop"
    """At a loss or gradient that is NaN or infinite: stop ends the run before the step, skip leaves the step out,
    continue takes the step; nothing is checked."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """If a checkpoint or a line of metrics cannot be written: stop ends the run, continue reports it and trains on."""
    pictures: bool = False
    """Whether to draw learning_rates.png and losses.png at the end; true needs the extra `plot`."""

    def horizon(self, steps_per_epoch: int) -> Horizon:
        """Return the length of the run over data with this many batches in an epoch. Raises ConfigError."""
        total_steps = self.total_steps or (self.epochs or 0) * steps_per_epoch
        if total_steps >= 2**63:
            raise ConfigError(
                f"train.epochs: must make less than 2^63 updates; {self.epochs} of {steps_per_epoch} make {total_steps}"
            )
        return Horizon(total_steps, steps_per_epoch)

    @field_validator("log")
    @classmethod
    def _check_log(cls, keys: list[str]) -> list[str]:
        if "jsonl" not in keys:
            raise refusal(f"must contain jsonl, which a resume reads: [{', '.join(['jsonl', *keys])}]", (), keys)
        if len(set(keys)) < len(keys):
            raise refusal("must name each place once", (), keys)
        return keys

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.total_steps is None) == (self.epochs is None):
            rule = f"give total_steps or epochs, one of them; got {self.total_steps} and {self.epochs}"
            raise refusal(rule, ("total_steps",), self.total_steps)
        return self


class ResumeConfig(Config):
    on_change: Literal["keep", "override", "rescale"] | None = None
    """Which values hold where this config and the checkpoint's differ: keep: the checkpoint's; override: this config's;
    rescale: this config's, with each schedule entered where its lr is continuous. null: the resume stops and shows the
    differences. It holds for one resume: each resume with overrides asks again."""


class ExperimentConfig(Config):
    """A whole experiment: what one config file holds."""

    seed: Count = 0
    """Seed of all random numbers: initial weights, order of the samples, dropout."""
    plugins: list[str] = Field(default_factory=list)
    """Modules to import first, for the keys that they register. They are looked for beside the config too."""
    data: DataConfig
    """The data set, and how its samples become batches."""
    model: ModelConfig
    """The components and their optimizers."""
    train: TrainConfig
    """The objective, the length of the run, the device, and what is logged and saved."""
    resume: ResumeConfig = Field(default_factory=ResumeConfig)
    """How `innerstep resume` treats a config that differs from the checkpoint's."""

    def in_place(self) -> Self:
        """Return the config with an absolute run directory: users' code may change the working directory."""
        train = self.train.model_copy(update={"run_dir": self.train.run_dir.absolute()})
        return self.model_copy(update={"train": train})

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
