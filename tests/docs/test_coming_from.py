"""The equivalents in docs/coming_from.md have the values of the other libraries' formulas."""

import bisect
import math
import re

import pytest
import torch
from conftest import ROOT, needs

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from trainer.config.overrides import apply_overrides, parse_overrides
from trainer.importing.train_config import convert
from trainer.importing.yaml_text import yaml_text

UPDATES = 24


def lrs(schedule):
    """Return the lr of each update under a schedule of the optimizer's lr 1."""
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1.0, schedule=schedule)
    optimizer = factory.build(torch.nn.Linear(2, 2), horizon=Horizon(UPDATES))
    found = []
    for _ in range(UPDATES):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return found


def half_cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def optax_cosine(update, peak, warmup, decay, end):
    """Return optax's warmup_cosine_decay_schedule from 0."""
    if update < warmup:
        return peak * update / warmup
    return end + (peak - end) * half_cosine((update - warmup) / (decay - warmup))


def test_timms_multi_step_is_one_milestone_earlier():
    theirs = [0.1 ** bisect.bisect_right([3, 6], update + 1) for update in range(UPDATES)]
    assert lrs({"type": "MultiStepLR", "milestones": [2, 5]}) == pytest.approx(theirs)


def test_timms_step_after_a_warmup_prefix_is_a_sequence():
    theirs = [update / 3 if update < 3 else 0.1 ** ((update - 3) // 4) for update in range(UPDATES)]
    parts = [{"type": "constant_with_warmup", "num_warmup_steps": 3}, {"type": "StepLR", "step_size": 4, "gamma": 0.1}]
    assert lrs({"type": "sequence", "schedules": parts, "milestones": [3]}) == pytest.approx(theirs)


def test_timms_cosine_after_a_warmup_prefix_is_as_much_longer():
    theirs = [update / 4 if update < 4 else half_cosine((update - 4) / 16) for update in range(UPDATES)]
    ours = {"type": "cosine_decay", "num_warmup_steps": 4, "num_training_steps": 20}
    assert lrs(ours) == pytest.approx(theirs)


def test_timms_cosine_with_restarts_needs_its_defaults():
    theirs = [half_cosine(update / 8) if update < 8 else 0.0 for update in range(UPDATES)]
    ours = {"type": "cosine_decay_restarts", "first_decay_steps": 8, "t_mul": 1, "m_mul": 1, "cycle_limit": 1}
    assert lrs(ours) == pytest.approx(theirs)


def test_optaxs_warmup_cosine_ends_one_update_later():
    theirs = [optax_cosine(update, 1.0, 4, 20, 0.1) for update in range(UPDATES)]
    ours = {"type": "warmup_cosine_decay", "peak_lr": 1.0, "warmup_steps": 4, "end_lr": 0.1, "total_steps": 21}
    assert lrs(ours) == pytest.approx(theirs)


def test_optaxs_sgdr_is_a_sequence():
    first = [optax_cosine(update, 1.0, 2, 10, 0.0) for update in range(10)]
    second = [optax_cosine(update, 0.5, 4, 12, 0.1) for update in range(UPDATES - 10)]
    parts = [
        {"type": "warmup_cosine_decay", "peak_lr": 1.0, "warmup_steps": 2, "total_steps": 11},
        {"type": "warmup_cosine_decay", "peak_lr": 0.5, "warmup_steps": 4, "end_lr": 0.1, "total_steps": 13},
    ]
    assert lrs({"type": "sequence", "schedules": parts, "milestones": [10]}) == pytest.approx(first + second)


@pytest.mark.parametrize("key", ["adam", "adamw", "sgd"])
def test_three_keys_clip_by_default_and_the_warmup_cosine_does_not(key):
    registry = OPTIMIZER_BUILDER_REGISTRY
    assert registry[key]().grad_clip_norm == 10.0
    assert registry["adamw_warmup_cosine_decay"](peak_lr=1.0).grad_clip_norm is None


GUIDE = (ROOT / "docs/coming_from.md").read_text()
COMMAND = re.search(r"```\n(lerobot-train .*?)```", GUIDE, re.DOTALL)[1].replace("\\\n", " ").split()[1:]


def typed(arguments):
    """Return the values of `--dotted.key=value` arguments as a mapping."""
    return apply_overrides({}, parse_overrides(arguments))


def test_lerobots_training_command_is_the_yaml_beside_it():
    written = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[1]
    done = convert(typed(COMMAND))
    assert written == yaml_text(done.config, done.comments)
    assert [left.path for left in done.left.values() if left.matters] == ["wandb.enable"]


def test_each_option_of_the_command_is_explained_below_it():
    explained = GUIDE.partition("writes it:")[2].partition("### A config of LeRobot's")[0]
    for argument in COMMAND:
        name = argument.removeprefix("--").partition("=")[0]
        assert f"--{name}" in explained, f"{name} has no line"


@needs("lerobot")
@pytest.mark.filterwarnings("ignore")
def test_the_command_is_one_that_lerobot_takes():
    import draccus
    import lerobot.policies  # noqa: F401 registers the policies
    from lerobot.configs.train import TrainPipelineConfig

    config = draccus.parse(TrainPipelineConfig, args=COMMAND)
    assert (config.policy.type, config.env.task, config.eval.batch_size) == ("act", "PushT-v0", 10)
    config.output_dir = None
    config.validate()
    assert config.optimizer.lr == config.policy.optimizer_lr == 1e-5, "--optimizer.lr=3e-4 is dropped in silence"
