"""Every optimizer of torch.optim by key, its options taken from the signature of the installed torch's class."""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

import torch
from pydantic import Field, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from torch.optim import Optimizer

from ..config.errors import refusal
from ..config.fields import FieldDefinitions, NonNegativeNumber
from ..config.messages import message_of
from ..config.signatures import plain_types
from ..scheduling.without_compiler import without_compiler
from ..types import Options
from .base import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory, OptimizerFactory

NOT_OPTIONS = {"params", "foreach", "fused", "differentiable"}
"""Arguments that are not fields: a factory passes the parameters and chooses between `foreach` and `fused` itself, and
no config needs a step that is differentiated through."""

OPTION_MEANINGS = {
    "lr": "Learning rate.",
    "betas": "Decay rates of the running means of the gradient and of its square.",
    "eps": "Added to the denominator (Adafactor: lower bounds of the squared update and of the step).",
    "weight_decay": "Weight decay: decoupled in AdamW, Adafactor and Muon, else an L2 penalty added to the gradient.",
    "momentum": "Share of the last step that is kept.",
    "dampening": "Share of the gradient that momentum leaves out.",
    "nesterov": "Whether the gradient is taken ahead of the momentum step.",
    "amsgrad": "Whether to divide by the largest second moment so far.",
    "maximize": "Whether to go up the gradient.",
    "capturable": "Whether the step count is on the device, as a CUDA graph needs; innerstep refuses to be captured.",
    "decoupled_weight_decay": "Whether weight decay shrinks the weights themselves, as in AdamW.",
    "momentum_decay": "How fast momentum warms up.",
    "centered": "Whether the squared gradient's mean is taken about the gradient's mean.",
    "alpha": "Smoothing constant (RMSprop), or power of the lr's decay (ASGD).",
    "rho": "Decay rate of the running mean of the squared gradient.",
    "lambd": "Decay term.",
    "t0": "Update at which averaging starts.",
    "lr_decay": "Decay of the lr by the optimizer itself, over the number of updates.",
    "initial_accumulator_value": "Initial value of the sum of squared gradients.",
    "beta2_decay": "Power of the update count in the decay rate of the second moment.",
    "d": "Root mean square that an update is clipped to.",
    "etas": "Factors by which a step shrinks and grows.",
    "step_sizes": "The smallest and the largest step.",
    "max_iter": "Iterations in one update.",
    "max_eval": "Evaluations of the closure in one update; left out: 1.25 x max_iter.",
    "tolerance_grad": "Largest gradient at which an update stops.",
    "tolerance_change": "Smallest change at which an update stops.",
    "history_size": "Past steps that curvature is estimated from.",
    "line_search_fn": "null or strong_wolfe.",
    "ns_coefficients": "Coefficients of the Newton-Schulz polynomial.",
    "ns_steps": "Newton-Schulz iterations.",
    "adjust_lr_fn": "How the lr depends on a matrix's shape: null or original, or match_rms_adamw.",
}

_AT_LEAST_0 = "must be at least 0"
_RULES = {
    **dict.fromkeys(("lr", "eps", "weight_decay", "momentum", "lr_decay", "momentum_decay", "d"), _AT_LEAST_0),
    "initial_accumulator_value": _AT_LEAST_0,
    "betas": "each must be at least 0 and less than 1",
    "rho": "must be from 0 to 1",
    "etas": "the first must be less than 1, and the second greater",
}
"""The range of an argument that a class of torch's checks."""

LEROBOT_CLIP_NORMS = {"adam": 10.0, "adamw": 10.0, "sgd": 10.0}
"""Keys that LeRobot has too, with its default of `grad_clip_norm`."""


class TorchFactory(FreeScheduleFactory):
    """Base of factories whose fields are the arguments of a class, which itself checks their ranges."""

    @model_validator(mode="after")
    def _check_by_class(self) -> Self:
        options = self.options()
        required = {name: value for name, value in options.items() if type(self).model_fields[name].is_required()}
        message = _refusal_by_class(self.optimizer_class, options)
        # An error that the class also raises for its own defaults is not about these options: `build` raises it.
        if message and message != _refusal_by_class(self.optimizer_class, required):
            for name, value in options.items():
                if _refusal_by_class(self.optimizer_class, {name: value}) == message:
                    rule = _plain_rule(name, message)
                    self.refuse(name, rule if str(value) in rule else f"{rule}; got {value!r}")
            raise refusal(message)
        lr = options.get("lr")
        if isinstance(lr, int | float) and lr < 0:  # custom classes often do not check it
            self.refuse("lr", f"must be at least 0; got {lr!r}")
        return self


