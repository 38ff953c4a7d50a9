"""Moving averages of weights: `train.ema`, and components that are an average of another one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from optimizer.config import Beta, Config, PositiveNumber, listed, nearest, refusal

from .freeze import FreezeUntil
from .init_from import InitConfig
from .marks import FixedInRun


class Entry(Protocol):
    """An entry of `model.components`, whose class imports this module."""

    @property
    def type(self) -> str: ...
    @property
    def params(self) -> dict[str, Any]: ...
    @property
    def freeze(self) -> bool | list[str] | FreezeUntil: ...
    @property
    def ema_of(self) -> str | None: ...
    @property
    def tau(self) -> float | None: ...
    @property
    def moves_with(self) -> str | None: ...
    @property
    def placement(self) -> str: ...
    @property
    def shard_units(self) -> list[str]: ...
    @property
    def init_from(self) -> InitConfig | None: ...


class EmaConfig(Config):
    """After each step of a component: average = decay · average + (1 - decay) · weights."""

    decay: FixedInRun[Beta] = 0.9999
    """The largest decay: the share that the average keeps of itself at a step."""
    power: FixedInRun[PositiveNumber | None] = 0.75
    """Exponent of the warm-up: at step k the decay is at most 1 - (1 + k)^-power; null: no warm-up."""
    components: FixedInRun[list[str] | None] = None
    """The components to average; null: all that train, except those whose optimizer averages weights itself."""


_OF_THE_SOURCE = ("type", "params", "placement", "shard_units")
"""The fields that an average has from its source."""


def with_sources(raw: Mapping[str, object], of_policy: Sequence[str]) -> dict[str, object]:
    """Return raw entries of `model.components`; those with `ema_of` have class and placement of that component.

    Args:
        raw: By name.
        of_policy: The names of the components of `model.policy`.

    Raises:
        ValidationError: There is no such component, or it is an average or of the policy.
    """
    entries = dict(raw)
    for name, entry in raw.items():
        source_name = entry.get("ema_of") if isinstance(entry, dict) else None
        if not isinstance(source_name, str) or not isinstance(entry, dict):
            continue  # another type is refused by the field
        source = raw.get(source_name)
        path, others = (name, "ema_of"), [other for other in raw if other != name]
        if source is None and source_name in of_policy:
            rule = f"{source_name} is of model.policy, and has an average by train.ema alone. Or make it a component"
            raise refusal(rule, path, source_name)
        if source is None and source_name in raw:
            continue  # its own error is the one to report
        if source is None or source_name == name:
            rule = f"there is no other component of this name{nearest(str(source_name), others)}"
            raise refusal(f"{rule} Components: {', '.join(others)}", path, source_name)
        fields = source if isinstance(source, dict) else getattr(source, "__dict__", {})
        if fields.get("ema_of") is not None:
            rule = f"{source_name} is an average of {fields['ema_of']} itself: take {fields['ema_of']}"
            raise refusal(rule, path, source_name)
        filled = {field: fields[field] for field in _OF_THE_SOURCE if fields.get(field) is not None}
        if entry.get("placement", filled.get("placement")) != filled.get("placement"):
            filled.pop("shard_units", None)  # the placement is the mistake to report
        entries[name] = {**filled, "freeze": True, **entry}
    return entries


def check_averages(components: Mapping[str, Entry], of_policy: Sequence[str]) -> None:
    """Check the entries that are an average of another component.

    Args:
        components: By name.
        of_policy: The names of the components of `model.policy`.

    Raises:
        ValidationError: One has a field that the average decides, or its source does not train.
    """
    for name, average in components.items():
        if average.ema_of is None:
            for field, value in (("tau", average.tau), ("moves_with", average.moves_with)):
                if value is not None:
                    raise refusal(f"needs ema_of, the component to average; got {value}", (name, field), value)
            continue
        if average.tau is None:
            rule = f"required with ema_of: the share of {average.ema_of} to move by, such as 0.005"
            raise refusal(rule, (name, "tau"))
        source = components[average.ema_of]
        if source.freeze is True:
            rule = f"{average.ema_of} is frozen: its average would be the same weights"
            raise refusal(rule, (name, "ema_of"), average.ema_of)
        for field in _OF_THE_SOURCE:
            value, expected = getattr(average, field), getattr(source, field)
            if value != expected:
                rule = f"must be that of {average.ema_of}, {expected!r}, or left out; got {value!r}"
                raise refusal(rule, (name, field), value)
        if average.freeze is not True:
            rule = f"must be true or left out: an average moves by ema_of alone; got {average.freeze!r}"
            raise refusal(rule, (name, "freeze"), average.freeze)
        if average.init_from is not None:
            rule = f"cannot be given with ema_of: an average starts at the weights of {average.ema_of}"
            raise refusal(rule, (name, "init_from"), str(average.init_from.path))
        if average.moves_with is not None:
            trained = [other for other, entry in components.items() if entry.freeze is not True]
            if average.moves_with not in (others := [*of_policy, *trained]):
                rule = f"must be a component that trains{nearest(average.moves_with, others)} They are {listed(others)}"
                raise refusal(rule, (name, "moves_with"), average.moves_with)
