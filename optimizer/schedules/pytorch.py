"""PyTorch's own schedulers by class name, each run as PyTorch's object inside `optimizer.step()`."""

import inspect
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, create_model
from torch.optim import lr_scheduler, swa_utils
from torch.optim.lr_scheduler import LRScheduler

from ..config.fields import NonNegativeNumber, PositiveNumber
from ..config.function_path import FunctionPath
from ..config.signatures import plain_types
from .base import SCHEDULE_REGISTRY, AnySchedule, Schedule
from .durations import Duration, PositiveDuration
from .torch_composites import TorchChain, TorchSequence
from .torch_schedule import TorchSchedule

REGISTERED_ELSEWHERE = {
    "LRScheduler",  # the base class
    "ReduceLROnPlateau",  # moved by a metric, in plateau.py
    "OneCycleLR",  # in closed form, in basic.py
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


def _check_inner_scheduler(schedule: Schedule) -> Schedule:
    if not isinstance(schedule, TorchSchedule):
        raise ValueError(f"{schedule.key} is not a scheduler of PyTorch; `sequence` and `chain` take any schedule")
    if schedule.interval != "step" or schedule.frequency != 1:
        raise ValueError("give interval and frequency to the schedule outside, not to those inside it")
    if schedule.initial_lr is not None:
        raise ValueError("give initial_lr to the schedule outside, not to those inside it")
    return schedule


TYPES: dict[Any, Any] = {
    "milestones": list[PositiveDuration],
    (lr_scheduler.SequentialLR, "milestones"): list[Duration],
    "lr_lambda": FunctionPath,
    "scale_fn": FunctionPath | None,
    "gamma": PositiveNumber,
    "power": NonNegativeNumber,
    "eta_min": NonNegativeNumber,
    "base_lr": NonNegativeNumber,
    "max_lr": PositiveNumber,
    "swa_lr": NonNegativeNumber,
    "schedulers": list[Annotated[AnySchedule, AfterValidator(_check_inner_scheduler)]],
}
"""Types of arguments whose annotation in PyTorch does not suit a config, or would allow an lr below 0."""

MEANINGS = {
    "step_size": "Updates between two drops.",
    "gamma": "Factor of each drop, or of each update.",
    "milestones": "Updates at which the lr drops, or the next scheduler starts.",
    "factor": "Factor on the lr until `total_iters`.",
    "start_factor": "Factor on the lr at the start.",
    "end_factor": "Factor on the lr at the end.",
    "total_iters": "Updates until the end value.",
    "power": "Power of the polynomial.",
    "T_max": "Updates until eta_min.",
    "eta_min": "The lowest lr.",
    "T_0": "Updates until the first restart.",
    "T_mult": "Factor on the updates between restarts, applied at each restart.",
    "base_lr": "The lower end of the cycle.",
    "max_lr": "The upper end of the cycle.",
    "step_size_up": "Updates of the rise.",
    "step_size_down": "Updates of the fall. If omitted, step_size_up.",
    "mode": "triangular, triangular2 (half as high each cycle) or exp_range (times gamma each update).",
    "scale_fn": "Dotted path of a function that scales the height and replaces `mode`.",
    "scale_mode": "Whether scale_fn takes the number of the cycle (cycle) or of the update (iterations).",
    "cycle_momentum": "Whether momentum (beta1) moves opposite to the lr.",
    "base_momentum": "Momentum at the highest lr.",
    "max_momentum": "Momentum at the lowest lr.",
    "lr_lambda": "Dotted path of a function from the number of the update to the factor.",
    "schedulers": "Schedulers of PyTorch, each written as {type: KEY, …}.",
    "swa_lr": "The lr at the end of the annealing, which holds.",
    "anneal_epochs": "Updates until swa_lr.",
    "anneal_strategy": "Shape of the annealing: cos or linear.",
}


class Reference(NamedTuple):
    """The text of a scheduler's docstring. The example builds it with `arguments` and prints its lr at `updates`."""

    meaning: str
    formula: str
    arguments: str
    updates: str
    values: str


REFERENCES = {
    "ChainedScheduler": Reference(
        "the product of PyTorch's schedulers, all from update 0 on",
        """lr(k) = initial_lr * factor_1(k) * factor_2(k) * ...
    LambdaLR, CyclicLR and CosineAnnealingWarmRestarts set the lr, and so discard the factors before theirs.""",
        """
    ...     schedulers=[
    ...         {"type": "ConstantLR", "factor": 0.5, "total_iters": 5},
    ...         {"type": "StepLR", "step_size": 10, "gamma": 0.5},
    ...     ],
    ... """,
        "0, 5, 10, 20",
        "[0.5, 1.0, 0.5, 0.25]",
    ),
    "ConstantLR": Reference(
        "the lr times factor until update total_iters",
        "lr(k) = initial_lr * factor, for k < total_iters;\n    lr(k) = initial_lr, for k >= total_iters.",
        "factor=0.5, total_iters=10",
        "0, 9, 10, 1000",
        "[0.5, 0.5, 1.0, 1.0]",
    ),
    "CosineAnnealingLR": Reference(
        "half a cosine to eta_min",
        """lr(k) = eta_min + (initial_lr - eta_min) * (1 + cos(pi * min(k, T_max) / T_max)) / 2.
    PyTorch's rises again after T_max; here eta_min holds.""",
        "T_max=100, eta_min=0.1",
        "0, 50, 100, 1000",
        "[1.0, 0.55, 0.1, 0.1]",
    ),
    "CosineAnnealingWarmRestarts": Reference(
        "half cosines to eta_min, with warm restarts",
        """lr(k) = eta_min + (initial_lr - eta_min) * (1 + cos(pi * t / T)) / 2,
    with t the updates since the last restart and T = T_0 * T_mult^i after i restarts.""",
        "T_0=10, T_mult=2",
        "0, 5, 10, 20, 30",
        "[1.0, 0.5, 1.0, 0.5, 1.0]",
    ),
    "CyclicLR": Reference(
        "triangles between base_lr and max_lr",
        """lr(k) = base_lr + (max_lr - base_lr) * h(k) * s,
    with h rising from 0 to 1 in step_size_up updates and falling to 0 in step_size_down updates, and s = 1
    (triangular), 2^-i in cycle i = 0, 1, ... (triangular2) or gamma^k (exp_range).""",
        "base_lr=0.1, max_lr=1.0, step_size_up=10",
        "0, 5, 10, 20, 30",
        "[0.1, 0.55, 1.0, 0.1, 1.0]",
    ),
    "ExponentialLR": Reference(
        "the lr times gamma at every update",
        "lr(k) = initial_lr * gamma^k.",
        "gamma=0.5",
        "0, 1, 2, 3",
        "[1.0, 0.5, 0.25, 0.125]",
    ),
    "LambdaLR": Reference(
        "the lr times a function of the update",
        "lr(k) = initial_lr * lr_lambda(k).",
        'lr_lambda="math.erfc"',
        "0, 1, 2",
        "[1.0, 0.1573, 0.0047]",
    ),
    "LinearLR": Reference(
        "a straight line between two factors on the lr",
        """lr(k) = initial_lr * (start_factor + (end_factor - start_factor) * x), with x = min(1, k / total_iters).""",
        "start_factor=0.1, total_iters=10",
        "0, 5, 10, 1000",
        "[0.1, 0.55, 1.0, 1.0]",
    ),
    "MultiStepLR": Reference(
        "the lr times gamma at every milestone",
        "lr(k) = initial_lr * gamma^m, with m the number of milestones <= k.",
        "milestones=[30, 80], gamma=0.5",
        "0, 29, 30, 79, 80",
        "[1.0, 1.0, 0.5, 0.5, 0.25]",
    ),
    "MultiplicativeLR": Reference(
        "the lr of the update before times a function of the update",
        "lr(k) = lr(k - 1) * lr_lambda(k), with lr(0) = initial_lr.",
        'lr_lambda="math.erfc"',
        "0, 1, 2",
        "[1.0, 0.1573, 0.0007]",
    ),
    "PolynomialLR": Reference(
        "a power of the remaining share of total_iters, down to 0",
        "lr(k) = initial_lr * (1 - min(1, k / total_iters))^power.",
        "total_iters=10, power=2.0",
        "0, 5, 10, 1000",
        "[1.0, 0.25, 0.0, 0.0]",
    ),
    "SWALR": Reference(
        "half a cosine, or a straight line, to swa_lr",
        """lr(k) = swa_lr + (initial_lr - swa_lr) * (1 + cos(pi * x)) / 2, with x = min(1, k / anneal_epochs);
    lr(k) = swa_lr + (initial_lr - swa_lr) * (1 - x), if anneal_strategy is linear.""",
        "swa_lr=0.1, anneal_epochs=10",
        "0, 5, 10, 1000",
        "[1.0, 0.55, 0.1, 0.1]",
    ),
    "SequentialLR": Reference(
        "PyTorch's schedulers one after another",
        """lr(k) = lr_i(k - b_i), for b_i <= k < b_(i+1), with b_0 = 0 and the milestones b_1, b_2, ...
    MultiplicativeLR and SWALR start from the lr that they find, all others from initial_lr.""",
        """
    ...     schedulers=[
    ...         {"type": "LinearLR", "start_factor": 0.1, "total_iters": 10},
    ...         {"type": "CosineAnnealingLR", "T_max": 100},
    ...     ],
    ...     milestones=[10],
    ... """,
        "0, 5, 10, 60, 110, 1000",
        "[0.1, 0.55, 1.0, 0.5, 0.0, 0.0]",
    ),
    "StepLR": Reference(
        "the lr times gamma every step_size updates",
        "lr(k) = initial_lr * gamma^floor(k / step_size).",
        "step_size=30, gamma=0.5",
        "0, 29, 30, 60",
        "[1.0, 1.0, 0.5, 0.25]",
    ),
}
"""By class name. A class of a newer PyTorch that is not here has its path as its docstring."""

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
                or (PositiveDuration if name in LENGTHS else types[name])
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
    schedule_class: type[TorchSchedule] = make(scheduler_class.__name__, __base__=base, __module__=__name__, **fields)
    schedule_class.__doc__ = _docstring(scheduler_class)
    schedule_class.scheduler_class = scheduler_class
    schedule_class.jumps = scheduler_class.__name__ in JUMPING
    return schedule_class


def _docstring(scheduler_class: type[LRScheduler]) -> str:
    name = scheduler_class.__name__
    path = f"{scheduler_class.__module__}.{name}"
    if name not in REFERENCES:
        return f"{path}."
    meaning, formula, arguments, updates, values = REFERENCES[name]
    return f"""{path}: {meaning}.

Formula:
    {formula}

Source: {path}, run as its own object. Without an optimizer, initial_lr is 1.

Examples:
    >>> from optimizer import SCHEDULE_REGISTRY
    >>> schedule = SCHEDULE_REGISTRY["{name}"]({arguments})
    >>> [round(schedule.lr_at(k), 4) for k in ({updates})]
    {values}
"""


def _register_all() -> None:
    """Register all classes. The schedule of each is made when it is looked up."""
    for name, cls in sorted({**vars(lr_scheduler), "SWALR": swa_utils.SWALR}.items()):
        if (
            isinstance(cls, type)
            and issubclass(cls, LRScheduler)
            and name[0] != "_"
            and name not in REGISTERED_ELSEWHERE
        ):
            SCHEDULE_REGISTRY.register_maker(name, partial(_make, cls), aliases=ALIASES.get(name, ()))
            _KEYS.add(name)


def _make(cls: type[LRScheduler]) -> type[TorchSchedule]:
    """Return the schedule of a class, and keep it where pickle looks for it. Threads that race keep the same one."""
    made: type[TorchSchedule] = globals().setdefault(cls.__name__, torch_schedule(cls))
    return made


def __getattr__(name: str) -> type[Schedule]:
    """Return the schedule of a class of PyTorch by its name, also before it is first looked up."""
    if name in _KEYS:
        return SCHEDULE_REGISTRY[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_KEYS: set[str] = set()
_register_all()
