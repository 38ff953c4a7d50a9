"""A backward pass that gives gradients to some parameters only."""

from collections.abc import Sequence

from torch import Tensor, nn

from optimizer.state import is_sharded

from ..distributed.placement import is_reached, set_reached


class BackwardPass:
    """Adds the gradient of a loss to those of some parameters.

    Args:
        stepped: These parameters, perhaps sharded.
        others: All others that require a gradient. Theirs stay as they are.
    """

    def __init__(self, stepped: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        self._stepped, self._others = stepped, others
        self._is_sharded = any(map(is_sharded, stepped))

    def __call__(self, loss: Tensor) -> None:
        """Run the pass. loss: a scalar with a graph."""
        if not self._is_sharded:
            loss.backward(inputs=self._stepped)  # type: ignore[no-untyped-call]  # torch
            return
        # The graph has the whole parameters, which fully_shard has put in place of the sharded ones: asked for these,
        # torch would compute nothing.
        kept = [(parameter.grad, is_reached(parameter)) for parameter in self._others]
        for parameter in self._others:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        for parameter, (gradient, was_reached) in zip(self._others, kept, strict=True):
            parameter.grad = gradient
            set_reached(parameter, was_reached)


def check_loss(loss: Tensor) -> None:
    """Check that an objective's loss is a scalar with a gradient.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(loss, Tensor):
        raise ValueError(f"a loss must be a scalar tensor; got a {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"a loss must be a scalar; got the shape {list(loss.shape)}. Take its mean over the batch.")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it was detached, or made under no_grad, or depends on no parameter")
