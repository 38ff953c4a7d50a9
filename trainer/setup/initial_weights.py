"""Loads the weights that `init_from` names into a component, or into a policy as a whole."""

from collections.abc import Callable, Mapping

from torch import nn
from torch.nn.parameter import is_lazy

from ..checkpoint.init_from import init_component
from ..config.init_from import InitConfig
from ..errors import ConfigError

Loaded = Mapping[str, nn.Parameter]
"""The parameters that one `init_from` loaded, by name."""


def replaces_all(init: InitConfig | None) -> bool:
    """Return whether `init_from` replaces all weights that a class begins with."""
    return init is not None and init.weights and init.strict


def load_initial(
    path: str, init: InitConfig, module: nn.Module, log: Callable[[str], None], is_policy: bool = False
) -> Loaded:
    """Load the weights that `init` names into `module`, and return the parameters that were loaded.

    Args:
        path: The path of the module's entry in the config. It ends in the component's name.
        init: The entry's `init_from`.
        module: A component, or a whole policy.
        log: Prints a line.
        is_policy: Whether it is a whole policy, which may be in parts in the source.

    Raises:
        ConfigError: They are missing, damaged, or do not fit.
    """
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise ConfigError(
            f"{path}.init_from: the component has lazy modules, whose parameters have no shape to load into yet."
        )
    try:
        names, lines = init_component(path.rpartition(".")[2], init, module, is_policy)
    except ValueError as error:
        raise ConfigError(f"{path}.init_from: {error}") from error
    for line in lines:
        log(line)
    chosen = set(names)
    return {name: parameter for name, parameter in module.named_parameters() if name in chosen}