def torch_factory(
    key: str, optimizer_class: type[Optimizer], *, base: type[TorchFactory] = TorchFactory, module: str | None = None
) -> type[TorchFactory]:
    """Return a factory of `optimizer_class` whose fields are the class's arguments, with its defaults.

    Args:
        key: The key under which the factory will be registered.
        optimizer_class: A class with the constructor of a torch.optim optimizer: the parameters first, then options
            with annotations or defaults, one of them `lr`. Ranges that its constructor checks are errors of a config.
        base: Base class of the factory.
        module: Module that defines the factory. Pickle looks for it there, under its name: that of the class, and
            `Factory`. If omitted, the module of the caller.

    Examples:
        A custom class. `OPTIMIZER_BUILDER_REGISTRY.register("signed")(SignedFactory)` lets configs name it.

        >>> import torch
        >>> from optimizer import torch_factory
        >>> class Signed(torch.optim.SGD):
        ...     def __init__(self, params, lr: float = 0.1, momentum: float = 0.9) -> None:
        ...         super().__init__(params, lr=lr, momentum=momentum)
        >>> SignedFactory = torch_factory("signed", Signed)
        >>> factory = SignedFactory(lr=0.2, schedule={"type": "constant"})
        >>> factory.build(torch.nn.Linear(2, 1)).param_groups[0]["lr"]
        0.2
    """
    fields = _fields(optimizer_class)
    if key in LEROBOT_CLIP_NORMS:
        fields["grad_clip_norm"] = (NonNegativeNumber | None, LEROBOT_CLIP_NORMS[key])
    name = f"{optimizer_class.__name__}Factory"
    module = module or sys._getframe(1).f_globals.get("__name__", "__main__")
    factory = create_model(name, __base__=base, __module__=module, **fields)
    is_torchs = _is_torchs(optimizer_class)
    factory.__doc__ = f"torch.optim.{optimizer_class.__name__}." if is_torchs else summary_of(optimizer_class)
    factory.optimizer_class = optimizer_class
    factory.fused_by_default = is_torchs and key in ("adam", "adamw", "sgd", "adagrad")
    return factory


def summary_of(cls: type) -> str:
    """Return the first line of the docstring of `cls`; without one, the path of the class."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    return doc.partition("\n")[0] or f"{cls.__module__}.{cls.__qualname__}."


def _plain_rule(name: str, message: str) -> str:
    """Return the rule that torch means by a message such as `Invalid learning rate`, or the message of another."""
    rule = _RULES.get(name) if message.startswith("Invalid ") else None
    return rule or message


def _refusal_by_class(optimizer_class: type[Optimizer], options: Mapping[str, object]) -> str | None:
    """Return the message of the error that the class raises for `options`; None if it accepts them."""
    make: Callable[..., Optimizer] = optimizer_class
    try:
        with without_compiler():
            make([torch.zeros(2, 2, requires_grad=True)], **options)
    except Exception as error:  # libraries raise their own errors here
        return message_of(error) or f"{optimizer_class.__name__} refuses this"
    return None


def _is_torchs(optimizer_class: type[Optimizer]) -> bool:
    return f"{optimizer_class.__module__}.".startswith("torch.optim.")  # Adafactor and Muon are in torch.optim itself


def _fields(optimizer_class: type[Optimizer]) -> FieldDefinitions:
    """Return a field for each option of the class, but not for `*args` and `**kwargs`."""
    source = "PyTorch" if _is_torchs(optimizer_class) else optimizer_class.__name__
    types = plain_types(optimizer_class)
    _, *parameters = inspect.signature(optimizer_class).parameters.values()  # the first: the parameters to optimize
    fields: FieldDefinitions = {}
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        if name in types and name not in NOT_OPTIONS:
            meaning = OPTION_MEANINGS.get(name, f"See {source}.")
            limits = partial(_add_limits, optimizer_class, name, default)
            field = Field(default, validate_default=True, description=meaning, json_schema_extra=limits)
            fields[name] = (types[name], field)
    return fields


def _add_limits(optimizer_class: type[Optimizer], name: str, default: object, schema: JsonSchemaValue) -> None:
    """Add an option's range to its JSON schema, found by trying a few values in the class's constructor."""
    if isinstance(default, tuple):
        for index, item in enumerate(schema.get("prefixItems", ())):
            before, after = default[:index], default[index + 1 :]
            item |= _limits({value: {name: (*before, value, *after)} for value in _PROBES}, optimizer_class)
    elif isinstance(default, int | float) and not isinstance(default, bool):
        schema |= _limits({value: {name: value} for value in _PROBES}, optimizer_class)


_PROBES = (-1.0, 0.0, 0.5, 1.0, 1.5)


def _limits(options: Mapping[float, Options], optimizer_class: type[Optimizer]) -> dict[str, float]:
    allowed = {value: _refusal_by_class(optimizer_class, probe) is None for value, probe in options.items()}
    limits: dict[str, float] = {}
    if not allowed[-1.0]:
        limits["minimum" if allowed[0.0] else "exclusiveMinimum"] = 0
    if allowed[0.5] and not allowed[1.5]:
        limits["maximum" if allowed[1.0] else "exclusiveMaximum"] = 1
    return limits


def _register_all() -> None:
    """Register all classes but Muon, which muon.py registers. The factory of each is made when it is looked up."""
    for name in sorted(vars(torch.optim)):
        cls = getattr(torch.optim, name)
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls not in (Optimizer, torch.optim.Muon):
            OPTIMIZER_BUILDER_REGISTRY.register_maker(name.lower(), partial(_make, cls))
            _KEYS[f"{name}Factory"] = name.lower()


def _make(cls: type[Optimizer]) -> type[TorchFactory]:
    """Return the factory of a class, and keep it where pickle looks for it. Threads that race keep the same one."""
    factory = torch_factory(cls.__name__.lower(), cls, module=__name__)
    made: type[TorchFactory] = globals().setdefault(factory.__name__, factory)
    return made


def __getattr__(name: str) -> type[OptimizerFactory]:
    """Return the factory of a class of torch.optim by its name, also before it is first looked up."""
    if name in _KEYS:
        return OPTIMIZER_BUILDER_REGISTRY[_KEYS[name]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_KEYS: dict[str, str] = {}
"""The keys of the factories that are made here, by the names of the factories."""
_register_all()
