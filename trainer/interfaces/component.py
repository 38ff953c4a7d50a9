"""Components: what a module must be, and the registry of their classes. Any nn.Module class is one."""

from torch import nn

from optimizer import Registry
from optimizer.factories import trainable_parameters

MODEL_REGISTRY: Registry[nn.Module] = Registry("component", nn.Module, entry_points="innerstep.models")


def is_frozen(component: nn.Module) -> bool:
    """Return whether no parameter of `component` requires a gradient."""
    return not trainable_parameters(component)


def train_mode(components: nn.ModuleDict) -> None:
    """Put the trainable components in train mode and the frozen ones in eval mode."""
    components.training = True  # for objectives that ask; evaluating has set it to false
    for component in components.values():
        component.train(not is_frozen(component))
