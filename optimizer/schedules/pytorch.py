"""PyTorch's own schedulers by class name, each run as PyTorch's object inside the step."""

import inspect
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from ..config.function_path import NamedFunction
from ..config.signatures import plain_types
from ..config.validation import NonNegativeNumber, PositiveNumber
from .base import SCHEDULE_REGISTRY, NestedSchedule, Schedule
from .durations import Length, PositiveLength
from .torch_composites import TorchChain, TorchSequence
from .torch_schedule import TorchSchedule

ELSEWHERE = {
    "LRScheduler",  # the base class
    "ReduceLROnPlateau",  # moved by a metric: plateau.py
    "OneCycleLR",  # a closed form: schedules.py
}

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


TYPES: dict[Any, Any] = {
    "milestones": list[PositiveLength],
    (lr_scheduler.SequentialLR, "milestones"): list[Length],
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


COMPOSITES: dict[type[LRScheduler], type[TorchSchedule]] = {
    lr_scheduler.ChainedScheduler: TorchChain,
    lr_scheduler.SequentialLR: TorchSequence,
}


def scheduler_fields(scheduler_class: type[LRScheduler]) -> dict[str, Any]:
    """Return the arguments of `scheduler_class` as fields of a pydantic model, with its defaults."""
    types = plain_types(scheduler_class)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(scheduler_class).parameters.items():
        if name in types and name not in ("optimizer", "last_epoch", "verbose"):
            default = ... if parameter.default is parameter.empty else parameter.default
            kind = (
                TYPES.get((scheduler_class, name))
                or TYPES.get(name)
                or (PositiveLength if name in LENGTHS else types[name])
            )
            kind = kind | None if default is None else kind
            source = f"{scheduler_class.__module__}.{scheduler_class.__name__}"
            fields[name] = (kind, Field(default, description=MEANINGS.get(name, f"See {source}.")))
    return fields


def torch_schedule(scheduler_class: type[LRScheduler]) -> type[TorchSchedule]:
    """Return a schedule of `scheduler_class` whose fields are the class's arguments, with its defaults."""
    fields = scheduler_fields(scheduler_class)
    base: type[TorchSchedule] = COMPOSITES.get(scheduler_class, TorchSchedule)
    make: Any = create_model
    made: type[TorchSchedule] = make(scheduler_class.__name__, __base__=base, __module__=__name__, **fields)
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
