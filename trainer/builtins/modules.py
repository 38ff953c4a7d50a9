"""Built-in components. A config also takes any other nn.Module class, registered or by dotted path."""

from typing import Literal

import torch
from torch import Tensor, nn

from optimizer.config import Beta, PositiveCount

from ..interfaces.component import MODEL_REGISTRY

Size = PositiveCount
Rate = Beta


@MODEL_REGISTRY.register("patch_projection")
class PatchProjection(nn.Module):
    """Cuts a square one-channel image into square patches and projects each linearly.

    (N, image_size, image_size) -> (N, patches, dim).

    Raises:
        ValueError: The patches do not tile the image.
    """

    def __init__(self, image_size: Size = 8, patch_size: Size = 2, dim: Size = 64) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size; got {patch_size} for {image_size}")
        self.patches = (image_size // patch_size) ** 2
        self._cut = nn.Unfold(patch_size, stride=patch_size)
        self.projection = nn.Linear(patch_size**2, dim)

    def forward(self, image: Tensor) -> Tensor:
        projected: Tensor = self.projection(self._cut(image.unsqueeze(1)).transpose(1, 2))
        return projected


@MODEL_REGISTRY.register("transformer")
class Transformer(nn.Module):
    """A pre-norm transformer encoder over tokens, averaged into one vector.

    (N, tokens, dim), and any number of (N, dim) as extra tokens -> (N, dim).

    Args:
        tokens: Number of tokens that come in, the extra ones included.

    Raises:
        ValueError: The heads do not divide dim.
    """

    def __init__(
        self, tokens: Size = 16, dim: Size = 64, depth: Size = 2, heads: Size = 4, dropout: Rate = 0.1
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide dim; got {heads} for {dim}")
        self.position = nn.Parameter(torch.randn(tokens, dim) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, *extra: Tensor) -> Tensor:
        x = torch.cat([tokens, *(token.unsqueeze(1) for token in extra)], dim=1) + self.position
        for layer in self.layers:
            x = layer(x)
        pooled: Tensor = self.norm(x.mean(dim=1))
        return pooled


@MODEL_REGISTRY.register("patch_transformer")
class PatchTransformer(nn.Module):
    """`patch_projection` and `transformer` in one component: (N, image_size, image_size) -> (N, dim)."""

    def __init__(
        self,
        image_size: Size = 8,
        patch_size: Size = 2,
        dim: Size = 64,
        depth: Size = 2,
        heads: Size = 4,
        dropout: Rate = 0.1,
    ) -> None:
        super().__init__()
        self.embedder = PatchProjection(image_size, patch_size, dim)
        self.encoder = Transformer(self.embedder.patches, dim, depth, heads, dropout)

    def forward(self, image: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(self.embedder(image))
        return encoded


@MODEL_REGISTRY.register("mlp")
class MLP(nn.Module):
    """A multi-layer perceptron: (N, in_features) -> (N, out_features).

    Several inputs (N, …) are joined: a critic reads states and actions.

    Args:
        in_features: Numbers that come in for a sample, over all inputs.
        hidden: Widths of the hidden layers.
        batch_norm: Whether each hidden layer is normalised over the batch.
        activation: The function after each hidden layer.
        tanh: Whether the results go through tanh, so that they are within -1 and 1.
    """

    def __init__(
        self,
        in_features: Size = 64,
        out_features: Size = 10,
        hidden: list[Size] | None = None,
        batch_norm: bool = False,
        activation: Literal["gelu", "relu"] = "gelu",
        tanh: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in [64] if hidden is None else hidden:
            norm = [nn.BatchNorm1d(width)] if batch_norm else []
            layers += [nn.Linear(in_features, width), *norm, nn.ReLU() if activation == "relu" else nn.GELU()]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, out_features), *[nn.Tanh()] * tanh)

    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.layers(inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1))
        return y
