"""Suspicious schedules are reported before a run begins: by plan, train, resume and plot alike."""

import io

import pytest
import yaml
from conftest import DIGITS
from rich.console import Console
from sample_runs import config
from torch.optim.lr_scheduler import LRScheduler

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.analysis.lint import schedule_warnings
from trainer.runs import resume, train

LATE = {"type": "constant_with_warmup"}
NEVER = (
    "warning: first: the peak is never reached: the run ends at update 11, where the lr is 1.1e-04; later it would be"
)


def run_config(tmp_path, **params):
    optims = {"first": {"type": "adamw", "params": {"lr": 1e-2, **params}}, "second": {"type": "adamw"}}
    return config(tmp_path / "run", {"first": {"type": "normed"}, "second": {"type": "normed"}}, optims)


def warned(printed):
    return [line for line in printed.splitlines() if line.startswith("warning: ")]


def printed_by(function, *arguments):
    console = Console(file=io.StringIO(), width=80)
    function(*arguments, console=console)
    return console.file.getvalue()


def test_plan_train_resume_and_plot_print_the_same_lines(tmp_path, cli):
    option_schedules = {"weight_decay": {"type": "linear", "num_training_steps": 60}}
    raw = run_config(tmp_path, schedule=LATE, option_schedules=option_schedules)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    lines = warned(cli("plan", path)[1])
    assert [line[:40] for line in lines] == [
        "warning: first: update 0 runs at lr 0 an",
        "warning: first: the peak is never reache",
        "warning: first: the schedule is longer t",
    ]
    assert lines[1].startswith(NEVER)
    assert "of its 60 updates 12 are run, and the last is at weight_decay 8.17e-03" in lines[2]
    assert warned(cli("plot", path)[1]) == lines
    for function, target in ((train, raw), (resume, tmp_path / "run")):
        assert warned(printed_by(function, target)) == lines


def test_the_lines_come_after_the_table_once(tmp_path, cli):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(run_config(tmp_path, schedule=LATE)))
    printed = cli("plan", path)[1].splitlines()
    assert printed[0].startswith("component")
    assert printed[-2:] == warned("\n".join(printed))


def test_nothing_is_added_where_nothing_is_wrong(tmp_path, cli):
    assert warned(cli("plan", DIGITS)[1]) == []
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(run_config(tmp_path)))
    assert warned(cli("plan", path)[1]) == []


def lines_of(schedule, total_steps=200, **params):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, schedule=schedule, **params)
    horizon = Horizon(total_steps, 20)
    return schedule_warnings(factory.preview(horizon).scheduler, total_steps)


TOO_LONG = {
    "linear": {},
    "cosine": {},
    "polynomial": {},
    "cosine_with_restarts": {"num_cycles": 3},
    "cosine_decay": {},
    "polynomial_decay": {},
    "tanh": {},
    "rex": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "cosine_with_min_lr": {"min_lr": 1e-3},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-3},
    "cosine_decay_with_warmup": {"num_decay_steps": 200, "peak_lr": 1.0, "decay_lr": 0.1},
    "vqbet": {"num_vqvae_training_steps": 0},
    "step": {"step_size": 100},
    "exponential_decay": {"decay_steps": 10, "decay_rate": 0.9},
    "inverse_time_decay": {"decay_steps": 10, "decay_rate": 0.9},
    "cosine_decay_restarts": {"first_decay_steps": 10},
    "diffuser": {"name": "linear"},
}


@pytest.mark.parametrize("warmup", [200, 201, 350, 5000])
@pytest.mark.parametrize("key", TOO_LONG)
def test_a_warm_up_as_long_as_the_run_is_reported(key, warmup):
    lines = lines_of({"type": key, "num_warmup_steps": warmup, **TOO_LONG[key]})
    assert any("peak is never reached" in line or "warm-up takes the whole run" in line for line in lines), lines


def test_a_warm_up_of_epochs_is_counted_in_updates():
    (line,) = lines_of({"type": "wsd", "num_warmup_steps": 10, "num_decay_steps": 0, "interval": "epoch"})[1:]
    assert line == "the warm-up takes the whole run: it has 200 updates, and the run 200"


