"""Fields about the step of an optimizer: clipping, implementation, caution; and schedules of other options."""

from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..config.errors import nest
from ..config.fields import Fraction, NonNegativeNumber, PositiveNumber
from ..config.validation import Config
from ..kernels.registry import classes_with_state_dtype, classes_with_stochastic_rounding
from ..kernels.switches import Implementation
from ..schedules.base import AnySchedule, Schedule
from ..schedules.horizon import Horizon
from ..transforms.cautious import Caution
from .optimizer_options import OptimizerOptions


class ClippingFields(Config):
    """The norm that gradients are clipped to."""

    grad_clip_norm: NonNegativeNumber | None = None
    """Joint L2 norm that this optimizer's gradients are scaled down to; 0 or null: no clipping.

    A compiled step scales them as it reads them and leaves `grad` as it was, unless there are other step hooks.
    """


class ImplementationFields(OptimizerOptions):
    """How a step is computed, and the type of its state.

    Attributes:
        fused_by_default: Whether `auto` is PyTorch's fused step for parameters that it can update.
    """

    fused_by_default: ClassVar[bool] = False

    implementation: Implementation = "auto"
    """Which implementation of the step runs; auto: the fastest for these parameters, compiled for large ones."""
    state_dtype: Literal["bfloat16"] | None = None
    """Type of Adam's two moments in memory; bfloat16 takes half of float32's; left out: that of the parameters."""
    stochastic_rounding: bool = False
    """Whether bfloat16 parameters are rounded at random in compiled steps, right on average; false: to the nearest."""

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        taken = (
            ("state_dtype", self.state_dtype is not None, classes_with_state_dtype()),
            ("stochastic_rounding", self.stochastic_rounding, classes_with_stochastic_rounding()),
        )
        for name, is_given, classes in taken:
            if is_given and self.optimizer_class not in classes:
                *names, last = [cls.__name__ for cls in classes]
                self.refuse(name, f"is for {', '.join(names)} and {last}, and not for {self.optimizer_class.__name__}")
        return self


class OptionScheduleFields(Config):
    """The schedules of options other than the lr."""

    option_schedules: dict[str, AnySchedule] = Field(default_factory=dict)
    """Schedules of other options than the lr, by option: {weight_decay: {type: KEY, …}, beta1: …}."""

    def _resolved_option_schedules(self, horizon: Horizon | None) -> dict[str, Schedule]:
        """Return the schedules with lengths from `horizon`. Raises ValidationError as `Schedule.resolved` does."""
        schedules = {}
        for option, schedule in self.option_schedules.items():
            try:
                schedules[option] = schedule.resolved(horizon)
            except ValidationError as error:
                raise nest(error, ("option_schedules", option)) from None
        return schedules


class CautionFields(Config):
    """Cautious steps."""

    use_cautious_optimizer: bool = False
    """Whether only coordinates in which update and gradient agree are updated (arXiv:2411.16085)."""
    cautious_eps: PositiveNumber = 1e-8
    """With `use_cautious_optimizer`: added to the share of coordinates that are updated, which divides the step."""
    cautious_min_mean: Fraction = 0.0
    """With `use_cautious_optimizer`: the least value of that share in the division; peers have 1e-3."""

    @model_validator(mode="after")
    def _check_caution(self) -> Self:
        for name in ("cautious_eps", "cautious_min_mean"):
            if not self.use_cautious_optimizer and getattr(self, name) != type(self).model_fields[name].default:
                self.refuse(name, "does nothing without use_cautious_optimizer: true")
        return self

    def _caution(self) -> Caution | None:
        return Caution(self.cautious_eps, self.cautious_min_mean) if self.use_cautious_optimizer else None
