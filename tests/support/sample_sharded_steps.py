"""Training of a sharded network beside that of the same network in one piece, on all ranks, and what became of both."""

import torch
from sample_shards import network, sharded_network, update
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

UPDATES = 5
PARAMS = {
    "adamw_warmup_cosine_decay": {"peak_lr": 0.01, "warmup_steps": 2},
    "adamw_cosine_schedule": {"max_lr": 0.01, "cycle_momentum": True},
    "schedule_free_radam": {"silent_sgd_phase": False},
    "schedule_free_sgd": {"lr": 0.05},
    "muon": {"fallback": {"type": "adamw", "lr": 0.01}},
    "sgd": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
}
"""Parameters that a key needs, or hardly moves without."""


def newton_schulz(gradient, coefficients, steps, eps):
    """Muon's orthogonalization in the gradient's own type: torch's rounds to bfloat16."""
    a, b, c = coefficients
    x = gradient.T if gradient.size(0) > gradient.size(1) else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if gradient.size(0) > gradient.size(1) else x


def optimizers_of(module, key, **params):
    """Return the optimizers that a key builds for `module`, of which most build one, ready to train."""
    params = {**PARAMS.get(key, {}), **params}
    if key == "muon" and distributed.get_world_size() > len(module[2].weight):
        params = {"fallback_match": ["2.weight"], **params}
    built = OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module, horizon=Horizon(20))
    optimizers = list(built.values()) if isinstance(built, dict) else [built]
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):
            optimizer.train()
    return optimizers


class Together:
    """Several optimizers with the step of one."""

    def __init__(self, optimizers):
        self.optimizers = optimizers

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()


def full(module):
    """Return the whole parameters."""
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in module.parameters()]


def apart(module, other):
    """Return how far the parameters of two modules are apart."""
    return max(float((p - q).abs().max()) for p, q in zip(full(module), full(other), strict=True))


def compared(key, mesh_shape=None, **params):
    """Return how training in one piece and on shards differ, or the refusal of a sharded parameter."""
    torch.optim._muon._zeropower_via_newtonschulz = newton_schulz
    whole, parts = network(), sharded_network(mesh_shape=mesh_shape)
    try:
        of_parts = optimizers_of(parts, key, **params)
    except ValueError as error:
        return {"refused": str(error)}
    of_whole = optimizers_of(whole, key, **params)
    update(whole, Together(of_whole), range(UPDATES))
    update(parts, Together(of_parts), range(UPDATES - 1))
    moves = [0]  # messages
    with CommDebugMode() as spy:
        update(parts, Stepped(of_parts, spy, moves), range(UPDATES - 1, UPDATES))
    report = {
        "apart": apart(whole, parts),
        "moved": apart(whole, network()),
        "sent": moves[0],
        "norms": [[float(each.grad_norm or 0) for each in of] for of in (of_whole, of_parts)],
        "misplaced": sorted({name for each in of_parts for name in misplaced(each)}),
    }
    if hasattr(of_parts[0], "eval"):
        trained = full(parts)
        for optimizer in (*of_whole, *of_parts):
            optimizer.eval()
        report["evaluated apart"] = apart(whole, parts)
        of_parts[0].train()
        report["back"] = all(map(torch.equal, trained, full(parts)))
    return report


class Stepped(Together):
    """The same, which counts the messages of the steps alone: the network sends others."""

    def __init__(self, optimizers, spy, moves):
        super().__init__(optimizers)
        self.spy, self.moves = spy, moves

    def step(self):
        before = self.spy.get_total_counts()
        super().step()
        self.moves[0] = self.spy.get_total_counts() - before


def misplaced(optimizer):
    """Yield the entries of sharded parameters that have neither the form of their parameter nor one number."""
    for p, entries in optimizer.state.items():
        for name, value in entries.items():
            is_placed = isinstance(value, DTensor) and value.placements == p.placements and value.shape == p.shape
            if isinstance(p, DTensor) and isinstance(value, torch.Tensor) and value.ndim and not is_placed:
                yield name


def in_one_group(*modules):
    """Return the parameters of modules by name, for an optimizer over all of them."""
    return list(nn.ModuleList(modules).named_parameters())
