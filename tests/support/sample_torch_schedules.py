"""PyTorch's schedulers with options, as a config has them and as their users build them."""

import sample_functions
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

OPTIONS = {
    "StepLR": [{"step_size": 30}, {"step_size": 7, "gamma": 0.9}],
    "MultiStepLR": [{"milestones": [30, 60, 90]}, {"milestones": [5, 5, 8], "gamma": 0.5}],
    "ConstantLR": [{}, {"factor": 0.5, "total_iters": 20}],
    "LinearLR": [{}, {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 50}],
    "ExponentialLR": [{"gamma": 0.95}],
    "CosineAnnealingLR": [{"T_max": 300}, {"T_max": 299, "eta_min": 1e-5}],
    "CosineAnnealingWarmRestarts": [{"T_0": 10}, {"T_0": 7, "T_mult": 2, "eta_min": 1e-5}],
    "CyclicLR": [
        {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 20},
        {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 9, "step_size_down": 5, "mode": "triangular2"},
        {
            "base_lr": 1e-4,
            "max_lr": 1e-2,
            "step_size_up": 9,
            "mode": "exp_range",
            "gamma": 0.99,
            "cycle_momentum": False,
        },
    ],
    "PolynomialLR": [{}, {"total_iters": 200, "power": 2.0}],
    "LambdaLR": [{"lr_lambda": "sample_functions.falling"}],
    "MultiplicativeLR": [{"lr_lambda": "sample_functions.shrinking"}],
    "SWALR": [{"swa_lr": 1e-4}, {"swa_lr": 1e-2, "anneal_epochs": 50, "anneal_strategy": "linear"}],
    "SequentialLR": [
        {"schedulers": [("LinearLR", {"total_iters": 20}), ("CosineAnnealingLR", {"T_max": 280})], "milestones": [20]},
        {
            "schedulers": [("ConstantLR", {}), ("ExponentialLR", {"gamma": 0.9}), ("StepLR", {"step_size": 30})],
            "milestones": [10, 40],
        },
    ],
    "ChainedScheduler": [
        {"schedulers": [("LinearLR", {"total_iters": 20}), ("ExponentialLR", {"gamma": 0.99})]},
        {"schedulers": [("ConstantLR", {}), ("CyclicLR", {"base_lr": 1e-4, "max_lr": 1e-2, "step_size_up": 20})]},
    ],
}
CASES = [(name, options) for name, cases in OPTIONS.items() for options in cases]


def parameter():
    return torch.nn.Parameter(torch.zeros(2))


def flat(options):
    """Return the options as a config has them."""
    inner = [{"type": name, **flat(child)} for name, child in options.get("schedulers", [])]
    return {**options, "schedulers": inner} if inner else options


def of_torch(name, options, optimizer):
    """Return PyTorch's scheduler, built as its users build it."""
    cls = SWALR if name == "SWALR" else getattr(lr_scheduler, name)
    options = dict(options)
    if "lr_lambda" in options:
        options["lr_lambda"] = getattr(sample_functions, options["lr_lambda"].split(".")[1])
    if "schedulers" in options:
        options["schedulers"] = [of_torch(*child, optimizer) for child in options["schedulers"]]
    return cls(**options) if name == "ChainedScheduler" else cls(optimizer, **options)
