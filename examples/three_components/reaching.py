"""A synthetic imitation data set, and the loss of a policy on it: the parts that `config.yaml` names.
`innerstep plan config.yaml` shows what is trained; `python walkthrough.py` trains it."""

import torch
from torch import Tensor, nn

from trainer import DATASET_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Objective, Outcome, TensorSplit


@DATASET_REGISTRY.register("reaching")
class Reaching(DataSet):
    """An arm that moves towards a bright spot in the image.

    Batches hold `image` (N, 8, 8), `state` (N, 2), the arm's position, and `action` (N, 2), the way to the spot; the
    corners of the image are at -1 and 1.
    """

    def __init__(self, samples: int = 2000, held_out: int = 400) -> None:
        generator = torch.Generator().manual_seed(0)
        spot, state = torch.rand(2, samples, 2, generator=generator) * 2 - 1
        pixels = torch.linspace(-1, 1, 8)
        rows, columns = (torch.exp(-((pixels - spot[:, axis, None]) ** 2) / 0.1) for axis in (0, 1))
        tensors = {"image": rows[:, :, None] * columns[:, None, :], "state": state, "action": spot - state}
        self.train = TensorSplit({name: tensor[held_out:] for name, tensor in tensors.items()})
        self.held_out = TensorSplit({name: tensor[:held_out] for name, tensor in tensors.items()})
        self.statistics = {}


@OBJECTIVE_REGISTRY.register("squared_cloning")
class BehaviourCloning(Objective):
    """The mean squared error of the predicted action."""

    def losses(self, components: nn.ModuleDict, batch: dict[str, Tensor]) -> Outcome:
        seen = components["vision_backbone"](batch["image"])
        felt = components["state_embedder"](batch["state"])
        error = components["action_head"](torch.cat([seen, felt], dim=1)) - batch["action"]
        return Outcome({"squared_error": error.square().mean()}, {"distance": error.norm(dim=1).mean()})
