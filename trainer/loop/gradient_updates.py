"""Backward passes and updates: what an objective is handed to learn with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.config import counted
from optimizer.transforms import total_norm

from ..errors import ConfigError, NonFiniteError, user_line
from ..interfaces.dataset import Batch
from ..runtime.rng import KeptRandomNumbers
from .gradients import all_finite, clip, first_nonfinite
from .running_statistics import KeptStatistics

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOWEST_SCALE = 1.0
"""Loss scale at which a gradient that is not finite is no overflow of half precision."""

OnNonFinite = Literal["stop", "skip", "continue"]


@dataclass(frozen=True)
class Rules:
    """How updates are made. Fields as in the config's `train`; every: of `component_optims`, by component."""

    precision: str = "fp32"
    grad_clip_norm: float | None = None
    on_nonfinite: OnNonFinite = "stop"
    every: Mapping[str, int] = field(default_factory=dict)


class GradientUpdater:
    """Updates components by the gradients of losses.

    components: the whole model. optimizers: by component name. log: prints a line.
    `rules.grad_clip_norm` is the joint L2 norm that the gradients of all components stepped at once are scaled down
    to, before what each optimizer's own `grad_clip_norm` does.
    Of an update of several batches, `step` keeps the gradients until the last batch; every sample weighs the same.
    After `step`, `lrs` holds the lr which each component's last update ran at, and, while `record_norms`,
    `grad_norms` the joint L2 norm of its gradients before clipping, as a scalar tensor. `turns` counts how often each
    component's turn came; `skipped`, how often it was not moved then, as values were not finite; `stepped` names
    those that the present update has moved so far.
    """

    def __init__(
        self,
        components: nn.ModuleDict,
        optimizers: Mapping[str, Optimizer],
        device: torch.device,
        rules: Rules,
        log: Callable[[str], None],
    ) -> None:
        self.optimizers, self.rules = optimizers, rules
        self.record_norms = False
        self.stepped: set[str] = set()
        self.lrs: dict[str, float] = {}
        self.grad_norms: dict[str, Tensor] = {}
        self.skipped: dict[str, int] = {}
        self.turns: dict[str, int] = {}
        self.update, self.index = 0, 0
        self.sizes: tuple[int, ...] = (1,)
        self.batch: Batch = {}
        self._components, self._device, self._say = components, device, log
        self._backward: set[str] = set()
        self._losses: dict[tuple[str, ...], list[Tensor]] = {}
        self._last_step: dict[str, int] = {}
        self._dtype = _AUTOCAST.get(rules.precision)
        self._scaler = torch.amp.GradScaler(device.type) if rules.precision == "fp16" else None
        self._parameters = {
            name: [parameter for parameter in components[name].parameters() if parameter.requires_grad]
            for name in optimizers
        }
        self._statistics = KeptStatistics(components[name] for name in optimizers)
        self._random = KeptRandomNumbers()

    def autocast(self) -> AbstractContextManager[object]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def begin_update(self, update: int, sizes: Sequence[int]) -> None:
        """Begin update number `update`, of batches of so many samples."""
        self.update, self.sizes = update, tuple(sizes)
        self.stepped.clear()
        self._losses.clear()
        self._random.keep()
        if self.rules.on_nonfinite != "continue":
            self._statistics.keep()
        if len(sizes) > 1:
            self._zero(self._parameters)

    def begin_batch(self, index: int) -> None:
        """Begin batch number `index` of the update, which is to be made and put into `batch`."""
        self.index, self.batch = index, {}
        self._backward.clear()

    def step(self, loss: Tensor, *components: str) -> None:
        names = self._whose_turn(components)
        if not names:
            return
        _check_loss(loss)
        count = len(self.sizes)
        if count == 1:
            self._zero(names)
        else:
            self._refuse_twice(names)
        self._losses.setdefault(names, []).append(loss.detach())
        # A sample's share in the update is the same in a short batch.
        share = loss if count == 1 else loss * (self.sizes[self.index] * count / sum(self.sizes)) / count
        scaled = share if self._scaler is None else self._scaler.scale(share)
        scaled.backward(inputs=[parameter for name in names for parameter in self._parameters[name]])  # type: ignore[no-untyped-call]  # torch
        if self.index == count - 1:
            self._move(names)

    def undo_forward(self) -> None:
        """Put back the running statistics of before the update, whose batches may have left NaNs in them."""
        self._statistics.put_back()

    def undo_draws(self) -> None:
        """Put back the random generators to before the update, so that it draws the same numbers when made again."""
        self._random.put_back()

    def lrs_now(self) -> dict[str, float]:
        """Return the lr that each component was stepped at in this update; of the others, that of their next step."""
        return {
            name: self.lrs[name] if name in self.stepped else float(optimizer.param_groups[0]["lr"])
            for name, optimizer in self.optimizers.items()
        }

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

    def _move(self, names: tuple[str, ...]) -> None:
        """Step the optimizers of `names`, or skip them where values are not finite."""
        for name in names:
            self.turns[name] = self.turns.get(name, 0) + 1
            self._look_at_gradients(name)
        if self._is_healthy(names):
            if self.rules.grad_clip_norm:
                clip([gradient for name in names for gradient in self._gradients(name)], self.rules.grad_clip_norm)
            for name in names:
                self._step_optimizer(name)
        if self._scaler is not None:
            self._scaler.update()

    def _zero(self, names: Iterable[str]) -> None:
        for name in names:  # an optimizer's own zero_grad does just this, and takes ten times as long
            for parameter in self._parameters[name]:
                parameter.grad = None

    def _whose_turn(self, components: Sequence[str]) -> tuple[str, ...]:
        """Return the components to step: those named, or all whose turn this update is, save frozen ones."""
        every = self.rules.every
        if not components:
            return tuple(name for name in self.optimizers if self.update % every.get(name, 1) == 0)
        for name in components:
            if name not in self._components:
                raise KeyError(f"there is no component {name!r} to step")
            last = self._last_step.get(name)
            if last is not None and 0 < self.update - last < every.get(name, 1):
                raise ConfigError(
                    f"model.component_optims.{name}.every: is {every[name]}, but the objective steps {name} at the"
                    f" updates {last} and {self.update}. Set it to the updates between two steps of {name}."
                )
        return tuple(name for name in components if name in self.optimizers)

    def _refuse_twice(self, names: Sequence[str]) -> None:
        for name in self._backward.intersection(names):
            raise ConfigError(
                f"train.accumulate: must be 1 for this objective, which updates {name} several times a batch;"
                f" got {len(self.sizes)} or more. Raise data.batch_size instead."
            )
        self._backward.update(names)

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
        if self.record_norms:
            self.grad_norms[name] = total_norm(self._gradients(name))

    def _is_healthy(self, names: tuple[str, ...]) -> bool:
        """Return whether to step. Raises NonFiniteError where a value is not finite and the run must stop."""
        rule = self.rules.on_nonfinite
        if rule == "continue" and self._scaler is None:
            return True
        losses = [loss.float().reshape(1).clone() for loss in self._losses.pop(names)]
        gradients = [gradient for name in names for gradient in self._gradients(name)]
        if all_finite([*losses, *gradients]):
            return True
        if self._scaler is not None and all_finite(losses) and self._scaler.get_scale() > _LOWEST_SCALE:
            self._count_skipped([name for name in names if not all_finite(self._gradients(name))])
            return True  # the scaler leaves out those that have overflowed, and lowers the scale
        if rule == "continue":
            return True
        found = self._finding(losses, names)
        if rule == "stop":
            raise NonFiniteError(found)
        self.undo_forward()
        self._count_skipped(names)
        number = self.skipped[names[0]]
        if number & (number - 1) == 0:  # 1, 2, 4, 8 …: a long series would flood the log
            self._say(f"update {self.update} is skipped, the {number}. of {', '.join(names)}: {found}")
        return False

    def _count_skipped(self, names: Iterable[str]) -> None:
        for name in names:
            self.skipped[name] = self.skipped.get(name, 0) + 1

    def _finding(self, losses: Sequence[Tensor], names: Sequence[str]) -> str:
        """Return what is not finite: losses, entries of the batch, weights, gradients."""
        found = []
        for index, loss in enumerate(losses):
            if not torch.isfinite(loss).all():
                which = f" of batch {index} of {len(losses)}" if len(losses) > 1 else ""
                found.append(f"the loss{which} is {float(loss):g}")
        if entry := first_nonfinite(self.batch.items()):
            found.append(f"the batch's {entry} is not finite")
        for name in names:
            named = list(self._components[name].named_parameters())
            if weight := first_nonfinite(named):
                found.append(f"the weights of {name} are not finite: {weight}")
            elif gradient := first_nonfinite((key, parameter.grad) for key, parameter in named):
                found.append(f"the gradient of {name} is not finite: {gradient}")
        return "; ".join(found)

    def _step_optimizer(self, name: str) -> None:
        optimizer = self.optimizers[name]
        first = name not in self.lrs
        self.lrs[name] = float(optimizer.param_groups[0]["lr"])
        self.stepped.add(name)
        self._last_step[name] = self.update
        try:
            if self._scaler is None:
                optimizer.step()
            else:
                self._scaler.step(optimizer)
        except RuntimeError as error:
            if not first:
                raise
            raise ConfigError(
                f"model.component_optims.{name}: {type(optimizer).__name__} fails in its first step:"
                f" {error}{user_line(error)}"
            ) from error


