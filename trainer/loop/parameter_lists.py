"""The parameters that train and those in the optimizers: two lists that must agree."""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from optimizer.config import listed

from ..errors import UserCodeError
from ..interfaces.component import config_path, trained_parameters

_SHOWN = 8
_REMEDY = (
    "Make, replace and freeze parameters in the component's constructor or in the objective's prepare: the optimizers"
    " are built after them."
)


def check_parameters(components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> None:
    """Compare the parameters that train with those in the optimizers, by identity: no tensor is read.

    Raises:
        UserCodeError: They differ, as `parameter_problems` describes.
    """
    if problems := parameter_problems(components, optimizers):
        raise UserCodeError("\n".join(problems))


def parameter_problems(components: nn.ModuleDict, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """Return a line for each component whose trainable parameters are not exactly those in its optimizer.

    The line names the component, the parameters that were replaced, made, unfrozen, frozen or removed, and the remedy.

    Args:
        optimizers: By component name; a frozen component has none.
    """
    problems = []
    for name, component in components.items():
        own = {id(parameter): path for path, parameter in component.named_parameters()}
        trains = {id(parameter): path for path, parameter in trained_parameters(component).items()}
        stepped = _optimized_parameters(optimizers[name]) if name in optimizers else {}
        if trains.keys() == stepped.keys():
            continue
        path = config_path(components, name)
        if name in optimizers:
            problems.append(f"{path}: {_differences(own, trains, stepped)}. {_REMEDY}")
        else:
            frozen = "is frozen and has no optimizer, but these parameters require a gradient now"
            problems.append(f"{path}: {frozen}: {_name_list(list(trains.values()))}. {_REMEDY}")
    return problems


def _optimized_parameters(optimizer: Optimizer) -> dict[int, str]:
    """Return the names of the parameters in `optimizer` by identity."""
    stepped: dict[int, str] = {}
    for group in optimizer.param_groups:
        names = group.get("param_names") or ["(without a name)"] * len(group["params"])
        stepped |= {id(parameter): name for parameter, name in zip(group["params"], names, strict=True)}
    return stepped


def _differences(own: Mapping[int, str], trains: Mapping[int, str], stepped: Mapping[int, str]) -> str:
    """Return the differences as text. own: all parameters of a component; trains: those that require a gradient."""
    untrained = [name for key, name in trains.items() if key not in stepped]
    lost = [name for key, name in stepped.items() if key not in own]
    kinds = {
        "its optimizer has not the parameters that were put in place of others": set(untrained) & set(lost),
        "its optimizer has not the parameters that were made or unfrozen later": set(untrained) - set(lost),
        "its optimizer has parameters that are not there any more": set(lost) - set(untrained),
        "its optimizer has parameters that were frozen later": {
            name for key, name in stepped.items() if key in own and key not in trains
        },
    }
    return "; ".join(f"{kind}: {_name_list(sorted(names))}" for kind, names in kinds.items() if names)


def _name_list(names: Sequence[str]) -> str:
    return listed(names, _SHOWN)
