"""`flow_transformer`: a small diffusion transformer that predicts the velocity of a chunk of actions."""

import torch
from torch import Tensor, nn

from optimizer.config import PositiveCount

from ..interfaces.component import MODEL_REGISTRY
from .heads import Dropout, sinusoids


@MODEL_REGISTRY.register("flow_transformer")
class FlowTransformer(nn.Module):
    """A transformer over actions (DiT, Peebles & Xie 2023, arXiv:2212.09748) for the objective `flow_matching`.

    Any number of conditions (N, dim) or (N, tokens, dim), noisy actions (N, chunk, action_dim), and time (N) in 0..1
    -> velocity (N, chunk, action_dim). Each action is a token, which attends to all actions and conditions. The time
    scales, shifts and gates each layer (adaLN-Zero). The velocity of a new component is 0.

    Args:
        action_dim: Length of one action.
        chunk: Actions of a prediction.
        dim: Length of a token, an even number, also of the conditions.
        depth: Number of layers.
        heads: Attention heads of a layer.
        dropout: Share of the attention weights and hidden units that is dropped in training.

    Raises:
        ValueError: dim is odd, or the heads do not divide it.
    """

    def __init__(
        self,
        action_dim: PositiveCount,
        chunk: PositiveCount,
        dim: PositiveCount = 64,
        depth: PositiveCount = 3,
        heads: PositiveCount = 4,
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        if dim % 2 or dim % heads:
            raise ValueError(f"dim must be even, and heads must divide it; got dim {dim} and {heads} heads")
        self.embedding = nn.Linear(action_dim, dim)
        self.position = nn.Parameter(torch.randn(chunk, dim) * 0.02)
        self.condition_norm = nn.LayerNorm(dim)
        self.time_embedding = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.layers = nn.ModuleList(_Layer(dim, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(dim, 2 * dim))
        self.velocity = _zero(nn.Linear(dim, action_dim))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the velocity.

        Raises:
            ValueError: There are fewer than two inputs, or the noisy actions have another shape.
        """
        if len(inputs) < 2:
            raise ValueError(f"flow_transformer takes (*conditions, noisy_actions, time); got {len(inputs)} inputs")
        *conditions, noisy_actions, time = inputs
        expected = (len(self.position), self.embedding.in_features)
        if noisy_actions.dim() != 3 or noisy_actions.shape[1:] != expected:
            raise ValueError(
                f"flow_transformer takes noisy actions (N, {expected[0]}, {expected[1]}) by its chunk and action_dim;"
                f" got {list(noisy_actions.shape)}"
            )
        condition = self._condition(conditions)
        scales = self.time_embedding(sinusoids(1000 * time, self.position.shape[1]))
        x = self.embedding(noisy_actions) + self.position
        for layer in self.layers:
            x = layer(x, condition, scales)
        scale, shift = self.modulation(scales).unsqueeze(1).chunk(2, dim=-1)
        velocity: Tensor = self.velocity(self.norm(x) * (1 + scale) + shift)
        return velocity

    def _condition(self, conditions: list[Tensor]) -> Tensor | None:
        """Return all conditions as tokens (N, tokens, dim) that know their positions."""
        if not conditions:
            return None
        tokens = torch.cat([each.unsqueeze(1) if each.dim() == 2 else each for each in conditions], dim=1)
        places = sinusoids(torch.arange(tokens.shape[1], device=tokens.device), tokens.shape[2])
        normed: Tensor = self.condition_norm(tokens)
        return normed + places


class _Layer(nn.Module):
    """Attention to the actions and conditions, then an MLP; both are scaled, shifted and gated, at first to 0."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.modulation = _zero(nn.Linear(dim, 6 * dim))
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, condition: Tensor | None, scales: Tensor) -> Tensor:
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = self.modulation(scales).unsqueeze(1).chunk(6, dim=-1)
        queries = self.attention_norm(x) * (1 + scale) + shift
        keys = queries if condition is None else torch.cat([condition, queries], dim=1)
        x = x + gate * self.attention(queries, keys, keys, need_weights=False)[0]
        added: Tensor = mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)
        return x + added


def _zero(linear: nn.Linear) -> nn.Linear:
    """Return `linear` with weights and biases of 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