@pytest.mark.parametrize("length", [20_000, 3_000_000])
def test_a_warm_up_as_long_as_a_long_run_is_reported(length):
    assert any("warm-up" in line for line in lines_of({"type": "cosine", "num_warmup_steps": length}, length)[1:])


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "cosine_with_restarts", "num_cycles": 5},
        {"type": "diffuser", "name": "cosine_with_restarts", "num_cycles": 5},
        {"type": "exponential_decay", "decay_steps": 50, "decay_rate": 0.5, "staircase": True},
        {
            "type": "SequentialLR",
            "schedulers": [{"type": "LinearLR"}, {"type": "StepLR", "step_size": 50}],
            "milestones": [5],
        },
        {"type": "chain", "schedules": [{"type": "linear"}, {"type": "StepLR", "step_size": 50}]},
        {
            "type": "cosine_decay_with_warmup",
            "num_warmup_steps": 5,
            "num_decay_steps": 2000,
            "peak_lr": 1,
            "decay_lr": 0,
        },
        {"type": "diffuser", "name": "constant", "num_warmup_steps": 500},
        {"type": "plateau"},
    ],
    ids=lambda schedule: schedule["type"],
)
def test_what_a_schedule_is_for_is_not_reported(schedule):
    assert lines_of(schedule) == []


def test_an_option_is_named_and_may_start_at_0():
    schedules = {"weight_decay": {"type": "constant_with_warmup", "num_warmup_steps": 400}}
    (line,) = lines_of({"type": "constant"}, option_schedules=schedules)
    assert line.startswith("the peak is never reached: the run ends at update 199, where the weight_decay is 4.98e-03")


class Counting(LRScheduler):
    """A scheduler of another library, which knows an end."""

    steps = 0

    def __init__(self, optimizer, end: int = 10**9, last_epoch: int = -1) -> None:
        self.end = end
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        type(self).steps += 1
        if self.last_epoch > self.end:
            raise RuntimeError("it is over")
        return [base * 0.5 for base in self.base_lrs]


def test_a_class_that_must_be_stepped_is_looked_at_as_far_as_the_line_says(monkeypatch):
    monkeypatch.setattr(Counting, "steps", 0)
    (line,) = lines_of({"type": "test_plan_warnings.Counting"}, 10**7)
    assert line == (
        "only the first 10000 of 10000000 updates were checked:"
        " test_plan_warnings.Counting is computed update by update"
    )
    assert Counting.steps < 50_000
    assert lines_of({"type": "test_plan_warnings.Counting"}, 5000) == []
    parts = [{"type": "constant"}, {"type": "test_plan_warnings.Counting"}]
    assert "only the first 10000" in lines_of({"type": "sequence", "schedules": parts, "milestones": [9]}, 10**6)[0]


