"""Backward passes and updates: what an objective is handed to learn with."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from trainer.errors import ConfigError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Updates components by the gradients of losses.

    components: the whole model. optimizers: by component name. precision: fp32, bf16 or fp16.
    grad_clip_norm: joint L2 norm that the gradients of all components stepped at once are scaled down to,
    before what each optimizer's own `grad_clip_norm` does.
    Of an update of several batches, `step` keeps the gradients until the last batch, and then takes their mean.
    After `step`, `lrs` holds the lr which each component's last update ran at, and, while `measuring`,
    `grad_norms` the joint L2 norm of its gradients before clipping, as a scalar tensor.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        optimizers: Mapping[str, Optimizer],
        device: torch.device,
        precision: str,
        grad_clip_norm: float | None = None,
    ) -> None:
        self.optimizers = optimizers
        self._grad_clip_norm = grad_clip_norm
        self.measuring = False
        self._index, self._count = 0, 1
        self._stepped: set[str] = set()
        self.lrs: dict[str, float] = {}
        self.grad_norms: dict[str, Tensor] = {}
        self._components = components
        self._device = device
        self._dtype = _AUTOCAST.get(precision)
        self._scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self._parameters = {
            name: [parameter for parameter in components[name].parameters() if parameter.requires_grad]
            for name in optimizers
        }

    def autocast(self) -> AbstractContextManager[object]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def begin_batch(self, index: int, count: int) -> None:
        """Say which of the `count` batches of an update comes next."""
        self._index, self._count = index, count
        self._stepped.clear()
        if index == 0 and count > 1:
            self._zero(self._parameters)

    def step(self, loss: Tensor, *components: str) -> None:
        names = [name for name in components or self.optimizers if self._trains(name)]
        if not names:
            return
        if self._count == 1:
            self._zero(names)
        else:
            self._refuse_twice(names)
            loss = loss / self._count
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward(inputs=[parameter for name in names for parameter in self._parameters[name]])  # type: ignore[no-untyped-call]  # torch
        if self._index < self._count - 1:
            return
        for name in names:
            self._look_at_gradients(name)
        if self._grad_clip_norm:
            _clip([gradient for name in names for gradient in self._gradients(name)], self._grad_clip_norm)
        for name in names:
            self._update(name)
        if self._scaler is not None:
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale's state; empty without one."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the loss scale. Without one, or from a run without one, nothing happens.

        Raises ValueError if `state` is none of a loss scale.
        """
        if self._scaler is not None and state:
            for name, value in self._scaler.state_dict().items():
                if type(state.get(name)) is not type(value) or not 0 <= state[name] < float("inf"):
                    raise ValueError(f"the loss scale's {name} is {state.get(name)!r}")
            self._scaler.load_state_dict(state)

    def _zero(self, names: Iterable[str]) -> None:
        for name in names:  # an optimizer's own zero_grad does just this, and takes ten times as long
            for parameter in self._parameters[name]:
                parameter.grad = None

    def _refuse_twice(self, names: list[str]) -> None:
        for name in self._stepped.intersection(names):
            raise ConfigError(
                f"train.accumulate: must be 1 for this objective, which updates {name} several times a batch;"
                f" got {self._count} or more. Raise data.batch_size instead."
            )
        self._stepped.update(names)

    def _trains(self, name: str) -> bool:
        if name not in self._components:
            raise KeyError(f"there is no component {name!r} to step")
        return name in self.optimizers

    def _gradients(self, name: str) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters[name] if parameter.grad is not None]

    def _look_at_gradients(self, name: str) -> None:
        """Refuse a component without gradients; unscale them and, while measuring, measure them."""
        if all(parameter.grad is None for parameter in self._parameters[name]):
            raise ConfigError(
                f"model.components.{name}: the loss does not depend on it. Wire it into the objective, or freeze it."
            )
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizers[name])
        if self.measuring:
            self.grad_norms[name] = get_total_norm(self._gradients(name))

    def _update(self, name: str) -> None:
        optimizer = self.optimizers[name]
        first = name not in self.lrs
        self.lrs[name] = float(optimizer.param_groups[0]["lr"])
        try:
            if self._scaler is None:
                optimizer.step()
            else:
                self._scaler.step(optimizer)
        except RuntimeError as error:
            if not first:
                raise
            raise ConfigError(
                f"model.component_optims.{name}: {type(optimizer).__name__} fails in its first step: {error}"
            ) from error


def _clip(gradients: list[Tensor], max_norm: float) -> None:
    """Scale `gradients` in place so that their joint L2 norm is at most `max_norm`.

    Where the norm is not finite they stay as they are: the scaler skips the components that overflowed, and
    those that did not are to be stepped by their own gradients.
    """
    norm = get_total_norm(gradients)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
    torch._foreach_mul_(gradients, torch.where(torch.isfinite(norm), factor, 1.0))
