"""Parameter groups by rules: the fields `param_groups`, `no_decay` and `layer_decay`, and the groups that follow."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Self

from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from ..config.errors import nest, refusal
from ..config.fields import PositiveFraction
from ..config.messages import nearest
from ..types import ParamGroup
from .group_rules import GroupRule, matching_names, no_match
from .optimizer_options import OptimizerOptions


class GroupingFields(OptimizerOptions):
    """The fields that group parameters by name."""

    param_groups: list[GroupRule] = Field(default_factory=list)
    """Rules by name for some of the parameters: {match: "encoder.*", lr_multiplier: 0.1, weight_decay: 0}."""
    no_decay: bool | list[str] = False
    """Parameters without weight decay: true for those of at most one dimension (biases, norms) and those that
    the module's no_weight_decay() names; or a list of names with * and ?."""
    layer_decay: PositiveFraction | None = None
    """Factor on the lr of each numbered layer against the one above it."""

    @model_validator(mode="after")
    def _check_grouping(self) -> Self:
        self._checked_rules()
        if self.no_decay and "weight_decay" not in self.option_names():
            self.refuse("no_decay", f"{self.optimizer_class.__name__} has no weight_decay")
        return self

    def lr_of(self, name: str, parameter: Tensor) -> float:
        """Return the lr of a parameter for which neither a rule nor a group has one."""
        return self.base_lr

    def _group(self, groups: list[ParamGroup], module: nn.Module | None) -> list[ParamGroup]:
        """Return the parameters of `groups` in groups by the rules, those with equal options together.

        A rule's options have precedence over no_decay, and no_decay over a group's own; the first rule that matches a
        name applies.

        Args:
            groups: Groups of named parameters.
            module: The module of the parameters, whose `no_weight_decay()` is called; None if it is not known.

        Raises:
            ValueError: A rule does not fit the parameters. The message names it.
        """
        if not (self.param_groups or self.no_decay or self.layer_decay is not None):
            return groups
        parameters = [each for group in groups for each in _named_parameters(group)]
        names = [each.name for each in parameters]
        if self.layer_decay is not None:
            # Frozen parameters count too: depth is a property of the model.
            all_names = names if module is None else [name for name, _ in module.named_parameters()]
            for each, layers_above in zip(parameters, _layers_above(names, all_names), strict=True):
                each.multiplier *= self.layer_decay**layers_above
        if self.no_decay:
            undecayed = _undecayed_names(parameters, self.no_decay, module)
            for each in parameters:
                each.options |= {"weight_decay": 0.0} if each.name in undecayed else {}
        _apply_rules(parameters, self._checked_rules())
        for each in parameters:
            if each.multiplier != 1.0:
                lr = each.options.get("lr", self.lr_of(each.name, each.parameter))
                each.options["lr"] = each.multiplier * lr
        return _merge(parameters)

    def _checked_rules(self) -> list[GroupRule]:
        """Return the rules with their options validated as this factory's own fields."""
        return [self._checked_rule(index, rule) for index, rule in enumerate(self.param_groups)]

    def _checked_rule(self, index: int, rule: GroupRule) -> GroupRule:
        options = [name for name in self.option_names() if name not in ("lr", "foreach", "fused")]
        checked: dict[str, object] = {}
        for name, value in (rule.model_extra or {}).items():
            path = ("param_groups", index)
            if name not in options:
                known = [*GroupRule.model_fields, *options]
                raise refusal(f"unknown name{nearest(name, known)} Known: {', '.join(known)}", (*path, name))
            try:
                checked[name] = getattr(self.replaced(param_groups=[], **{name: value}), name)
            except ValidationError as error:
                raise nest(error, path) from None
        return rule.replaced(**checked)


@dataclass
class _NamedParameter:
    """A parameter before it is grouped. options: those that are different for it."""

    name: str
    parameter: Tensor
    options: ParamGroup = field(default_factory=dict)
    multiplier: float = 1.0
    rule: int | None = None


def _named_parameters(group: ParamGroup) -> list[_NamedParameter]:
    options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    names = group.get("param_names")
    pairs = list(zip(names, group["params"], strict=True)) if names else group["params"]
    if any(isinstance(pair, Tensor) for pair in pairs):
        raise ValueError(
            "param_groups, no_decay and layer_decay go by the parameters' names: build from a module, or from"
            " named_parameters()"
        )
    return [_NamedParameter(name, parameter, dict(options)) for name, parameter in pairs]


def _apply_rules(parameters: list[_NamedParameter], rules: Sequence[GroupRule]) -> None:
    names = [each.name for each in parameters]
    for index, rule in enumerate(rules):
        path = f"param_groups.{index}"
        matching_names(names, rule.match, path)
        matched = [each for each in parameters if rule.matches(each.name)]
        if not matched:
            raise no_match(path, rule.text(), names)
        free = [each for each in matched if each.rule is None]
        if not free:
            earlier = sorted({f"param_groups.{each.rule}" for each in matched})
            raise ValueError(f"{path}: all that {rule.text()} matches belongs to an earlier rule: {', '.join(earlier)}")
        for each in free:
            each.rule = index
            each.multiplier *= rule.lr_multiplier
            each.options |= rule.options


def _undecayed_names(
    parameters: list[_NamedParameter], no_decay: bool | Sequence[str], module: nn.Module | None
) -> set[str]:
    if not isinstance(no_decay, bool):
        return matching_names([each.name for each in parameters], no_decay, "no_decay")
    one_dimensional = {each.name for each in parameters if each.parameter.ndim <= 1}
    named_by_modules = {
        f"{prefix}.{name}" if prefix else name
        for prefix, inner in (module.named_modules() if module is not None else ())
        if callable(getattr(inner, "no_weight_decay", None))
        for name in inner.no_weight_decay()
    }
    return one_dimensional | named_by_modules


def _layers_above(names: list[str], all_names: list[str]) -> list[int]:
    """Return the number of layers above that of each parameter in `names`.

    A layer is the parameters that share their name up to the first number in it ("blocks.3"). The parameters before
    the first such layer are one layer, and so are those after the last.
    Source: Clark et al. 2020 (arXiv:2003.10555).

    Args:
        names: The parameters.
        all_names: All parameters of the model, in order.
    """
    layers: dict[str, int] = {}
    ranks: dict[str, int] = {}
    last = -1
    for index, name in enumerate(all_names):
        parts = name.split(".")
        number = next((position for position, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            last = index
            ranks[name] = layers.setdefault(".".join(parts[: number + 1]), len(layers) + 1)
        else:
            ranks[name] = len(layers)
    if not layers:
        raise ValueError(f"layer_decay: no numbered layers in the names {', '.join(all_names)}")
    top = len(layers) + (1 if last + 1 < len(all_names) else 0)
    ranks |= dict.fromkeys(all_names[last + 1 :], top)
    return [top - ranks[name] for name in names]


def _merge(parameters: list[_NamedParameter]) -> list[ParamGroup]:
    groups: dict[Hashable, ParamGroup] = {}
    for each in parameters:
        key = frozenset((name, _comparable(value)) for name, value in each.options.items())
        group = groups.setdefault(key, {**each.options, "params": []})
        group["params"].append((each.name, each.parameter))
    return list(groups.values())


def _comparable(value: object) -> Hashable:
    """Return a hashable object that is equal for equal options."""
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return str(value.tolist()) if isinstance(value, Tensor) else value  # a tensor's hash is its identity
