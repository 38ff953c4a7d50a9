"""`train.evaluation`, `keep_best` and `early_stopping`: episodes in an environment, and what a metric decides."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optimizer import Registry
from optimizer.config import Config, Count, NonNegativeNumber, PositiveCount, refusal
from optimizer.types import JsonObject

from ..interfaces.evaluation import ENVIRONMENT_REGISTRY, Environment
from ..interfaces.objective import HELD_OUT_PREFIX
from .class_choice import ClassChoice
from .marks import MayChange

_MOST_ENVIRONMENTS = 16


class BestConfig(Config):
    monitor: MayChange[str] = "val_loss"
    """Metric of an evaluation to compare: `val_` and its name. The default is the loss on the held-out samples."""
    mode: MayChange[Literal["min", "max"]] = "min"
    """Whether the lowest (min) or the highest (max) value is the best."""

    @property
    def metric(self) -> str:
        """The name of the metric in an evaluation."""
        return self.monitor.removeprefix(HELD_OUT_PREFIX)


class EarlyStoppingConfig(BestConfig):
    patience: MayChange[PositiveCount]
    """Evaluations in a row without an improvement after which the run ends."""
    min_delta: MayChange[NonNegativeNumber] = 0.0
    """How much better than the best value so far a value must be to count as an improvement."""


class EvaluationConfig(ClassChoice):
    registry: ClassVar[Registry[Environment]] = ENVIRONMENT_REGISTRY

    type: MayChange[str]
    """Key of an environment, or its dotted path; gym: any environment of gymnasium, by `params.id`."""
    params: MayChange[dict[str, Any]] = Field(default_factory=dict)
    """Parameters of the environment (`innerstep describe gym` lists them). Those left out have its defaults."""
    n_episodes: MayChange[PositiveCount] = 50
    """Episodes of an evaluation."""
    batch_size: MayChange[PositiveCount | None] = None
    """Environments that run at a time, at most `n_episodes`; null: all episodes, up to 16. If several processes
    train, each runs a share of the episodes, in at most so many environments."""
    use_async_envs: MayChange[bool] = False
    """Whether each environment runs in a separate process; false: one after the other, in the process of the run."""
    every: MayChange[PositiveCount | None] = None
    """Updates from one evaluation in the environment to the next; null: none before the one at the end."""
    seed: MayChange[Count] = 100_000
    """Seed of the first episode; episode k has `seed` + k, in each evaluation. The default is far from the small seeds
    that demonstrations are usually recorded with."""
    video: MayChange[Count] = 0
    """Episodes, from the first one, that are recorded at the end as RUN/videos/episode_SEED.mp4; needs an environment
    that renders, and the extra `robot`."""

    @property
    def environments(self) -> int:
        """How many environments run at a time."""
        return self.batch_size or min(self.n_episodes, _MOST_ENVIRONMENTS)

    @property
    def seeds(self) -> range:
        """The seeds of the episodes."""
        return range(self.seed, self.seed + self.n_episodes)

    @property
    def settings(self) -> JsonObject:
        """The fields that decide the metrics of a policy. A resume may change them."""
        return self.model_dump(mode="json", include={"type", "params", "n_episodes", "seed"})

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.batch_size is not None and self.batch_size > self.n_episodes:
            rule = f"batch size cannot be larger than number of episodes: must be <= {self.n_episodes}, n_episodes"
            raise refusal(f"{rule}; got {self.batch_size}", ("batch_size",), self.batch_size)
        if self.video > self.n_episodes:
            rule = f"must be <= {self.n_episodes}, n_episodes; got {self.video}"
            raise refusal(rule, ("video",), self.video)
        return self