@pytest.mark.parametrize(
    ("schedule", "checked"),
    [
        ({"type": "CosineAnnealingLR", "T_max": 10**9}, 1_000_000),
        ({"type": "ExponentialLR", "gamma": 0.999999, "frequency": 10}, 10_000_000),
        ({"type": "StepLR", "step_size": 10_000, "gamma": 0.999}, None),
        ({"type": "LinearLR", "total_iters": 500}, None),
        ({"type": "CosineAnnealingWarmRestarts", "T_0": 10**8}, None),
        ({"type": "chain", "schedules": [{"type": "linear"}, {"type": "ExponentialLR", "gamma": 0.9}]}, 1_000_000),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_the_look_at_a_very_long_run_is_short(schedule, checked, monkeypatch):
    # More changes would be a warning, and so an error.
    monkeypatch.setattr("optimizer.schedules.torch_leaps.SLOW_CHANGES", 1_500_000)
    told = [line for line in lines_of(schedule, 10**9) if "were checked" in line]
    assert told == [line for line in told if f"only the first {checked} of 1000000000 updates" in line]
    assert bool(told) == (checked is not None)


ALONE = {
    "one_cycle": {"max_lr": 0.02, "cycle_momentum": False},
    "warmup_cosine_decay": {"peak_lr": 0.02, "warmup_steps": 10},
    "CyclicLR": {"base_lr": 1e-3, "max_lr": 0.02, "step_size_up": 10, "cycle_momentum": False},
    "StepLR": {"step_size": 50, "gamma": 0.5, "initial_lr": 0.02},
    "chain": {"schedules": [{"type": "warmup_cosine_decay", "peak_lr": 0.02}]},
}


def unused(schedule, option="lr", **params):
    made = OPTIMIZER_BUILDER_REGISTRY["adamw"](**{"schedule": schedule, **params})
    preview = made.preview(Horizon(200, 20))
    lines = schedule_warnings(preview.scheduler, 200, preview.usual)
    return [line for line in lines if line.startswith(f"{option} ") and "has no effect" in line]


@pytest.mark.parametrize("key", ALONE)
def test_an_lr_beside_a_schedule_that_sets_its_own_is_reported(key):
    schedule = {"type": key, **ALONE[key]}
    (line,) = unused(schedule, lr=0.3)
    assert line.startswith(f"lr 0.3 has no effect on the curve: {key} sets the lr itself, up to ")
    assert unused(schedule) == []  # left out
    assert unused(schedule, lr=1e-3) == []  # the default
    if key != "chain":
        assert unused(schedule, lr=0.02) == []  # what the schedule says


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "linear"},
        {"type": "plateau"},
        {"type": "StepLR", "step_size": 50},
        {"type": "LinearWarmupCosineAnnealingLR", "warmup_epochs": 2, "max_epochs": 200},
        {"type": "chain", "schedules": [{"type": "constant"}, {"type": "ExponentialLR", "gamma": 0.9}]},
        {"type": "sequence", "schedules": [{"type": "one_cycle", "max_lr": 1}, {"type": "rex"}], "milestones": [100]},
        {"type": "LambdaLR", "lr_lambda": "sample_functions.below_zero"},
        {
            "type": "cosine_decay_with_warmup",
            "num_warmup_steps": 9,
            "num_decay_steps": 200,
            "peak_lr": 1,
            "decay_lr": 0,
        },
    ],
    ids=lambda schedule: schedule["type"],
)
def test_an_lr_that_moves_the_curve_is_not_reported(schedule):
    assert unused(schedule, lr=0.3) == []


def test_another_option_beside_a_schedule_that_sets_its_own_is_reported():
    falling = {"type": "warmup_cosine_decay", "peak_lr": 0.2, "end_lr": 0.1}
    for option, own, same in (("weight_decay", {"weight_decay": 0.5}, {"weight_decay": 0.2}), ("beta1", {}, {})):
        own, same = (given or {"betas": betas} for given, betas in ((own, (0.8, 0.9)), (same, (0.2, 0.9))))
        (line,) = unused({"type": "constant"}, option, option_schedules={option: falling}, **own)
        assert f"warmup_cosine_decay sets the {option} itself, up to 2e-01" in line
        assert unused({"type": "constant"}, option, option_schedules={option: falling}, **same) == []
        assert unused({"type": "constant"}, option, option_schedules={option: falling}) == []


def test_plan_and_plot_report_an_lr_without_effect(tmp_path, cli):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(run_config(tmp_path, schedule={"type": "one_cycle", "max_lr": 0.5})))
    line = "warning: first: lr 0.01 has no effect on the curve: one_cycle sets the lr itself, up to "
    for command in ("plan", "plot"):
        assert [each[: len(line)] for each in warned(cli(command, path)[1])] == [line]
    printed = cli("plot", "one_cycle", "--max_lr=0.5")[1]
    assert "no effect" not in printed  # where no lr was given


def test_a_function_that_fails_late_is_a_line_and_no_traceback():
    schedule = {"type": "LambdaLR", "lr_lambda": "sample_functions.below_zero"}
    assert lines_of(schedule, 1000) == ["lr: the schedule gives -2e-05 for update 501"]
    assert lines_of(schedule, 400) == []  # what comes after the run does not matter
    assert lines_of({"type": "test_plan_warnings.Counting", "end": 250}, 200) == []


def test_an_lr_that_has_no_default_is_not_to_be_left_out():
    made = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.3, schedule={"type": "one_cycle", "max_lr": 0.02})
    (line, *_) = schedule_warnings(made.preview(Horizon(200, 20)).scheduler, 200, {"weight_decay": 0.01})
    assert "up to 2e-02. Set its fields, and set lr to one of them." in line
