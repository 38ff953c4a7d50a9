"""`innerstep validate`: what can be checked of a config without its data."""

from collections.abc import Callable
from functools import partial

from pydantic import BaseModel

from optimizer import Horizon

from .config.entries import OptimConfig
from .config.placed import naming_places
from .config.schema import ExperimentConfig
from .errors import ConfigError
from .loop.metric_monitors import check_without_data, monitored_by_rules
from .reporting.metrics_log import sink_classes
from .runtime.devices import check_device_name
from .setup.optimizers import factory_errors


@naming_places
def check_config(config: ExperimentConfig) -> None:
    """Check a validated config further: sinks, the device's name, metrics of rules, and lengths in `total_steps`.

    Nothing of the config is built, and the machine does not matter.

    Raises:
        ConfigError: Something cannot work. The message has one line an error.
    """
    checks: list[Callable[[], object]] = [
        lambda: sink_classes(config.train.log),
        lambda: check_device_name(config.train.device, "train.device"),
    ]
    checks += [
        partial(check_without_data, path, monitor, config.train) for path, monitor in monitored_by_rules(config.train)
    ]
    for name, optim in config.model.component_optims.items():
        if config.model.entries[name].freeze is not True and config.train.total_steps is not None:
            checks.append(_length_check(name, optim, config.train.total_steps))
    errors = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))


def _length_check(name: str, optim: OptimConfig, total_steps: int) -> Callable[[], object]:
    """Return a check of an optimizer's lengths. It passes if they fit for any length of an epoch, which is unknown."""

    def check() -> None:
        if not isinstance(optim.factory, BaseModel):
            return
        try:
            _resolve(name, optim, Horizon(total_steps, total_steps))
        except ConfigError:
            _resolve(name, optim, Horizon(total_steps, 1))

    return check


def _resolve(name: str, optim: OptimConfig, horizon: Horizon) -> None:
    with factory_errors(name, optim):
        optim.resolved_params(horizon)
