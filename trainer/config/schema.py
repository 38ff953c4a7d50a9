"""The experiment's config: one validated tree, whose errors carry the path into the YAML."""

from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from optimizer import Horizon, UnknownKeyError
from optimizer.config import (
    UNKNOWN_KEY,
    Config,
    Count,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    counted,
    refusal,
    together,
)

from .. import builtins, lerobot_data, lerobot_policies, offline_rl, policies, simulation  # noqa: F401 each registers what it holds
from ..errors import ConfigError
from ..interfaces.metrics_sink import SINK_REGISTRY
from ..splitting.parts import REST
from .averages import EmaConfig, check_averages, with_sources
from .distributed import DistributedConfig
from .entries import ComponentConfig, DataConfig, ObjectiveConfig, OptimConfig
from .evaluation import BestConfig, EarlyStoppingConfig, EvaluationConfig
from .freeze import FreezeUntil
from .marks import FixedInRun, MayChange
from .names import check_names, check_there
from .paths import UserPath
from .plugins import import_plugins
from .policy import PartConfig, PolicyConfig
from .policy_defaults import joint_clip_norm, with_objective
from .presets import presets_of, with_presets, without_presets
from .pretrained import SharedConfig
from .turns import Turns


def _with_strangers(error: ValidationError, raw: object, classes: Collection[str]) -> ValidationError:
    """Return the error of the optimizers together with that of a name which no component has."""
    try:
        check_there(raw if isinstance(raw, dict) else (), classes)
    except ValidationError as second:
        return together(error, second)
    return error


