"""One small batch through the model before anything is written, to see that its parts fit together."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.data import Batch
from trainer.errors import ConfigError, raised
from trainer.objective import Objective, Outcome


def rehearse(objective: Objective, components: nn.ModuleDict, batch: Batch) -> Outcome:
    """Return the losses and metrics of `batch` in eval mode, without gradients.

    Raises ConfigError that names the component which cannot take its input, and the line that failed.
    """
    running: list[tuple[str, str]] = []
    hooks = []
    for name, component in components.items():
        hooks.append(component.register_forward_pre_hook(_enter(running, name)))
        hooks.append(component.register_forward_hook(lambda *_: running.pop() and None))
    components.eval()
    try:
        with torch.no_grad():
            outcome = objective.losses(components, batch)
            return Outcome(outcome.losses, outcome.measured())
    except ConfigError:
        raise
    except Exception as error:  # components and objectives are users' code, which may raise anything
        path, given = running[-1] if running else ("train.objective", f"a batch of {_shapes(batch)}")
        raise ConfigError(f"{path}: fails on {given}: {raised(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _enter(running: list[tuple[str, str]], name: str) -> Any:
    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        shapes = ", ".join(str(list(value.shape)) for value in inputs if isinstance(value, Tensor))
        running.append((f"model.components.{name}", f"an input of shape {shapes}"))

    return note


def _shapes(batch: Batch) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())
