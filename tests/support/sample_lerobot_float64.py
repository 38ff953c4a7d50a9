"""ACT and Diffusion of LeRobot's in float64, in which the network amplifies no rounding into its losses."""

import torch
from torch.nn.modules.module import register_module_forward_pre_hook


def switch_to_float64():
    """Let LeRobot's policies be built and called in float64 from now on. Returns a function that undoes it."""
    from lerobot.policies.factory import get_policy_class

    before = {policy: policy.__init__ for policy in map(get_policy_class, ("act", "diffusion"))}
    for policy, init in before.items():
        policy.__init__ = _made_as_float64(init)
    hook = register_module_forward_pre_hook(_in_own_type)

    def undo():
        hook.remove()
        for policy, init in before.items():
            policy.__init__ = init

    return undo


def _made_as_float64(init):
    """Return a constructor that calls `init` and turns the module into float64."""

    def constructor(self, *given, **named):
        init(self, *given, **named)
        self.double()

    return constructor


def _in_own_type(module, given):
    """Return the arguments of a module's call, with numbers of float32 in the type of its parameters."""
    own = next(module.parameters(), torch.empty(0)).dtype
    return tuple(value.to(own) if getattr(value, "dtype", None) == torch.float32 else value for value in given)
