"""Checks that the config gives components the roles that the objective has for them."""

from ..config.schema import ModelConfig
from ..errors import ConfigError
from ..interfaces.objective import Objective


def check_roles(objective: Objective, model: ModelConfig) -> None:
    """Check the components that the objective needs as moving averages, and those that it steps at every update.

    Raises:
        ConfigError: A component is not the average that it must be, or its optimizer steps it more rarely.
    """
    for target, source in objective.targets().items():
        entry = model.components.get(target)
        if entry is None or entry.ema_of != source:
            found = "it is not" if entry is None or entry.ema_of is None else f"it is one of {entry.ema_of}"
            raise ConfigError(
                f"model.components.{target}: must be a moving average of {source}; {found}. Write"
                f" {target}: {{ema_of: {source}, tau: 0.005}}"
            )
    for name in objective.always_stepped():
        optim = model.component_optims.get(name)
        if optim is not None and optim.every > 1:
            raise ConfigError(
                f"model.component_optims.{name}.every: must be 1, as {type(objective).__name__} steps {name} at every"
                f" update; got {optim.every}"
            )