def off_plan(learner: GradientUpdater, updates: range) -> list[str]:
    """Return a line for each component that was not stepped in `updates` as often as planned, or skipped some."""
    lines = []
    for name in learner.optimizers:
        every, turns = learner.rules.every.get(name, 1), learner.turns.get(name, 0)
        planned = sum(update % every == 0 for update in updates)
        if turns == 0 and planned > 0:
            lines.append(f"{name}: the objective did not step its optimizer in {counted(len(updates), 'update')}")
        elif abs(turns - planned) > (every > 1):  # an objective may take the other of two updates
            remedy = f"Set model.component_optims.{name}.every to the updates between two steps."
            if turns > len(updates):
                remedy = "Give the schedule the length of the run in steps, where it has one."
            lines.append(
                f"{name}: was stepped {counted(turns, 'time')} in {counted(len(updates), 'update')}, and"
                f" planned were {planned}: its schedule is off the plan. {remedy}"
            )
        if skipped := learner.skipped.get(name):
            lines.append(f"{name}: skipped {counted(skipped, 'update')}, as values were not finite")
    return lines


def _check_loss(loss: Tensor) -> None:
    """Raise ValueError for what there is no gradient of."""
    if not isinstance(loss, Tensor):
        raise ValueError(f"a loss must be a scalar tensor; got a {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"a loss must be a scalar; got the shape {list(loss.shape)}. Take its mean over the batch.")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it was detached, or made under no_grad, or depends on no parameter")
