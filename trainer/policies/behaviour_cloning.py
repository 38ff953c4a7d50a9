"""`behaviour_cloning`: supervised learning of the actions in demonstrations."""

from typing import Literal, Unpack

import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn

from ..errors import ConfigError
from ..interfaces.dataset import Batch
from ..interfaces.objective import OBJECTIVE_REGISTRY, Outcome
from ..runtime.precision import at_least_float32
from .component_policy import ComponentPolicy, mean_over_valid
from .feature_options import PATH, PolicyOptions

Loss = Literal["l1", "mse", "smooth_l1"]

_LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


@OBJECTIVE_REGISTRY.register("behaviour_cloning")
class BehaviourCloning(ComponentPolicy):
    """Predicts the demonstrated actions from the observations.

    The last line of `wiring` gives the normalized actions (N, chunk, *shape). The loss is their distance from the
    data's normalized actions. Actions beyond the ends of an episode, by `ACTION_is_pad`, do not count. The metric
    `first_action_error` is the mean L2 distance of the action for now in the units of the data.

    Args:
        loss: The distance: l1 (mean absolute difference), mse (mean squared difference), or smooth_l1 (mse below 1, l1
            above).

    Raises:
        ConfigError: Two options contradict each other.
    """

    def __init__(self, loss: Loss = "l1", **options: Unpack[PolicyOptions]) -> None:
        super().__init__(**options)
        self._loss = loss

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the loss, and the error of the first action."""
        predicted = self._predict(components, batch)
        error = _LOSSES[self._loss](predicted, self.target(batch), reduction="none")
        loss = mean_over_valid(error, batch.get(f"{self.action}_is_pad"))
        return Outcome({self._loss: loss}, lambda: {"first_action_error": self.first_action_error(predicted, batch)})

    def actions(self, components: nn.ModuleDict, observation: Batch) -> Tensor:
        """Return the predicted actions from now on (N, T, *shape) in the units of the data."""
        return self.from_now_on(self._predict(components, self.observed(components, observation)))

    def _predict(self, components: nn.ModuleDict, batch: Batch) -> Tensor:
        """Return the normalized actions (N, chunk, *shape). Raises ConfigError if the wiring has others."""
        predicted = at_least_float32(self.dataflow.run(components, self.inputs(batch)))
        shape = self.features[self.action].shape
        if self.chunk == 1 and predicted.dim() == len(shape) + 1:
            predicted = predicted.unsqueeze(1)
        if predicted.shape[1:] != (self.chunk, *shape):
            raise ConfigError(
                f"{PATH}.wiring: its last result must be the actions, {[len(predicted), self.chunk, *shape]} (samples,"
                f" actions of a chunk, size of an action); got {list(predicted.shape)}"
            )
        return predicted
