"""Random sequences of operations on an optimizer, against a small model of its lr.

INNERSTEP_SEQUENCES is how many the slow tests try for each schedule; 1500 make 10,500 in all, and take minutes.
"""

import copy
import io
import math
import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

SEQUENCES = int(os.environ.get("INNERSTEP_SEQUENCES", "300"))
QUICK = 50
HORIZON = Horizon(20, 5)
LR = 0.5

SCHEDULES = {
    "pure": {"type": "cosine", "num_warmup_steps": 4},
    "absolute": {"type": "warmup_cosine_decay", "peak_lr": LR, "start_lr": 0.1, "warmup_steps": 3},
    "of torch": {"type": "StepLR", "step_size": 3, "gamma": 0.5},
    "by epochs": {"type": "ExponentialLR", "gamma": 0.5, "interval": "epoch"},
    "by metric": {"type": "plateau", "patience": 1, "factor": 0.5, "cooldown": 1},
    "in turn": {"type": "sequence", "schedules": [{"type": "linear"}, {"type": "rex"}], "milestones": [7]},
    "schedule-free": {"type": "linear", "num_warmup_steps": 3},
}


def half_cosine(progress):
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


LRS = {
    "pure": lambda k: LR * (k / 4 if k < 4 else half_cosine((k - 4) / 16)),
    "absolute": lambda k: 0.1 + (LR - 0.1) * k / 3 if k < 3 else LR * half_cosine((k - 3) / 16),
    "of torch": lambda k: LR * 0.5 ** (k // 3),
    "by epochs": lambda k: LR * 0.5 ** (k // 5),
    "schedule-free": lambda k: LR * (k / 3 if k < 3 else max(0.0, 1 - (k - 3) / 17)),
    "in turn": lambda k: (
        LR * (1 - k / 7) if k < 7 else LR * (1 - min(1, (k - 7) / 13)) / (1 - min(1, (k - 7) / 13) / 2)
    ),
}
EVENTS = st.one_of(
    st.sampled_from(
        ["update", "update", "update", "overflow", "save", "deepcopy", "pickle", "dry", "by hand", "state", "evaluate"]
    ),
    st.tuples(st.just("metric"), st.floats(0.0, 2.0)),
    st.tuples(st.just("group"), st.sampled_from([0.1, 0.25, 2.0])),
    st.tuples(st.just("evaluate"), st.just("and save")),
)


class Model:
    """What the lr must be: the formula at the number of updates done, and each group's share."""

    def __init__(self, name):
        schedule = SCHEDULES[name]
        key = "schedule_free_sgd" if name == "schedule-free" else "sgd"
        self.factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=LR, momentum=0.9, schedule=schedule)
        self.formula, self.updates, self.ratios = LRS.get(name), 0, [1.0]
        plateau = {name: value for name, value in schedule.items() if name != "type"}
        stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
        self.plateau = ReduceLROnPlateau(stand_in, **plateau) if schedule["type"] == "plateau" else None

    def lrs(self):
        lr = self.plateau.get_last_lr()[0] if self.plateau is not None else self.formula(self.updates)
        return [lr * share for share in self.ratios]


def fresh(model, module):
    groups = [
        {"params": [p]} | ({"lr": LR * share} if share != 1.0 else {})
        for p, share in zip(module, model.ratios, strict=True)
    ]
    return model.factory.build(groups, horizon=HORIZON)


def step_dry(optimizer):
    kept = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, lr in zip(optimizer.param_groups, kept, strict=True):
        group["lr"] = lr


def apply(event, model, module, optimizer, scaler):
    kind, value = event if isinstance(event, tuple) else (event, None)
    if kind in ("update", "overflow"):
        scaler.scale(sum((p * p).sum() for p in module)).backward()
        if kind == "overflow":
            module[0].grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        model.updates += kind == "update"
    elif kind == "metric":
        optimizer.report_metric("val_loss", value)
        if model.plateau is not None:
            model.plateau.step(value)
    elif kind == "group":
        model.ratios.append(value)
        module.append(nn.Parameter(torch.ones(2)))
        optimizer.add_param_group({"params": [module[-1]], "lr": LR * value})
    elif kind == "save":
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        saved.seek(0)
        optimizer = fresh(model, module)
        optimizer.load_state_dict(torch.load(saved, weights_only=True))
    elif kind == "evaluate" and callable(getattr(optimizer, "eval", None)):
        before = [p.detach().clone() for p in module]
        optimizer.eval()
        if value == "and save":
            return apply("save", model, module, optimizer, scaler)
        optimizer.train()
        assert all(map(torch.equal, before, module))
    elif kind == "state":
        optimizer.state_dict()
        optimizer.scheduler.get_last_lr()
    elif kind == "deepcopy":
        module, optimizer = copy.deepcopy((module, optimizer))
    elif kind == "pickle":
        module, optimizer = pickle.loads(pickle.dumps((module, optimizer)))
    elif kind == "dry":  # as torch's distributed checkpoint does it, and puts the lrs back
        step_dry(optimizer)
    elif kind == "by hand":  # it holds for one update
        optimizer.param_groups[0]["lr"] = 0.123
        optimizer.step()
        model.updates += 1
    return module, optimizer


def sequences(number):
    chosen = settings(max_examples=number, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    return lambda test: chosen(given(events=st.lists(EVENTS, max_size=30))(test))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
@sequences(SEQUENCES)
def test_the_lr_is_what_the_model_says(name, events):
    follow(name, events)


@pytest.mark.parametrize("name", SCHEDULES)
@sequences(QUICK)
def test_the_lr_is_what_the_model_says_in_a_few_sequences(name, events):
    follow(name, events)


def follow(name, events):
    model, module = Model(name), [nn.Parameter(torch.ones(2))]
    optimizer = fresh(model, module)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=10**6)
    for event in events:
        module, optimizer = apply(event, model, module, optimizer, scaler)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(model.lrs(), rel=1e-12, abs=1e-16)
        assert optimizer.scheduler.last_epoch == model.updates
        assert all(group["schedule_position"] == model.updates for group in optimizer.param_groups)