class ModelConfig(Config):
    policy: FixedInRun[PolicyConfig | None] = None
    """One module that is taken apart into components; null: none."""
    components: FixedInRun[dict[str, ComponentConfig]] = Field(default_factory=dict)
    """The components by name, in the order in which they are built: at least one, unless there is a `policy`."""
    component_optims: FixedInRun[dict[str, OptimConfig]] = Field(default_factory=dict)
    """The optimizers by the name of their component: one for each that trains. An entry for a frozen one is skipped.
    `type: preset` takes the optimizer that the component's class recommends."""

    @property
    def entries(self) -> dict[str, ComponentConfig | PolicyConfig | PartConfig]:
        """The entry of each component, by name: the policy's rest, its parts, and the other components."""
        policy: dict[str, ComponentConfig | PolicyConfig | PartConfig] = {}
        if self.policy is not None:
            policy = {REST: self.policy, **self.policy.parts}
        return policy | self.components

    def turns(self, name: str, horizon: Horizon) -> Turns:
        """Return the updates at which the component `name`, which has an optimizer, is stepped.

        Args:
            name: The component's.
            horizon: The length of the run in updates.

        Raises:
            ConfigError: It would be frozen for the whole run.
        """
        freeze, every = self.entries[name].freeze, self.component_optims[name].every
        if not isinstance(freeze, FreezeUntil):
            return Turns(every)
        first = freeze.first_update(horizon)
        if first >= horizon.total_steps:
            rule = f"must be less than the {counted(horizon.total_steps, 'update')} of the run; got {freeze.until}"
            remedy = "freeze: true freezes it for the whole run."
            raise ConfigError(f"{self.config_paths[name]}.freeze.until: {rule}. {remedy}")
        return Turns(every, first)

    @field_validator("components", mode="before")
    @classmethod
    def _fill_in_averages(cls, raw: object, info: ValidationInfo) -> object:
        policy: PolicyConfig | None = info.data.get("policy")
        of_policy = [] if policy is None else [REST, *policy.parts]
        return with_sources(raw, of_policy) if isinstance(raw, dict) else raw

    @field_validator("components")
    @classmethod
    def _check_averages(
        cls, components: dict[str, ComponentConfig], info: ValidationInfo
    ) -> dict[str, ComponentConfig]:
        policy: PolicyConfig | None = info.data.get("policy")
        check_averages(components, [] if policy is None else [REST, *policy.parts])
        return components

    @property
    def config_paths(self) -> dict[str, str]:
        """The path of each of these entries in the config."""
        paths = {name: f"model.components.{name}" for name in self.components}
        if self.policy is not None:
            paths |= {REST: "model.policy"} | {name: f"model.policy.parts.{name}" for name in self.policy.parts}
        return paths

    @field_validator("components")
    @classmethod
    def _check_names(cls, components: dict[str, ComponentConfig], info: ValidationInfo) -> dict[str, ComponentConfig]:
        policy: PolicyConfig | None = info.data.get("policy")
        taken = dict.fromkeys([] if policy is None else policy.parts, "a part of model.policy")
        check_names(components, taken if policy is None else {REST: "model.policy", **taken})
        return components

    @field_validator("component_optims", mode="wrap")
    @classmethod
    def _fill_in_presets(
        cls, raw: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> dict[str, OptimConfig]:
        if not {"policy", "components"} <= info.data.keys():
            # Their errors are reported, and no error that follows from them.
            return dict(handler(without_presets(raw)))
        policy: PolicyConfig | None = info.data["policy"]
        of_policy = [] if policy is None else [REST, *policy.parts]
        classes = {**dict.fromkeys(of_policy, policy), **info.data["components"]}
        presets = presets_of(raw, classes, joint=of_policy)
        try:
            optims: dict[str, OptimConfig] = handler(with_presets(raw, presets))
        except ValidationError as error:
            raise _with_strangers(error, raw, classes) from None
        check_there(optims, classes)
        for name, preset in presets.items():
            optims[name].mark(preset)
        return optims

    @model_validator(mode="after")
    def _check_there_is_one(self) -> Self:
        if self.policy is None and not self.components:
            raise refusal("must have at least one component, unless there is a policy", ("components",), {})
        for name, entry in self.entries.items():
            if isinstance(entry.freeze, FreezeUntil) and entry.placement == "shard":
                path = tuple(self.config_paths[name].split(".")[1:])
                raise refusal("must be replicate with freeze.until; got shard", (*path, "placement"), "shard")
        return self


class TrainConfig(Config):
    objective: FixedInRun[ObjectiveConfig]
    """The objective, which computes the losses to minimise. With `model.policy` it may be left out: lerobot_policy for
    a policy of LeRobot, else policy_loss, which takes the loss that the policy's own forward pass returns."""
    total_steps: MayChange[PositiveCount | None] = None
    """Length of the run in updates. Exactly one of `total_steps` and `epochs` is given."""
    epochs: MayChange[PositiveCount | None] = None
    """Length of the run in passes over the training samples. Exactly one of `total_steps` and `epochs` is given."""
    run_dir: MayChange[UserPath]
    """Directory of the run's files; `~` and `$NAME` are filled in. A relative path starts at the folder of the file in
    which it is written; on the command line, at the working directory."""
    device: MayChange[str] = "auto"
    """Device to train on: for example `cpu`, `cuda` or `cuda:1`; auto: the current CUDA device if any, else the CPU."""
    precision: FixedInRun[Literal["fp32", "bf16", "fp16"]] = "fp32"
    """Number type of the forward pass: bf16 and fp16 by torch.autocast; fp32: without it. Weights keep their type. fp16
    scales the loss, and skips an update whose gradients overflow."""
    accumulate: FixedInRun[PositiveCount] = 1
    """Batches in one update; every sample in it weighs the same. An epoch's last update has the remaining ones."""
    compile: FixedInRun[bool] = False
    """Whether torch.compile compiles each component's forward and backward pass."""
    grad_clip_norm: FixedInRun[NonNegativeNumber | None] = None
    """Joint L2 norm that the gradients of all components are scaled down to; 0 or null: no clipping."""
    log_every: MayChange[PositiveCount] = 10
    """Updates from one training line in metrics.jsonl to the next. The first and the last update always have one."""
    log: MayChange[list[str]] = Field(default=["jsonl"])
    """Places that metrics go to, by key. One is always jsonl, metrics.jsonl in the run directory: a resume reads it."""
    eval_every: MayChange[PositiveCount | None] = None
    """Updates from one evaluation on the held-out samples to the next; null: none before the one at the end."""
    evaluation: MayChange[EvaluationConfig | None] = None
    """Environment in which the policy is evaluated, and how; null: none. The objective must be a policy."""
    save_every: MayChange[PositiveCount | None] = None
    """Updates from one checkpoint to the next; null: none by updates. There is always one at the end."""
    save_every_minutes: MayChange[PositiveNumber | None] = 30.0
    """Minutes from one checkpoint to the next, in addition to those by updates; null: none by the clock."""
    save_async: MayChange[bool] = False
    """Whether training continues while a checkpoint is written, from a copy of it in CPU memory."""
    keep_last: MayChange[PositiveCount | None] = None
    """Number of newest checkpoints to keep; null: all. The best one, and the newest finite one, are always kept."""
    keep_best: MayChange[BestConfig | None] = None
    """Metric by which the best checkpoint is saved and kept as well; `{}`: the lowest val_loss; null: no best one."""
    early_stopping: MayChange[EarlyStoppingConfig | None] = None
    """Metric whose standstill ends the run before its time, as done; null: none does."""
    on_nonfinite: MayChange[Literal["stop", "skip", "continue"]] = "stop"
    """At a loss or gradient that is NaN or infinite: stop ends the run before the step, skip leaves the step out,
    continue takes the step; nothing is checked."""
    on_save_error: MayChange[Literal["stop", "continue"]] = "stop"
    """If a checkpoint or a line of metrics cannot be written: stop ends the run, continue reports it and trains on."""
    ema: FixedInRun[EmaConfig | None] = None
    """Moving averages of weights, for evaluation, `keep_best` and export; null: none."""
    pictures: MayChange[bool] = False
    """Whether to draw learning_rates.png and losses.png at the end, and with `evaluation` success.png and rollouts.png;
    true needs the extra `plot`."""

    def horizon(self, steps_per_epoch: int) -> Horizon:
        """Return the length of the run.

        Args:
            steps_per_epoch: Updates in an epoch.

        Raises:
            ConfigError: It has too many updates.
        """
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
        for index, key in enumerate(keys):
            if "." in key:  # a class, which is imported while the config's folder is searched
                try:
                    SINK_REGISTRY[key]
                except UnknownKeyError as error:
                    raise refusal(str(error), (index,), key, UNKNOWN_KEY) from None
        return keys

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.total_steps is None) == (self.epochs is None):
            given = "neither" if self.epochs is None else f"{self.total_steps} and {self.epochs}"
            rule = f"give total_steps or epochs, one of them; got {given}"
            raise refusal(rule, ("total_steps",), self.total_steps)
        return self


