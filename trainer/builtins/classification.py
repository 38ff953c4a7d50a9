"""`classification`: cross-entropy of the class scores at the end of the dataflow."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 the field's name for it
from torch import Tensor, nn

from optimizer.config import PositiveCount

from ..errors import ConfigError
from ..interfaces.dataset import Batch, DataSet
from ..interfaces.objective import OBJECTIVE_REGISTRY, Objective, Outcome
from ..runtime.precision import at_least_float32
from .dataflow import Dataflow


@OBJECTIVE_REGISTRY.register("classification")
class Classification(Objective):
    """Cross-entropy, with accuracy as metric, in training and on held-out samples.

    Args:
        wiring: Lines like `code = encoder(patches, info)`. The last one gives the class scores (N, classes). Without
            lines, the batch's `input` goes through the components in the order of the file.
        input: Name of the batch entry that enters the first component, if there is no wiring.
        label: Name of the batch entry with the classes, int64 (N).
        top_k: Further metrics: 5 gives `top5_accuracy`, the share of samples whose class has one of the 5 highest
            scores. That of 1 is `accuracy`.
    """

    def __init__(
        self,
        wiring: Sequence[str] | None = None,
        input: str = "image",  # noqa: A002 the user's word
        label: str = "label",
        top_k: list[PositiveCount] | None = None,
    ) -> None:
        self._dataflow = None if wiring is None else Dataflow(wiring)
        self._input, self._label = input, label
        self._top_k = [k for k in top_k or () if k > 1]

    def prepare(self, components: nn.ModuleDict, data: DataSet) -> None:
        """Check the names of components and batch entries."""
        self._dataflow = self._dataflow or Dataflow.chain(list(components), self._input)
        entries = list(data.train.batch(torch.zeros(1, dtype=torch.int64)))
        self._dataflow.check(list(components), entries, "train.objective.params.wiring")
        if self._label not in entries:
            raise ConfigError(
                f"train.objective.params.label: the batch has no {self._label!r}; it has {', '.join(entries)}"
            )

    def losses(self, components: nn.ModuleDict, batch: Batch) -> Outcome:
        """Return the mean cross-entropy and the accuracies.

        Raises:
            ConfigError: There are fewer classes than `top_k` asks for.
        """
        scores = self.predict(components, batch)
        label = batch[self._label]
        classes = scores.shape[1]
        if too_many := [k for k in self._top_k if k > classes]:
            raise ConfigError(
                f"train.objective.params.top_k: must be <= {classes}, the classes that have scores; got {too_many[0]}"
            )
        losses = {"cross_entropy": F.cross_entropy(at_least_float32(scores), label)}
        return Outcome(losses, lambda: self._accuracies(scores, label))

    def _accuracies(self, scores: Tensor, label: Tensor) -> dict[str, Tensor]:
        accuracies = {"accuracy": (scores.argmax(dim=1) == label).float().mean()}
        if self._top_k:
            hits = scores.topk(max(self._top_k), dim=1).indices == label[:, None]
            accuracies |= {f"top{k}_accuracy": hits[:, :k].any(dim=1).float().mean() for k in self._top_k}
        return accuracies

    def predict(self, components: nn.ModuleDict, batch: Batch) -> Tensor:
        """Return the class scores (N, classes)."""
        dataflow = self._dataflow or Dataflow.chain(list(components), self._input)
        return dataflow.run(components, batch)
