"""`flow_matching`: a policy that samples actions by integrating a velocity from noise to the demonstrated actions."""

from collections.abc import Callable
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from optimizer.config import PositiveCount

from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome
from ..runtime.precision import at_least_float32
from .component_policy import ComponentPolicy, mean_over_valid
from .feature_options import PATH, PolicyOptions

NOISY_ACTIONS, TIME = "noisy_actions", "time"

TimeDistribution = Literal["uniform", "beta"]


@OBJECTIVE_REGISTRY.register("flow_matching")
class FlowMatching(ComponentPolicy):
    """Learns the distribution of the demonstrated actions (conditional flow matching, rectified flow).

    Time 0 is noise, and time 1 the normalized actions of the data: x(t) = (1 - t) · noise + t · actions. The wiring
    reads `noisy_actions`, which are x(t), (N, chunk, *shape), and `time`, (N). Its last line gives the velocity
    (N, chunk, *shape): `velocity = action_head(tokens, noisy_actions, time)`. The loss is the mean squared difference
    from actions - noise. Actions beyond the ends of an episode, by `ACTION_is_pad`, do not count.

    To act, Euler's method integrates the velocity from noise. Lines that read neither of the two run once, and the
    others at each step. Sources: Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003.

    Args:
        num_inference_steps: Steps from time 0 to 1.
        time_distribution: The distribution of training's times. beta (Black et al. 2024, arXiv:2410.24164, π0) is
            0.999 · (1 - b), b from Beta(1.5, 1): more times near the noise.

    Raises:
        ConfigError: Two options contradict each other.
    """

    added_inputs = (NOISY_ACTIONS, TIME)

    def __init__(
        self,
        num_inference_steps: PositiveCount = 10,
        time_distribution: TimeDistribution = "uniform",
        **options: Unpack[PolicyOptions],
    ) -> None:
        super().__init__(**options)
        self._num_inference_steps, self._time_distribution = num_inference_steps, time_distribution

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Check in addition that the wiring computes a velocity."""
        super().prepare(components, data)
        _, at_each_step = self.dataflow.split(self.added_inputs)
        if unread := [name for name in self.added_inputs if name not in self.dataflow.inputs]:
            reason = f"no line reads {unread[0]!r}"
        elif at_each_step.result != self.dataflow.result:
            reason = f"{self.dataflow.result!r} does not depend on them"
        else:
            return
        raise ConfigError(
            f"{PATH}.wiring: the last line must compute the velocity from {NOISY_ACTIONS} and {TIME}, as in"
            f" `velocity = action_head(tokens, {NOISY_ACTIONS}, {TIME})`; {reason}"
        )

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the loss, at times and with noise from torch's generator."""
        actions = self.target(batch)
        noise = torch.randn_like(actions)
        time = sample_times(len(actions), self._time_distribution, actions.device)
        noisy_actions = torch.lerp(noise, actions, time.view(-1, *[1] * (actions.dim() - 1)))
        inputs = {**self.inputs(batch), NOISY_ACTIONS: noisy_actions, TIME: time}
        velocity = _checked(self.dataflow.run(components, inputs), noisy_actions)
        error = (velocity - (actions - noise)).square()
        return Outcome({"velocity_mse": mean_over_valid(error, batch.get(f"{self.action}_is_pad"))})

    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return sampled actions from now on (N, T, *shape) in the units of the data.

        The noise is from torch's generator.
        """
        once, at_each_step = self.dataflow.split(self.added_inputs)
        inputs = self.inputs(self.observed(components, observation))
        results = once.results(components, inputs)

        def velocity(noisy_actions: Tensor, time: Tensor) -> Tensor:
            predicted = at_each_step.run(components, {**results, NOISY_ACTIONS: noisy_actions, TIME: time})
            return _checked(predicted, noisy_actions)

        first = next(iter(inputs.values()))
        noise = torch.randn(len(first), self.chunk, *self.features[self.action].shape, device=first.device)
        return self.from_now_on(integrate(velocity, noise, self._num_inference_steps))


def sample_times(number: int, distribution: TimeDistribution, device: torch.device) -> Tensor:
    """Return times (number), each from the distribution, which together cover it evenly.

    All are moved by one random number, so that the loss of a batch varies less than with independent times. Source:
    Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """
    quantiles = (torch.arange(number, device=device) / number + torch.rand(1, device=device)) % 1
    return quantiles if distribution == "uniform" else 0.999 * (1 - quantiles ** (1 / 1.5))


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Return the point at time 1 of a path that starts with `noise` (N, …) at time 0, by Euler's method.

    Args:
        velocity: A function of the points (N, …) and the time (N), which returns (N, …).
        noise: The points at time 0.
        steps: Number of equal steps.
    """
    points = noise
    for step in range(steps):
        time = torch.full((len(noise),), step / steps, device=noise.device)
        points = points + velocity(points, time) / steps
    return points


def _checked(velocity: Tensor, noisy_actions: Tensor) -> Tensor:
    """Return the velocity, at least float32. Raises ConfigError if it does not have the shape of the actions."""
    if velocity.shape != noisy_actions.shape:
        raise ConfigError(
            f"{PATH}.wiring: its last result must be the velocity, {list(noisy_actions.shape)} (samples, actions of a"
            f" chunk, size of an action); got {list(velocity.shape)}"
        )
    return at_least_float32(velocity)