class ResumeConfig(Config):
    on_change: MayChange[Literal["keep", "override", "rescale"] | None] = None
    """Which values hold where this config and the checkpoint's differ: keep: the checkpoint's; override: this config's;
    rescale: this config's, with each schedule entered where its lr is continuous. null: the resume stops and shows the
    differences. It holds for one resume: each resume with overrides asks again."""


class ExperimentConfig(SharedConfig):
    """A whole experiment, as one config file holds it."""

    seed: FixedInRun[Count] = 0
    """Seed of all random numbers: initial weights, order of the samples, dropout."""
    plugins: MayChange[list[str]] = Field(default_factory=list)
    """Modules to import first, for the keys that they register. They are looked for beside the config too."""
    data: FixedInRun[DataConfig]
    """The data set, and how its samples become batches."""
    model: FixedInRun[ModelConfig]
    """The components and their optimizers."""
    train: FixedInRun[TrainConfig]
    """The objective, the length of the run, the device, and the rules for logging and saving."""
    distributed: MayChange[DistributedConfig] = Field(default_factory=DistributedConfig)
    """How processes that train the run together, under torchrun, work together."""
    resume: MayChange[ResumeConfig] = Field(default_factory=ResumeConfig)
    """How `innerstep resume` treats a config that differs from the checkpoint's."""

    @field_validator("train", mode="before")
    @classmethod
    def _fill_in_objective(cls, raw: object, info: ValidationInfo) -> object:
        model: ModelConfig | None = info.data.get("model")
        return with_objective(raw, None if model is None else model.policy, is_known=model is not None)

    @field_validator("train")
    @classmethod
    def _clip_jointly(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        model: ModelConfig | None = info.data.get("model")
        if model is None or "grad_clip_norm" in train.model_fields_set:
            return train
        norm = joint_clip_norm({name: optim.preset for name, optim in model.component_optims.items()})
        return train if norm is None else train.model_copy(update={"grad_clip_norm": norm})

    def in_place(self) -> Self:
        """Return the config with an absolute run directory: users' code may change the working directory."""
        train = self.train.model_copy(update={"run_dir": self.train.run_dir.absolute()})
        return self.model_copy(update={"train": train})

    def resolved(self) -> dict[str, Any]:
        """Return the plain values with every default filled in, also those of optimizers."""
        values = super().resolved()
        for name, optim in self.model.component_optims.items():
            factory: object = optim.factory
            if isinstance(factory, BaseModel):
                values["model"]["component_optims"][name]["params"] = factory.model_dump(mode="json")
        return values

    @field_validator("plugins", mode="before")
    @classmethod
    def _check_is_a_list(cls, raw: object) -> object:
        if isinstance(raw, str):
            raise refusal(f"must be a list of modules: write [{raw}]")
        return raw

    @field_validator("plugins")
    @classmethod
    def _import_plugins(cls, plugins: list[str]) -> list[str]:
        # The field comes before those whose types the plugins register, and so is validated before them.
        import_plugins(plugins)
        return plugins
