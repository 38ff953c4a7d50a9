"""Backward passes and updates: the object that an objective learns with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer.factories import trainable_parameters
from optimizer.kernels import step_together
from optimizer.types import StateDict

from ..config.turns import Turns
from ..distributed.sums import mean_over
from ..distributed.world import World
from ..errors import ConfigError, NonFiniteError, user_line
from ..interfaces.component import config_path
from ..interfaces.dataset import Batch
from ..runtime.rng import RngSnapshot
from ..splitting.parts import in_model_order
from .agreed_gradients import AgreedGradients
from .averaged_weights import MovingAverages
from .backward_pass import BackwardPass, check_loss
from .buffer_snapshot import BufferSnapshot
from .gradient_norms import GradientNorms
from .nonfinite import all_finite, describe_nonfinite
from .rules import Rules, autocast
from .timed_freezing import TimedFreezing

_LOWEST_SCALE = 1.0
"""Loss scale at which half precision does not overflow: a gradient that is not finite then has another cause."""

_MANY = 4
"""So many optimizers are quicker to step together; fewer, one by one."""

_EVERY_UPDATE = Turns()


class GradientUpdater:
    """Updates components by the gradients of losses.

    In an update of several batches, `step` keeps the gradients until the last batch; every sample weighs the same.
    `rules.grad_clip_norm` applies to the joint gradient of all components that one call of `step` updates; the
    `grad_clip_norm` of each optimizer comes after it.

    Args:
        components: The whole model.
        optimizers: By component name.
        world: The place of this process.
        rules: How updates are made.
        averages: Move after each step of their component.
        log: Prints a line.
    """

    record_gradients = False
    """Whether `step` fills in `gradient_metrics`."""
    stepped: set[str]
    """The components that the present update has moved so far."""
    lrs: dict[str, float]
    """The lr that each component's last step ran at."""
    gradient_metrics: dict[str, dict[str, Tensor]]
    """Scalars by component and name, of its gradients before clipping: `grad_norm`, the joint L2 norm."""
    turns: dict[str, int]
    """How often each component's turn came."""
    skipped: dict[str, int]
    """How often each component was not moved at its turn, because values were not finite."""
    sizes: tuple[int, ...] = (1,)
    """Samples of each batch of the present update."""

    def __init__(
        self,
        components: nn.ModuleDict,
        optimizers: Mapping[str, Optimizer],
        world: World,
        rules: Rules,
        averages: MovingAverages,
        log: Callable[[str], None],
    ) -> None:
        self.optimizers, self.rules = optimizers, rules
        self.stepped, self.lrs, self.gradient_metrics, self.turns, self.skipped = set(), {}, {}, {}, {}
        self.update, self.batch_index = 0, 0
        self.batch: Batch = {}
        self._components, self._world, self._log = components, world, log
        self._averages = averages
        self._overflowed: set[str] = set()
        """The components whose present step the loss scaler leaves out."""
        self._backward: set[str] = set()
        self._losses: dict[tuple[str, ...], list[Tensor]] = {}
        self._last_step: dict[str, int] = {}
        self._scaler = torch.amp.GradScaler(world.device.type) if rules.precision == "fp16" else None
        named = {name: trainable_parameters(components[name]) for name in optimizers}
        self._parameters = {name: [*parameters.values()] for name, parameters in named.items()}
        self._norms = GradientNorms(optimizers, self._parameters, scales_in_steps=self._scaler is None)
        self._freezing = TimedFreezing(components, rules.turns)
        self._agreed = None if world.averages is None else AgreedGradients(world, named)
        self._ordered: dict[tuple[str, ...], list[nn.Parameter]] = {}
        self._passes: dict[tuple[str, ...], BackwardPass] = {}
        self._buffers = BufferSnapshot(components[name] for name in optimizers)
        self._rng = RngSnapshot()
        self._checks_values = rules.on_nonfinite != "continue" or self._scaler is not None
        self._checked: int | None = None
        """The last update after which the processes have checked their steps."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes: mixed precision where the run asks for it."""
        return autocast(self.rules.precision, self._world.device)

    def begin_update(self, update: int, sizes: Sequence[int]) -> None:
        """Begin an update.

        Args:
            update: Its number, from 0.
            sizes: Samples of each of its batches.
        """
        self.update, self.sizes = update, tuple(sizes)
        if update >= self._freezing.next_change:
            self._freezing.apply(update)
        self.stepped.clear()
        self._losses.clear()
        self._rng.take()
        self._buffers.take()
        if len(sizes) > 1:
            self._clear_gradients(self._parameters)

    def begin_batch(self, index: int) -> None:
        """Begin batch number `index` of the update. The caller makes it and puts it into `batch`."""
        self.batch_index, self.batch = index, {}
        self._backward.clear()

    def step(self, loss: Tensor, *components: str) -> None:
        """Update components by the gradient of `loss`.

        Args:
            loss: A scalar with a graph.
            components: Their names, frozen ones are left out; without a name, all whose turn it is by their `every`.

        Raises:
            ValueError: `loss` has no gradient, or a component is named twice.
            KeyError: There is no component of this name.
            ConfigError: The objective and the config do not fit each other.
            NonFiniteError: A value is not finite, under the rule "stop". No component has moved.
        """
        names = self._components_to_step(components)
        if not names:
            return
        check_loss(loss)
        count = len(self.sizes)
        if count == 1:
            self._clear_gradients(names)
        else:
            self._refuse_second_backward(names)
        losses = self._losses.setdefault(names, [])
        losses.append(loss.detach())
        weighted = loss if count == 1 and self._agreed is None else self._weighted(loss)
        scaled = weighted if self._scaler is None else self._scaler.scale(weighted)
        steps = self.batch_index == count - 1
        if self._agreed is not None and steps:
            self._agreed.begin(self.update, names, losses if self._checks_values else ())
        backward = self._passes.get(names) or self._new_backward_pass(names)
        backward(scaled)
        if self._agreed is not None and steps:
            self._agreed.finish(names, losses if self._checks_values else ())
        if steps:
            self._step_optimizers(names)

    def check_steps(self) -> None:
        """Check that all processes have stepped the same components up to the end of the present update.

        All of them call it before they exchange anything else: one that still waits in a step then knows why.

        Raises:
            UserCodeError: They have not.
        """
        if self._agreed is not None and self._checked != self.update:
            self._agreed.end_update(self.update)
        self._checked = self.update

    def check_met(self) -> None:
        """Check that all processes have come to the present update: no message, if it has made a step.

        Raises:
            UserCodeError: They have not.
        """
        if self._agreed is not None and self._agreed.update != self.update:
            self.check_steps()

    def is_due(self, component: str) -> bool:
        """Return whether this update is the component's turn: by the `every` of its optimizer, and if it is not frozen.

        Raises:
            KeyError: There is no component of this name.
        """
        if component not in self._components:
            raise KeyError(f"there is no component {component!r} to step")
        return self._planned(component).include(self.update)

    def training_optimizers(self, updates: int) -> list[Optimizer]:
        """Return the optimizers of the components that are not frozen any more after this number of updates."""
        return [optimizer for name, optimizer in self.optimizers.items() if self._planned(name).first < updates]

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the samples of the present batch, those in other processes included."""
        return mean_over(self._world, values, len(self._world.share(self.sizes[self.batch_index])) > 0)

    def restore_buffers(self) -> None:
        """Restore the buffers of before the update, whose batches may have left NaNs in them."""
        self._buffers.restore()

    def restore_rng(self) -> None:
        """Restore the random generators of before the update, so that it draws the same numbers when made again."""
        self._rng.restore()

    def current_lrs(self) -> dict[str, float]:
        """Return the lr that each component was stepped at in this update; for the others, that of their next step."""
        return {
            name: self.lrs[name] if name in self.stepped else float(optimizer.param_groups[0]["lr"])
            for name, optimizer in self.optimizers.items()
        }

    def state_dict(self) -> StateDict:
        """Return the loss scale's state; empty without one."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the loss scale. Without one, or from a run without one, nothing happens.

        Raises:
            ValueError: `state` is not that of a loss scale.
        """
        if self._scaler is not None and state:
            for name, value in self._scaler.state_dict().items():
                if type(state.get(name)) is not type(value) or not 0 <= state[name] < float("inf"):
                    raise ValueError(f"the loss scale's {name} is {state.get(name)!r}")
            self._scaler.load_state_dict(state)

    def _weighted(self, loss: Tensor) -> Tensor:
        """Return the loss of a batch times its weight: a sample has the same in a short batch and in any process."""
        size, count = self.sizes[self.batch_index], len(self.sizes)
        if not self._world.is_alone:
            assert self._agreed is not None  # they have joined: gradients will be averaged over them
            return loss * (len(self._world.share(size)) * self._world.size / sum(self.sizes))
        return loss * (size * count / sum(self.sizes)) / count

    def _step_optimizers(self, names: tuple[str, ...]) -> None:
        """Step the optimizers of `names`, or skip them where values are not finite."""
        for name in names:
            self.turns[name] = self.turns.get(name, 0) + 1
        self._measure({name: self._prepared_gradients(name) for name in names})
        if self._may_step(names):
            if self.rules.grad_clip_norm:
                self._norms.clip(names, self._gradients_in_model_order, self.rules.grad_clip_norm)
            if len(names) >= _MANY and self._scaler is None and self.lrs.keys() >= {*names}:
                step_together(map(self._optimizer_to_step, names))
            else:
                for name in names:
                    self._step_optimizer(name)
            for name in names:  # all have moved: an average may be of one of them, and move with another
                if name not in self._overflowed:
                    self._averages.follow(name)
        if self._scaler is not None:
            self._scaler.update()

    def _clear_gradients(self, names: Iterable[str]) -> None:
        for name in names:  # an optimizer's own zero_grad does just this, and takes ten times as long
            for parameter in self._parameters[name]:
                parameter.grad = None

    def _components_to_step(self, components: Sequence[str]) -> tuple[str, ...]:
        """Return the named components, or all whose turn this update is, without frozen ones."""
        if not components:
            return tuple(name for name in self.optimizers if self.is_due(name))
        if len({*components}) < len(components):
            raise ValueError(f"a step must name each component once; got {', '.join(components)}")
        for name in components:
            if name not in self._components:
                raise KeyError(f"there is no component {name!r} to step")
            last, every = self._last_step.get(name), self._planned(name).every
            if last is not None and 0 < self.update - last < every:
                raise ConfigError(
                    f"model.component_optims.{name}.every: is {every}, but the objective steps {name} at the"
                    f" updates {last} and {self.update}. Set it to the updates between two steps of {name}."
                )
        return tuple(
            name for name in components if name in self.optimizers and self.update >= self._planned(name).first
        )

    def _planned(self, component: str) -> Turns:
        return self.rules.turns.get(component, _EVERY_UPDATE)

    def _refuse_second_backward(self, names: Sequence[str]) -> None:
        for name in self._backward.intersection(names):
            raise ConfigError(
                f"train.accumulate: must be 1 for this objective, which updates {name} several times a batch;"
                f" got {len(self.sizes)} or more. Raise data.batch_size instead."
            )
        self._backward.update(names)

    def _gradients(self, name: str) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters[name] if parameter.grad is not None]

    def _tested_gradients(self, *names: str) -> list[Tensor]:
        """Return tensors that are finite if the gradients of components are so in all processes."""
        tested: list[Tensor] = []
        for name in names:
            gradients = [] if self._norms.are_finite(name) else self._gradients(name)
            tested += gradients if self._agreed is None else self._agreed.of(name, gradients)
        return tested

    def _new_backward_pass(self, names: tuple[str, ...]) -> BackwardPass:
        """Return the backward pass that gives gradients to `names` only, which is kept."""
        others = [name for name in self.optimizers if name not in names]
        self._passes[names] = BackwardPass(
            *([parameter for name in part for parameter in self._parameters[name]] for part in (names, others))
        )
        return self._passes[names]

    def _gradients_in_model_order(self, names: tuple[str, ...]) -> list[Tensor]:
        """Return the gradients of `names` in an order that does not depend on how a policy is taken apart."""
        if names not in self._ordered:
            own = {parameter for name in names for parameter in self._parameters[name]}
            order = in_model_order(self._components.values())
            self._ordered[names] = [parameter for parameter in order if parameter in own]
        return [parameter.grad for parameter in self._ordered[names] if parameter.grad is not None]

    def _prepared_gradients(self, name: str) -> list[Tensor]:
        """Return the gradients of a component, without the loss scale. Refuses one that has none."""
        if not (gradients := self._gradients(name)):
            raise ConfigError(
                f"{config_path(self._components, name)}: the loss does not depend on it. Wire it into the objective,"
                " or freeze it."
            )
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizers[name])
        return gradients

    def _measure(self, gradients: Mapping[str, list[Tensor]]) -> None:
        """Take the norms of the gradients of components, if they are needed, and record them, if asked to."""
        self._norms.clear()
        if self.record_gradients or self._checks_values or self.rules.grad_clip_norm:
            self._norms.take(gradients)
        if self.record_gradients:
            norms = {name: self._norms.norm(name, own) for name, own in gradients.items()}
            self.gradient_metrics |= {name: {"grad_norm": norm} for name, norm in norms.items()}

    def _may_step(self, names: tuple[str, ...]) -> bool:
        """Return whether to step. Raises NonFiniteError where a value is not finite and the run must stop."""
        rule = self.rules.on_nonfinite
        self._overflowed.clear()
        if not self._checks_values:
            return True
        losses = [loss.float().reshape(1).clone() for loss in self._losses.pop(names)]
        all_losses = losses if self._agreed is None else self._agreed.losses
        if all_finite([*all_losses, *self._tested_gradients(*names)]):
            return True
        if self._scaler is not None:
            self._overflowed.update(name for name in names if not all_finite(self._tested_gradients(name)))
        if self._scaler is not None and all_finite(all_losses) and self._scaler.get_scale() > _LOWEST_SCALE:
            self._count_skipped(self._overflowed)
            return True  # the scaler leaves out those that have overflowed, and lowers the scale
        if rule == "continue":
            return True
        found = describe_nonfinite(self._world, losses, self.batch, {name: self._components[name] for name in names})
        if rule == "stop":
            raise NonFiniteError(found)
        self.restore_buffers()
        self._count_skipped(names)
        number = self.skipped[names[0]]
        if number & (number - 1) == 0:  # 1, 2, 4, 8 …: a long series would flood the log
            self._log(f"update {self.update} is skipped, the {number}. of {', '.join(names)}: {found}")
        return False

    def _count_skipped(self, names: Iterable[str]) -> None:
        for name in names:
            self.skipped[name] = self.skipped.get(name, 0) + 1

    def _optimizer_to_step(self, name: str) -> Optimizer:
        """Return the optimizer of `name`, whose step comes next: its norm and its lr are noted."""
        optimizer = self.optimizers[name]
        self.lrs[name] = float(optimizer.param_groups[0]["lr"])
        self.stepped.add(name)
        self._last_step[name] = self.update
        self._norms.hand_over(name)
        return optimizer

    def _step_optimizer(self, name: str) -> None:
        first = name not in self.lrs
        optimizer = self._optimizer_to_step(name)
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
