"""The parameter groups that a class recommends by `get_optim_params`, as rules by name in `param_groups`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from optimizer import ScheduledFactory
from optimizer.config import explain, nest
from optimizer.factories import trainable_parameters

from ..config.entries import OptimConfig
from ..config.schema import ExperimentConfig
from ..errors import ConfigError, raised
from ..interfaces.component import config_path
from ..splitting.parts import REST, whole_module

_NOT_OPTIONS = ("params", "param_names", "name")
_RATES = {"lr", "peak_lr"}
"""Names of the parameter that is the lr of an optimizer's groups."""

Options = Mapping[str, object]


def with_group_rules(config: ExperimentConfig, components: nn.ModuleDict) -> ExperimentConfig:
    """Return the config whose presets have the groups of their components' classes as `param_groups`.

    An option that the entry itself gives is the same for all groups then.

    Raises:
        ConfigError: A `get_optim_params` fails, or the optimizer does not take the options of its groups.
    """
    optims = dict(config.model.component_optims)
    for name, optim in optims.items():
        if optim.preset is not None and "param_groups" not in optim.preset.given:
            source = name if name in config.model.components else REST
            options = _options_by_parameter(config_path(components, source), whole_module(components[source]))
            if rules := _rules(components[name], options, optim):
                optims[name] = _with_rules(name, optim, rules)
    model = config.model.model_copy(update={"component_optims": optims})
    return config.model_copy(update={"model": model})


def _options_by_parameter(path: str, module: nn.Module) -> dict[Tensor, Options]:
    """Return the options of the group of each parameter that `get_optim_params` names. path: the module's, for errors.

    Raises:
        ConfigError: It fails, or returns something else than parameters and groups of them.
    """
    if not callable(method := getattr(module, "get_optim_params", None)):
        return {}
    try:
        groups = [group if isinstance(group, Mapping) else {"params": group} for group in _listed(method())]
        found: dict[Tensor, Options] = {}
        for group in groups:
            options = {name: value for name, value in group.items() if name not in _NOT_OPTIONS}
            found |= dict.fromkeys(_tensors(group["params"]), options)
    except Exception as error:  # the class is the user's code, which may raise anything
        raise ConfigError(f"{path}: the get_optim_params of {type(module).__name__} fails: {raised(error)}") from error
    return found


def _listed(returned: Any) -> list[Any]:
    """Return groups and parameters: those of a mapping are its values, unless it is a group itself."""
    if isinstance(returned, Mapping):
        return [returned] if "params" in returned else list(returned.values())
    return [item[1] if isinstance(item, tuple) and len(item) == 2 else item for item in returned]


def _tensors(params: Any) -> Iterable[Tensor]:
    """Yield the parameters of a group: tensors, or pairs of a name and a tensor."""
    for item in [params] if isinstance(params, Tensor) else params:
        parameter = item[1] if isinstance(item, tuple) else item
        if not isinstance(parameter, Tensor):
            raise TypeError(f"a group must hold parameters; got a {type(parameter).__name__}")
        yield parameter


def _rules(component: nn.Module, options: Mapping[Tensor, Options], optim: OptimConfig) -> list[dict[str, Any]]:
    """Return one rule for each group of a component whose options differ from those of the entry."""
    parameters = trainable_parameters(component)
    own = {name: _differing(options.get(parameter, {}), optim) for name, parameter in parameters.items()}
    distinct: list[Options] = []
    for each in own.values():
        if each and each not in distinct:
            distinct.append(each)
    return [{"match": patterns_of(list(own), {name for name in own if own[name] == each}), **each} for each in distinct]


def _differing(options: Options, optim: OptimConfig) -> dict[str, object]:
    """Return those options of a group that the entry neither gives itself nor has anyway."""
    assert optim.preset is not None, "only presets have groups"
    given, factory = set(optim.preset.given), optim.factory
    if given & _RATES:
        given |= _RATES
    has: dict[str, object] = dict(optim.params)
    if isinstance(factory, ScheduledFactory):
        has = factory.model_dump() | {"lr": factory.base_lr}
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {name: value for name, value in kept.items() if name not in given and _plain(has.get(name)) != value}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def patterns_of(names: Sequence[str], wanted: set[str], prefix: str = "") -> list[str]:
    """Return patterns that match the `wanted` ones of `names` and no other: `prefix.*` where all below it are wanted.

    Args:
        names: All that begin with `prefix`.
        wanted: Names to match.
        prefix: Empty, or the path of a module with a dot at its end.
    """
    if wanted.issuperset(names):
        return [f"{prefix}*"]
    by_first: dict[str, list[str]] = {}
    for name in names:
        first, dot, _ = name.removeprefix(prefix).partition(".")
        by_first.setdefault(first + dot, []).append(name)
    patterns = []
    for first, below in by_first.items():
        if not wanted.isdisjoint(below):
            patterns += patterns_of(below, wanted, prefix + first) if first.endswith(".") else [prefix + first]
    return patterns


def _with_rules(name: str, optim: OptimConfig, rules: Sequence[Mapping[str, Any]]) -> OptimConfig:
    try:
        return optim.replaced(params={**optim.params, "param_groups": [*optim.params.get("param_groups", []), *rules]})
    except ValidationError as error:
        raise ConfigError("\n".join(explain(nest(error, ("model", "component_optims", name))))) from error
