"""PyTorch's own schedulers by class name, each run as PyTorch's object inside the step."""

import inspect
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import AfterValidator, Field, create_model, model_validator
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.optim.swa_utils import SWALR

from optimizer.curve import Curve
from optimizer.lengths import PositiveLength
from optimizer.named_function import NamedFunction, function_named
from optimizer.schedule import SCHEDULE_REGISTRY, NestedSchedule, Schedule
from optimizer.signatures import plain_types
from optimizer.validation import NonNegativeNumber, PositiveNumber, refusal

ELSEWHERE = {
    "LRScheduler",  # the base class
    "ReduceLROnPlateau",  # moved by a metric: plateau.py
    "OneCycleLR",  # a closed form: schedules.py
}

OWN_FIELDS = {"initial_lr", "interval", "frequency", "steps_per_epoch"}

ALIASES = {
    "MultiStepLR": ("multistep", "multi_step"),
    "CyclicLR": ("cyclic",),
    "CosineAnnealingLR": ("cosine_annealing",),
    "CosineAnnealingWarmRestarts": ("cosine_annealing_with_warm_restart",),
    "MultiplicativeLR": ("multiplicative",),
}

JUMPING = {"StepLR", "MultiStepLR", "ConstantLR", "CosineAnnealingWarmRestarts", "LambdaLR", "MultiplicativeLR"}

LENGTHS = {"step_size", "T_max", "T_0", "total_iters", "step_size_up", "step_size_down", "anneal_epochs"}


def _of_torch(schedule: Schedule) -> Schedule:
    if not isinstance(schedule, TorchSchedule):
        raise ValueError(f"{schedule.key} is no scheduler of PyTorch's; `sequence` and `chain` take any schedule")
    if schedule.interval != "step" or schedule.frequency != 1:
        raise ValueError("give interval and frequency to the schedule outside, not to those inside it")
    if schedule.initial_lr is not None:
        raise ValueError("give initial_lr to the schedule outside, not to those inside it")
    return schedule


TYPES: dict[str, Any] = {
    "milestones": list[PositiveLength],
    "lr_lambda": NamedFunction,
    "scale_fn": NamedFunction | None,
    "gamma": PositiveNumber,
    "power": NonNegativeNumber,
    "eta_min": NonNegativeNumber,
    "base_lr": NonNegativeNumber,
    "max_lr": PositiveNumber,
    "swa_lr": NonNegativeNumber,
    "schedulers": list[Annotated[NestedSchedule, AfterValidator(_of_torch)]],
}
"""Types of arguments for which the class's own would not do in a config, or would let the lr go below 0."""

MEANINGS = {
    "step_size": "Updates between two drops.",
    "gamma": "Factor of each drop, or of each update.",
    "milestones": "Updates at which the lr drops, or the next scheduler takes over.",
    "factor": "Factor on the lr until `total_iters`.",
    "start_factor": "Factor on the lr at the start.",
    "end_factor": "Factor on the lr at the end.",
    "total_iters": "Updates until the end value.",
    "power": "Power of the polynomial.",
    "T_max": "Updates until eta_min.",
    "eta_min": "The lowest lr.",
    "T_0": "Updates until the first restart.",
    "T_mult": "Factor on the updates between restarts, after each.",
    "base_lr": "The lower end of the cycle.",
    "max_lr": "The upper end of the cycle.",
    "step_size_up": "Updates of the rise.",
    "step_size_down": "Updates of the fall; left out, as many as of the rise.",
    "mode": "triangular, triangular2 (half as high each cycle) or exp_range (times gamma each update).",
    "scale_fn": "Dotted path of a function that scales the height, in place of `mode`.",
    "scale_mode": "Whether scale_fn takes the cycle's number or the update's.",
    "cycle_momentum": "Whether momentum (beta1) moves against the lr.",
    "base_momentum": "Momentum where the lr is highest.",
    "max_momentum": "Momentum where the lr is lowest.",
    "lr_lambda": "Dotted path of a function from the update's number to the factor.",
    "schedulers": "Schedulers of PyTorch, each {type: KEY, …}.",
    "swa_lr": "The lr that it goes to.",
    "anneal_epochs": "Updates on the way to swa_lr.",
    "anneal_strategy": "The shape of the way: cos or linear.",
}


