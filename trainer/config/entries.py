"""The entries of a config that choose a class: data, components, optimizers and objective."""

from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, Field, PrivateAttr
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, OptimizerFactory, Registry
from optimizer.config import Count, PositiveCount, PositiveFraction, construct

from .. import builtins, lerobot_data, lerobot_policies, offline_rl, policies  # noqa: F401 each registers what it holds
from ..interfaces.component import MODEL_REGISTRY
from ..interfaces.dataset import DATASET_REGISTRY, DataSet
from ..interfaces.objective import OBJECTIVE_REGISTRY, Objective
from .class_choice import ClassChoice
from .distributed import Placement, ShardUnits
from .freeze import Freeze
from .init_from import InitConfig
from .marks import FixedInRun, MayChange
from .presets import Preset


class DataConfig(ClassChoice):
    registry: ClassVar[Registry[DataSet]] = DATASET_REGISTRY

    batch_size: FixedInRun[PositiveCount] = 64
    """Samples in a batch, in training and in an evaluation, over all processes. An update takes `train.accumulate`
    batches."""
    drop_last: FixedInRun[bool] = False
    """Whether to leave out the last batch of an epoch if it is short; false: the batch is trained on."""
    workers: MayChange[Count] = 0
    """Processes that make the training batches in advance; 0: the run makes each batch itself when it needs it. If
    several processes train, each has so many."""
    pin_memory: MayChange[bool] = False
    """Whether training batches are put into pinned memory, from which a CUDA device copies in the background."""


class ComponentConfig(ClassChoice):
    registry: ClassVar[Registry[nn.Module]] = MODEL_REGISTRY

    freeze: FixedInRun[Freeze] = False
    """Whether the component stays as it is: no gradients, no optimizer, eval mode, fixed buffers; false: it trains. A
    list freezes the submodules and parameters of these names, with `*`. `{until: 10%}` freezes the component for the
    first tenth of the run; its schedule begins with its first step."""
    ema_of: FixedInRun[str | None] = None
    """The component that this one is a moving average of; its `type` and `params` are that one's. null: none."""
    tau: FixedInRun[PositiveFraction | None] = None
    """With `ema_of`: after each step of that component, average = (1 - tau) · average + tau · weights."""
    moves_with: FixedInRun[str | None] = None
    """With `ema_of`: the component whose steps move the average; null: that of `ema_of`. TD3 moves the averages of its
    critics with the delayed actor."""
    init_from: MayChange[InitConfig | None] = None
    """Saved weights to start from: PATH, PATH:COMPONENT, or a mapping; null: random weights from `seed`."""
    placement: MayChange[Placement] = "replicate"
    """With several processes: replicate: each has the whole component; shard: each has a part of every parameter, which
    are gathered for a forward pass (PyTorch's FSDP)."""
    shard_units: MayChange[ShardUnits] = Field(default_factory=list)
    """With `placement: shard`: submodules, with `*`, such as `["layers.*"]`; the topmost ones count that match. Each is
    gathered when it is called, and what is left of the component with the component; none: the whole at once."""


class OptimConfig(ClassChoice):
    registry: ClassVar[Registry[OptimizerFactory]] = OPTIMIZER_BUILDER_REGISTRY

    every: FixedInRun[PositiveCount] = 1
    """Updates from one step of the component to the next; 1: every update steps it. Its schedule counts its steps."""

    _preset: Preset | None = PrivateAttr(None)

    @property
    def preset(self) -> Preset | None:
        """The preset that the entry was filled in from; None: none, or the config is that of a run."""
        return self._preset

    def mark(self, preset: Preset) -> None:
        """Note the preset that the entry was filled in from."""
        self._preset = preset

    @cached_property
    def factory(self) -> OptimizerFactory:
        factory: OptimizerFactory = construct(self.chosen, self.params)
        return factory

    def resolved_params(self, horizon: Horizon) -> dict[str, Any]:
        """Return the plain parameters with defaults and lengths filled in, for comparison.

        Args:
            horizon: The length of the run in steps of the component.

        Raises:
            ValidationError: A value is missing, or does not fit the horizon.
        """
        factory: object = self.factory
        if not isinstance(factory, BaseModel):
            return dict(self.params)
        resolved = factory.resolved(horizon) if hasattr(factory, "resolved") else factory
        return resolved.model_dump(mode="json")

    def _validate_params(self) -> None:
        if issubclass(self.chosen, BaseModel):
            _ = self.factory  # it validates its own fields, and is kept: none is validated twice
        else:
            super()._validate_params()


class ObjectiveConfig(ClassChoice):
    registry: ClassVar[Registry[Objective]] = OBJECTIVE_REGISTRY
