"""Components that predict a chunk of actions."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from optimizer.config import PositiveCount

from ..builtins.modules import MLP
from ..interfaces.component import MODEL_REGISTRY

Size = PositiveCount
Dropout = Annotated[float, Field(ge=0, lt=1)]

_MOST_TOKENS = 1024


@MODEL_REGISTRY.register("action_mlp")
class ActionMLP(nn.Module):
    """A multi-layer perceptron from vectors of any shape to a chunk of actions.

    Any number of (N, …), which are flattened and joined -> (N, chunk, action_dim).

    Args:
        in_features: Numbers that come in for a sample, over all inputs and time steps.
        action_dim: Size of an action.
        chunk: Actions.
        hidden: Widths of the hidden layers; left out, two of 256.
    """

    def __init__(self, in_features: Size, action_dim: Size, chunk: Size = 1, hidden: list[Size] | None = None) -> None:
        super().__init__()
        self._shape = (chunk, action_dim)
        self.layers = MLP(in_features, chunk * action_dim, [256, 256] if hidden is None else hidden)

    def forward(self, *inputs: Tensor) -> Tensor:
        flat = torch.cat([value.flatten(1) for value in inputs], dim=1)
        actions: Tensor = self.layers(flat).view(-1, *self._shape)
        return actions


@MODEL_REGISTRY.register("action_transformer")
class ActionTransformer(nn.Module):
    """A pre-norm transformer decoder in which one learned query for each action attends to the tokens.

    Any number of (N, tokens, dim) or (N, dim) -> (N, chunk, action_dim). It is the decoder of action chunking with
    transformers, without the variational autoencoder. Source: Zhao et al. 2023, arXiv:2304.13705.

    Args:
        action_dim: Size of an action.
        chunk: Actions.
        dim: Width of the tokens.
        depth: Layers.
        heads: Attention heads of a layer.
        dropout: Share of the attention weights and hidden units that is dropped in training.

    Raises:
        ValueError: dim is not a multiple of heads, or is odd.
    """

    positions: Tensor

    def __init__(
        self,
        action_dim: Size,
        chunk: Size = 8,
        dim: Size = 128,
        depth: Size = 2,
        heads: Size = 4,
        dropout: Dropout = 0.1,
    ) -> None:
        super().__init__()
        if dim % heads or dim % 2:
            raise ValueError(f"dim must be even and a multiple of heads; got {dim} for {heads}")
        self.queries = nn.Parameter(torch.randn(chunk, dim) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, 4 * dim, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.token_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, action_dim)
        self.register_buffer("positions", sinusoids(torch.arange(_MOST_TOKENS), dim), persistent=False)

    def forward(self, *tokens: Tensor) -> Tensor:
        memory = torch.cat([value.unsqueeze(1) if value.dim() == 2 else value for value in tokens], dim=1)
        if memory.shape[1] > _MOST_TOKENS:
            raise ValueError(f"takes at most {_MOST_TOKENS} tokens; got {memory.shape[1]}")
        memory = self.token_norm(memory) + self.positions[: memory.shape[1]]
        x = self.queries.expand(memory.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        actions: Tensor = self.projection(self.norm(x))
        return actions


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Return an embedding (…, dim) of positions (…): sines, then cosines, with wavelengths from 2π to 20,000π.

    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """
    frequencies = torch.exp(torch.arange(dim // 2, device=positions.device) * (-math.log(10_000) / (dim // 2)))
    angles = positions.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