class TorchSchedule(Schedule):
    """Base of the schedules that run a class of torch.optim.lr_scheduler. The class checks its own options.

    The object steps over a stand-in optimizer with one group, whose lr every group gets its share of. It
    is exact to the last bit; a jump to a later position costs a step of PyTorch's for each update between.
    """

    absolute: ClassVar[bool] = True
    scheduler_class: ClassVar[type[LRScheduler]]

    initial_lr: PositiveNumber | None = Field(None, description="The lr it starts from; left out, the optimizer's.")

    @model_validator(mode="after")
    def _check_by_class(self) -> Self:
        if self.is_resolved():
            milestones = getattr(self, "milestones", [])
            if self.scheduler_class is lr_scheduler.SequentialLR and milestones != sorted(set(milestones)):
                self.refuse("milestones", f"must rise; got {milestones}")
            try:
                TorchRun(self).try_out()
            except (ValueError, TypeError, ArithmeticError) as error:
                raise refusal(f"{self.scheduler_class.__name__} refuses these values: {error}") from error
        return self

    def make(self, optimizer: Optimizer) -> LRScheduler:
        """Return PyTorch's scheduler over `optimizer`."""
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in OWN_FIELDS}
        for name in ("lr_lambda", "scale_fn"):
            if options.get(name):
                options[name] = function_named(options[name])
        if "schedulers" in options:
            options["schedulers"] = [child.make(optimizer) for child in options["schedulers"]]
        make: Any = HOLDING.get(self.scheduler_class, self.scheduler_class)
        takes_optimizer_last = self.scheduler_class is lr_scheduler.ChainedScheduler
        scheduler: LRScheduler = (
            make(**options, optimizer=optimizer) if takes_optimizer_last else make(optimizer, **options)
        )
        return scheduler

    def moves_momentum(self) -> bool:
        """Return whether the momentum is moved, here or in a scheduler inside."""
        inner = getattr(self, "schedulers", [])
        return bool(getattr(self, "cycle_momentum", False)) or any(child.moves_momentum() for child in inner)

    def for_lr(self, lr: float) -> Self:
        return self if self.initial_lr is not None else self.replaced(initial_lr=lr)

    def follow(self) -> Curve:
        return TorchRun(self)

    def lr_at(self, update: int) -> float:
        return TorchRun(self).lr_at(update)

    def summary(self) -> str:
        fields = {name: field for name, field in type(self).model_fields.items() if name not in OWN_FIELDS}
        given = [
            f"{name} {getattr(self, name)}"
            for name, field in fields.items()
            if name != "schedulers" and getattr(self, name) != field.default
        ]
        inner = [child.summary() for child in getattr(self, "schedulers", [])]
        return ", ".join([self.scheduler_class.__name__, *given, *(f"[{summary}]" for summary in inner)])


class TorchRun(Curve):
    """PyTorch's scheduler over a stand-in optimizer, moved to any position."""

    def __init__(self, schedule: TorchSchedule) -> None:
        self._schedule = schedule
        self._moves_momentum = schedule.moves_momentum()
        self._restart()

    def lr_at(self, update: int) -> float:
        if update < self._done:
            self._restart()
        while self._done < update:
            self._scheduler.step()
            self._done += 1
        return float(self._group["lr"])

    def momentum_at(self, update: int) -> float | None:
        if not self._moves_momentum:
            return None
        self.lr_at(update)
        return float(self._group["betas"][0])

    def try_out(self) -> None:
        """Take two steps, at which the class's own mistakes show."""
        self.lr_at(2)

    def _restart(self) -> None:
        stand_in = torch.optim.Adam([torch.zeros((), requires_grad=True)], lr=self._schedule.initial_lr or 1.0)
        self._scheduler = self._schedule.make(stand_in)
        self._done = 0
        self._group = stand_in.param_groups[0]
        stand_in.step()  # no gradient, no effect; PyTorch warns of a scheduler stepped before its optimizer

    def __reduce__(self) -> Any:
        return TorchRun, (self._schedule,)  # a copy finds its position by itself


class CosineAnnealingThenHold(CosineAnnealingLR):
    """CosineAnnealingLR up to T_max. After it, where PyTorch's turns round and rises again, the lr holds."""

    def get_lr(self) -> list[Any]:
        if self.last_epoch > self.T_max:
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()


HOLDING: dict[type[LRScheduler], type[LRScheduler]] = {CosineAnnealingLR: CosineAnnealingThenHold}


def scheduler_fields(scheduler_class: type[LRScheduler]) -> dict[str, Any]:
    """Return the arguments of `scheduler_class` as fields of a pydantic model, with its defaults."""
    types = plain_types(scheduler_class)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(scheduler_class).parameters.items():
        if name in types and name not in ("optimizer", "last_epoch", "verbose"):
            default = ... if parameter.default is parameter.empty else parameter.default
            kind = TYPES.get(name) or (PositiveLength if name in LENGTHS else types[name])
            kind = kind | None if default is None else kind
            source = f"{scheduler_class.__module__}.{scheduler_class.__name__}"
            fields[name] = (kind, Field(default, description=MEANINGS.get(name, f"See {source}.")))
    return fields


def torch_schedule(scheduler_class: type[LRScheduler]) -> type[TorchSchedule]:
    """Return a schedule of `scheduler_class` whose fields are the class's arguments, with its defaults."""
    fields = scheduler_fields(scheduler_class)
    made = create_model(scheduler_class.__name__, __base__=TorchSchedule, __module__=__name__, **fields)
    made.__doc__ = f"{scheduler_class.__module__}.{scheduler_class.__name__}."
    made.scheduler_class = scheduler_class
    made.jumps = scheduler_class.__name__ in JUMPING
    return made


def _register_all() -> None:
    for name, cls in sorted({**vars(lr_scheduler), "SWALR": SWALR}.items()):
        if isinstance(cls, type) and issubclass(cls, LRScheduler) and name[0] != "_" and name not in ELSEWHERE:
            registered = SCHEDULE_REGISTRY.register(name, aliases=ALIASES.get(name, ()))
            globals()[name] = registered(torch_schedule(cls))  # where pickle looks for it


_register_all()
