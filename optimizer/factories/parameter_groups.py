"""Parameters and rules about them, to parameter groups."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from ..config.messages import nearest
from ..config.validation import Config, NonNegativeNumber
from ..types import ParamGroup

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class GroupRule(Config):
    """Which parameters, by name, and what is different for them: any option of the optimizer, by its name."""

    model_config = ConfigDict(extra="allow")

    match: list[str] = Field(default_factory=list)
    """Names with * and ?, as in "encoder.*.bias"; one or a list."""
    regex: str | None = None
    """Or a regular expression that is found somewhere in the name."""
    lr: NonNegativeNumber | None = None
    """The lr of these parameters, in place of the optimizer's."""
    lr_multiplier: NonNegativeNumber = 1.0
    """Factor on the lr."""

    @field_validator("match", mode="before")
    @classmethod
    def _one_is_a_list(cls, match: Any) -> Any:
        return [match] if isinstance(match, str) else match

    @field_validator("regex")
    @classmethod
    def _check_regex(cls, regex: str | None) -> str | None:
        try:
            re.compile(regex or "")
        except re.error as problem:
            raise ValueError(f"is no regular expression: {problem}; got {regex!r}") from None
        return regex

    @model_validator(mode="after")
    def _check_one_way(self) -> Self:
        if bool(self.match) == (self.regex is not None):
            self.refuse("match", f"give match or regex, one of them; got {self.match} and {self.regex}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options that are different, but for `lr_multiplier`."""
        return {**(self.model_extra or {}), **({} if self.lr is None else {"lr": self.lr})}

    def covers(self, name: str) -> bool:
        """Return whether the rule is about the parameter of this name."""
        if self.regex is not None:
            return re.search(self.regex, name) is not None
        return any(fnmatchcase(name, pattern) for pattern in self.match)

    def text(self) -> str:
        """Return the patterns for a message."""
        return f"regex {self.regex!r}" if self.regex is not None else " or ".join(map(repr, self.match))


@dataclass(frozen=True)
class Grouping:
    """What a factory says about groups. lr_of: what multipliers multiply for a parameter without an lr of its own."""

    lr_of: Callable[[str, Tensor], float]
    rules: Sequence[GroupRule] = ()
    no_decay: bool | Sequence[str] = False
    layer_decay: float | None = None

    def __bool__(self) -> bool:
        return bool(self.rules) or bool(self.no_decay) or self.layer_decay is not None


@dataclass
class _Named:
    """A parameter on the way to its group. options: what is different for it, strongest last."""

    name: str
    parameter: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    multiplier: float = 1.0
    rule: int | None = None


def parameter_groups(params: Params) -> list[ParamGroup]:
    """Return `params` as parameter groups. Of a module, only what requires a gradient is taken.

    Raises ValueError if there is nothing to optimize, something is no parameter, or a parameter or name comes twice.
    """
    if isinstance(params, nn.Module):
        listed: list[Any] = [(name, p) for name, p in params.named_parameters() if p.requires_grad]
    else:
        listed = _listed(params, "params", "a module, parameters, named parameters or groups")
    if not listed:
        frozen = " that requires a gradient" if isinstance(params, nn.Module) else ""
        raise ValueError(f"there is no parameter{frozen} to build an optimizer for")
    grouped = isinstance(listed[0], Mapping)
    groups = [_group(index, given) for index, given in enumerate(listed)] if grouped else [{"params": listed}]
    for index, group in enumerate(groups):
        where = f"parameter group {index}: params" if grouped else "params"
        given = group["params"]
        group["params"] = [given] if isinstance(given, Tensor) else _listed(given, where, "parameters")
        for number, item in enumerate(group["params"]):
            _check_parameter(item, f"{where}.{number}")
    _refuse_twice(groups)
    return groups


def _group(index: int, given: Any) -> ParamGroup:
    """Return a copy of a group: torch writes its defaults into the dicts that it is given."""
    if not isinstance(given, Mapping):
        raise ValueError(f"parameter group {index}: must be a dict with `params`; got a {type(given).__name__}")
    if "params" not in given:
        raise ValueError(f"parameter group {index}: has no `params`")
    return dict(given)


def _listed(given: Any, where: str, expected: str) -> list[Any]:
    """Return what is given in place of a list of parameters as a list. Raises ValueError for what has no order."""
    if isinstance(given, set | frozenset):
        raise ValueError(
            f"{where}: a {type(given).__name__} has another order in each process, and state goes by order: give a list"
        )
    if isinstance(given, Mapping | Tensor | str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{where}: must be {expected}; got a {type(given).__name__}{_instead_of(given)}")
    return list(given)


def _check_parameter(item: Any, where: str) -> None:
    name, parameter = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
    if not isinstance(name, str) or not isinstance(parameter, Tensor):
        raise ValueError(
            f"{where}: must be a parameter, or a name and a parameter; got a {type(item).__name__}{_instead_of(item)}"
        )


def _instead_of(given: Any) -> str:
    """Return what to give in place of what was given, as the end of a message."""
    if isinstance(given, nn.Module):
        return ". Give the module alone, or its parameters() or named_parameters()"
    if isinstance(given, str):
        return (
            f", {given!r}. A name goes with its parameter, as in named_parameters(); rules by name are `param_groups`"
        )
    if isinstance(given, Mapping):
        return ". Give its items() if it holds parameters by name, or a list of groups"
    return ". Give it in a list" if isinstance(given, Tensor) else ""


def regrouped(groups: list[ParamGroup], grouping: Grouping, module: nn.Module | None) -> list[ParamGroup]:
    """Return the parameters of `groups` grouped anew by the rules, those with equal options together.

    A rule's options win over no_decay, and no_decay over a group's own; the first rule that matches a
    name counts. module: where the parameters come from, to be asked for its `no_weight_decay()`.
    Raises ValueError that names the rule or the parameters where something does not fit.
    """
    if not grouping:
        return groups
    parameters = [named for group in groups for named in _named(group)]
    if grouping.layer_decay is not None:
        # Depth is the model's: what is frozen counts too.
        names = (
            [name for name, _ in module.named_parameters()] if module is not None else [one.name for one in parameters]
        )
        for one, layers_above in zip(parameters, _layers_above([one.name for one in parameters], names), strict=True):
            one.multiplier *= grouping.layer_decay**layers_above
    if grouping.no_decay:
        undecayed = _undecayed(parameters, grouping.no_decay, module)
        for one in parameters:
            one.options |= {"weight_decay": 0.0} if one.name in undecayed else {}
    _apply_rules(parameters, grouping.rules)
    for one in parameters:
        if one.multiplier != 1.0:
            one.options["lr"] = one.multiplier * one.options.get("lr", grouping.lr_of(one.name, one.parameter))
    return _merged(parameters)


def matching(names: list[str], patterns: Sequence[str], path: str) -> set[str]:
    """Return those of `names` that match one of `patterns`. Raises ValueError for a pattern that matches none."""
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise ValueError(f"{path}: no parameter's name matches {pattern!r}{_known(pattern, names)}")
        found |= matched
    return found


def _named(group: ParamGroup) -> list[_Named]:
    options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    names = group.get("param_names")
    pairs = list(zip(names, group["params"], strict=True)) if names else group["params"]
    if any(isinstance(pair, Tensor) for pair in pairs):
        raise ValueError(
            "param_groups, no_decay and layer_decay go by the parameters' names: build from a module, or from"
            " named_parameters()"
        )
    return [_Named(name, parameter, dict(options)) for name, parameter in pairs]


def _apply_rules(parameters: list[_Named], rules: Sequence[GroupRule]) -> None:
    for index, rule in enumerate(rules):
        matched = [one for one in parameters if rule.covers(one.name)]
        free = [one for one in matched if one.rule is None]
        path = f"param_groups.{index}"
        names = [one.name for one in parameters]
        matching(names, rule.match, path)
        if not matched:
            raise ValueError(f"{path}: no parameter's name matches {rule.text()}{_known(rule.text(), names)}")
        if not free:
            earlier = sorted({f"param_groups.{one.rule}" for one in matched})
            raise ValueError(f"{path}: all that {rule.text()} matches goes to an earlier rule: {', '.join(earlier)}")
        for one in free:
            one.rule = index
            one.multiplier *= rule.lr_multiplier
            one.options |= rule.options


def _undecayed(parameters: list[_Named], no_decay: bool | Sequence[str], module: nn.Module | None) -> set[str]:
    if not isinstance(no_decay, bool):
        return matching([one.name for one in parameters], no_decay, "no_decay")
    flat = {one.name for one in parameters if one.parameter.ndim <= 1}
    said = {
        f"{prefix}.{name}" if prefix else name
        for prefix, inner in (module.named_modules() if module is not None else ())
        if callable(getattr(inner, "no_weight_decay", None))
        for name in inner.no_weight_decay()
    }
    return flat | said


def _layers_above(wanted: list[str], names: list[str]) -> list[int]:
    """Return for each of the `wanted` parameters how many layers there are above its own.

    names: those of all parameters of the model, in order. A layer is what shares its name up to the first number in it
    ("blocks.3"); what comes before the first is a layer of its own, what comes after the last is the top one.
    Source: Clark et al. 2020 (arXiv:2003.10555).
    """
    layers: dict[str, int] = {}
    ranks: dict[str, int] = {}
    last = -1
    for index, name in enumerate(names):
        parts = name.split(".")
        number = next((position for position, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            last = index
            ranks[name] = layers.setdefault(".".join(parts[: number + 1]), len(layers) + 1)
        else:
            ranks[name] = len(layers)
    if not layers:
        raise ValueError(f"layer_decay: no numbered layers in the names {', '.join(names)}")
    top = len(layers) + (1 if last + 1 < len(names) else 0)
    ranks |= dict.fromkeys(names[last + 1 :], top)
    return [top - ranks[name] for name in wanted]


def _merged(parameters: list[_Named]) -> list[ParamGroup]:
    groups: dict[Hashable, ParamGroup] = {}
    for one in parameters:
        key = frozenset((name, _comparable(value)) for name, value in one.options.items())
        group = groups.setdefault(key, {**one.options, "params": []})
        group["params"].append((one.name, one.parameter))
    return list(groups.values())


def _comparable(value: Any) -> Hashable:
    """Return what is equal for equal options."""
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return str(value.tolist()) if isinstance(value, Tensor) else value  # a tensor's hash is its identity


def _refuse_twice(groups: list[ParamGroup]) -> None:
    seen: dict[int, str] = {}
    called: set[str] = set()
    for group in groups:
        for item in group["params"]:
            name, parameter = item if isinstance(item, tuple) else (f"number {len(seen)}", item)
            if id(parameter) in seen:
                raise ValueError(f"parameter {name!r} comes twice: it is {seen[id(parameter)]!r} too")
            if name in called and isinstance(item, tuple):
                raise ValueError(f"two parameters are called {name!r}: named_parameters(PREFIX) tells them apart")
            seen[id(parameter)] = name
            called.add(name)


def _known(pattern: str, names: list[str]) -> str:
    shown = ", ".join(names[:20]) + (f" … ({len(names)} in all)" if len(names) > 20 else "")
    return f"{nearest(pattern.strip(chr(39)), names)} Names: {shown}"
