"""The names that users of LeRobot call, and the files that they have."""

import dataclasses
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sample_lerobot_files import lerobots_files
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    SCHEDULE_REGISTRY,
    Horizon,
    Schedule,
    StateMismatchError,
    load_optimizer_state,
    make_optimizer_and_scheduler,
    save_optimizer_state,
)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


class Recommending(Policy):
    def optimizer_preset(self):
        schedule = {
            "type": "cosine_decay_with_warmup",
            "num_warmup_steps": 5,
            "num_decay_steps": 50,
            "peak_lr": 1e-4,
            "decay_lr": 1e-6,
        }
        return {
            "type": "adamw",
            "params": {"lr": 1e-4, "weight_decay": 1e-3, "grad_clip_norm": 1.0, "schedule": schedule},
        }


def update(module, optimizer, step):
    module(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


RECOMMENDED = {
    "optimizer": {"type": "adamw", "lr": 1e-4, "weight_decay": 1e-3, "grad_clip_norm": 1.0},
    "scheduler": {
        "type": "cosine_decay_with_warmup",
        "num_warmup_steps": 1000,
        "num_decay_steps": 50_000,
        "peak_lr": 1e-4,
        "decay_lr": 1e-6,
    },
    "steps": 100_000,
}


def test_the_recommended_config_builds_one_object():
    optimizer, scheduler = make_optimizer_and_scheduler(RECOMMENDED, Policy())
    assert scheduler is None
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.grad_clip_norm == 1.0
    assert optimizer.scheduler.schedule.key == "cosine_decay_with_warmup"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 / 1001)


def test_configs_may_be_objects():
    @dataclasses.dataclass
    class Adam:
        lr: float = 1e-3
        betas: tuple = (0.9, 0.95)
        grad_clip_norm: float = 10.0
        type = "adam"

    @dataclasses.dataclass
    class Pipeline:
        optimizer: Adam
        scheduler: None = None
        steps: int = 100
        use_policy_training_preset: bool = True

    optimizer, _ = make_optimizer_and_scheduler(Pipeline(Adam()), Policy())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


def test_a_preset_holds_where_nothing_is_given_and_what_is_given_wins():
    optimizer, _ = make_optimizer_and_scheduler({"steps": 50}, Recommending())
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 1e-3)
    assert optimizer.scheduler.schedule.key == "cosine_decay_with_warmup"
    given = {"optimizer": {"type": "adamw", "lr": 5e-4}, "scheduler": {"type": "diffuser"}, "steps": 50}
    optimizer, _ = make_optimizer_and_scheduler(given, Recommending())
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (5e-4, 1e-3)
    assert optimizer.scheduler.schedule.key == "diffuser"
    optimizer, _ = make_optimizer_and_scheduler({"optimizer": {"type": "sgd", "lr": 0.1}}, Recommending())
    assert isinstance(optimizer, torch.optim.SGD)
    without = {**given, "use_policy_training_preset": False}
    assert make_optimizer_and_scheduler(without, Recommending())[0].defaults["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({}, "has no optimizer_preset"),
        ({"optimiser": {"type": "adamw"}}, "did you mean 'optimizer'"),
        ({"optimizer": {"type": "adamw", "learning_rate": 1}}, "learning_rate"),
        (
            {
                "optimizer": {"type": "adamw"},
                "scheduler": {"type": "cosine_decay_with_warmup", "num_warmup_steps": 1000},
            },
            "peak_lr",
        ),
        ({"optimizer": {"type": "adamw"}, "scheduler": {"type": "diffuser"}}, "num_training_steps"),
    ],
)
def test_what_is_missing_or_unknown_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer_and_scheduler(cfg, Policy())


class WithOptimParams(Policy):
    """A policy whose get_optim_params() returns `recommended`, a function of the policy."""

    def __init__(self, recommended):
        super().__init__()
        self._recommended = recommended

    def get_optim_params(self):
        return self._recommended(self)


def test_a_policy_may_recommend_its_parameters_as_a_dict():
    frozen = WithOptimParams(lambda policy: dict(policy.named_parameters()))
    first, *rest = dict(frozen.named_parameters())
    frozen.get_parameter(first).requires_grad_(False)
    optimizer, _ = make_optimizer_and_scheduler({"optimizer": {"type": "adamw"}}, frozen)
    assert optimizer.param_groups[0]["param_names"] == rest

    sets = WithOptimParams(lambda policy: {name: list(child.parameters()) for name, child in policy.named_children()})
    optimizers, _ = make_optimizer_and_scheduler({"optimizer": {"type": "multi_adam"}}, sets)
    assert list(optimizers) == [name for name, _ in sets.named_children()]
    with pytest.raises(ValueError, match="got a dict"):
        make_optimizer_and_scheduler({"optimizer": {"type": "adamw"}}, sets)


class Custom(Schedule):
    """The scheduler that LeRobot's guide writes as an extension: max(0, 1 - step / num_training_steps)."""

    absolute = False
    length_field = "num_training_steps"
    num_training_steps: int | None = None
    """The length of the run."""

    def lr_at(self, step):
        return max(0.0, 1.0 - step / self.num_training_steps)


def test_the_guides_custom_scheduler_is_a_class_of_ten_lines():
    cfg = {"optimizer": {"type": "adamw", "lr": 1e-3}, "scheduler": {"type": "test_lerobot.Custom"}, "steps": 10}
    optimizer, _ = make_optimizer_and_scheduler(cfg, Policy())
    theirs = torch.optim.AdamW(Policy().parameters(), lr=1e-3)
    scheduler = LambdaLR(theirs, lambda step: max(0.0, 1.0 - step / 10))
    for _ in range(14):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        theirs.step()
        scheduler.step()


def test_state_goes_through_files_one_or_several(tmp_path):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1e-2, schedule={"type": "linear"})
    for many in (False, True):
        module = Policy()
        optimizer = factory.build(module, horizon=Horizon(50))
        for step in range(7):
            update(module, optimizer, step)
        save_optimizer_state({"all": optimizer} if many else optimizer, tmp_path / str(many))
        again = Policy()
        again.load_state_dict(module.state_dict())
        fresh = factory.build(again, horizon=Horizon(50))
        loaded = load_optimizer_state({"all": fresh} if many else fresh, tmp_path / str(many))
        assert loaded == {"all": fresh} if many else loaded is fresh
        for step in range(7, 14):
            update(module, optimizer, step)
            update(again, fresh, step)
        assert all(torch.equal(p, q) for p, q in zip(module.parameters(), again.parameters(), strict=True))
        assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert sorted(path.name for path in (tmp_path / "False").iterdir()) == [
        "optimizer_param_groups.json",
        "optimizer_state.safetensors",
    ]


def test_multi_adams_state_goes_through_files(tmp_path):
    factory = OPTIMIZER_BUILDER_REGISTRY["multi_adam"](optimizer_groups={"backbone": {}, "head": {"lr": 0.1}})
    module = Policy()
    optimizers = factory.build(module)
    module(torch.ones(2, 4)).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
    save_optimizer_state(optimizers, tmp_path)
    loaded = load_optimizer_state(factory.build(Policy()), tmp_path)
    assert {name: one.scheduler.last_epoch for name, one in loaded.items()} == {"backbone": 1, "head": 1}
    with pytest.raises(FileNotFoundError, match="no state of value"):
        load_optimizer_state({**loaded, "value": loaded["head"]}, tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    module = Policy()
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(module)
    update(module, optimizer, 0)
    save_optimizer_state(optimizer, tmp_path)
    kept = (tmp_path / "optimizer_state.safetensors").read_bytes()
    update(module, optimizer, 1)
    save_optimizer_state(optimizer, tmp_path)
    (tmp_path / "optimizer_state.safetensors").write_bytes(kept)
    with pytest.raises(StateMismatchError, match="do not belong together"):
        load_optimizer_state(optimizer, tmp_path)
    (tmp_path / "optimizer_state.safetensors").write_bytes(kept[:50])
    with pytest.raises(StateMismatchError, match="is damaged"):
        load_optimizer_state(optimizer, tmp_path)
    (tmp_path / "optimizer_state.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        load_optimizer_state(optimizer, tmp_path)


def test_another_models_state_is_refused_by_name(tmp_path):
    save_optimizer_state(OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(Policy()), tmp_path)
    with pytest.raises(StateMismatchError, match=r"missing: weight.*extra: backbone"):
        load_optimizer_state(OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(nn.Linear(3, 3, bias=False)), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        (
            "optimizer_state.safetensors",
            {"weight/exp_avg": torch.ones(3, 3)},
            "names like state/0/exp_avg; got 'weight",
        ),
        ("optimizer_state.safetensors", {"state/first/exp_avg": torch.ones(3, 3)}, "names like state/0/exp_avg"),
        ("optimizer_param_groups.json", ["weight"], "parameter groups; got 'weight'"),
        ("optimizer_param_groups.json", [{"params": [0], "betas": 0.9}], "parameter groups; got "),
        ("scheduler_state.json", {"last_epoch": 1.5}, "last_epoch must be a whole number >= 0; got 1.5"),
        ("scheduler_state.json", [7], "last_epoch must be a whole number >= 0; got None"),
    ],
)
def test_a_file_that_lerobot_does_not_write_is_refused(tmp_path, name, content, rule):
    module = nn.Linear(3, 3, bias=False)
    adamw = torch.optim.AdamW(module.parameters())
    lerobots_files(adamw, LambdaLR(adamw, lambda step: 1.0), tmp_path)
    if name.endswith(".json"):
        (tmp_path / name).write_text(json.dumps(content))
    else:
        save_file(content, tmp_path / name)
    with pytest.raises(StateMismatchError) as caught:
        load_optimizer_state(OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(module), tmp_path)
    assert f"{tmp_path / name}: " in str(caught.value)
    assert rule in str(caught.value)


def test_a_run_that_lerobot_saved_goes_on(tmp_path):
    theirs, ours = Policy(), Policy()
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    scheduler = LambdaLR(adamw, lambda step: max(0.0, 1 - step / 50))
    for step in range(7):
        update(theirs, adamw, step)
        scheduler.step()
    lerobots_files(adamw, scheduler, tmp_path)
    ours.load_state_dict(theirs.state_dict())
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](
        lr=1e-2, grad_clip_norm=0, schedule={"type": "linear"}, implementation="foreach"
    )
    optimizer = load_optimizer_state(factory.build(ours, horizon=Horizon(50)), tmp_path)
    assert optimizer.scheduler.last_epoch == 7
    for step in range(7, 14):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(adamw.param_groups[0]["lr"], rel=1e-12)
        update(theirs, adamw, step)
        scheduler.step()
        update(ours, optimizer, step)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_the_guides_step_scheduler_has_its_names():
    schedule = SCHEDULE_REGISTRY["step"](step_size=3, num_warmup_steps=2)
    assert [schedule.lr_at(k) for k in range(7)] == pytest.approx([0.0, 0.5, 1.0, 0.1, 0.1, 0.1, 0.01])
    with pytest.raises(ValidationError, match="step_size"):
        SCHEDULE_REGISTRY["step"]()


def test_the_corrected_sibling_of_vqbet_ends_at_zero():
    lengths = {"num_warmup_steps": 50, "num_vqvae_training_steps": 200}
    exact, corrected = (SCHEDULE_REGISTRY[key](**lengths).resolved(Horizon(1000)) for key in ("vqbet", "vqbet_to_zero"))
    assert corrected.lr_at(1000) == 0.0 < exact.lr_at(1000)
    assert [corrected.lr_at(k) for k in range(250)] == [exact.lr_at(k) for k in range(250)]
    assert corrected.lr_at(250) == 1.0


def stepped_adam(parameters, **options):
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adam"](**options).build(parameters)
    for index, parameter in enumerate(optimizer.param_groups[0]["params"], 1):
        parameter.grad = torch.full_like(parameter, 0.01 * index)
    optimizer.step()
    return optimizer


def test_state_of_parameters_without_names_goes_by_position(tmp_path):
    parameters = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    optimizer, fresh = stepped_adam(parameters), OPTIMIZER_BUILDER_REGISTRY["adam"]().build(parameters)
    save_optimizer_state(optimizer, tmp_path)
    assert load_optimizer_state(fresh, tmp_path) is fresh
    torch.testing.assert_close(fresh.state_dict(), optimizer.state_dict(), rtol=0, atol=0)
    named = OPTIMIZER_BUILDER_REGISTRY["adam"]().build(list(zip(["w", "b"], parameters, strict=True)))
    load_optimizer_state(named, tmp_path)
    assert torch.equal(named.state[parameters[1]]["exp_avg"], optimizer.state[parameters[1]]["exp_avg"])
    assert named.param_groups[0]["param_names"] == ["w", "b"]


def test_state_of_named_parameters_loads_into_unnamed_ones_by_position(tmp_path):
    module = nn.Linear(3, 4)
    optimizer = stepped_adam(module)
    save_optimizer_state(optimizer, tmp_path)
    fresh = OPTIMIZER_BUILDER_REGISTRY["adam"]().build(module.parameters())
    load_optimizer_state(fresh, tmp_path)
    assert torch.equal(fresh.state[module.bias]["exp_avg_sq"], optimizer.state[module.bias]["exp_avg_sq"])
    assert fresh.scheduler.last_epoch == 1
    assert "param_names" not in fresh.param_groups[0]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(4, 3)], "it is of 2 parameters, and here are 1"),
        ([(4, 3), (5,)], r"mis-shaped: 1 \(saved \[3\], here \[5\]\)"),
    ],
)
def test_state_by_position_that_does_not_fit_is_refused(tmp_path, sizes, message):
    save_optimizer_state(stepped_adam([nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(3))]), tmp_path)
    fresh = OPTIMIZER_BUILDER_REGISTRY["adam"]().build([nn.Parameter(torch.zeros(size)) for size in sizes])
    with pytest.raises(StateMismatchError, match=message):
        load_optimizer_state(fresh, tmp_path)
    assert not fresh.state


def test_several_adams_of_plain_lists_are_saved_by_their_names_and_positions(tmp_path):
    parts = {"actor": [nn.Parameter(torch.ones(6, 2))], "temperature": [nn.Parameter(torch.ones(1))]}
    build = OPTIMIZER_BUILDER_REGISTRY["multi_adam"](lr=2e-3, optimizer_groups={"actor": {"lr": 3e-4}}).build
    optimizers, fresh = build(parts), build(parts)
    parts["actor"][0].grad = torch.ones(6, 2)
    optimizers["actor"].step()
    save_optimizer_state(optimizers, tmp_path)
    load_optimizer_state(fresh, tmp_path)
    for name, optimizer in optimizers.items():
        torch.testing.assert_close(fresh[name].state_dict(), optimizer.state_dict(), rtol=0, atol=0)
    assert [one.defaults["lr"] for one in fresh.values()] == [3e-4, 2e-3]


def test_the_state_of_an_optimizer_without_a_curve_holds_no_text():
    state = OPTIMIZER_BUILDER_REGISTRY["sgd"]().build(nn.Linear(2, 2).parameters()).state_dict()
    assert state["scheduler"] == {"last_epoch": 0, "config": {}}
    cosine = OPTIMIZER_BUILDER_REGISTRY["sgd"](schedule={"type": "cosine", "num_training_steps": 9})
    with pytest.warns(UserWarning, match="type: saved 'constant', now 'cosine'"):
        cosine.build(nn.Linear(2, 2).parameters()).load_state_dict(state)


@pytest.mark.parametrize(("num_cycles", "expected"), [(0, [1, 1, 1]), (0.5, [1, 0.5, 0]), (1, [1, 0, 1])])
def test_vqbet_to_zero_is_lerobots_newer_vqbet(num_cycles, expected):
    """Since its vqbet ends with the run; `vqbet` keeps the older formula, which ends past it."""
    schedule = {"type": "vqbet_to_zero", "num_warmup_steps": 10, "num_vqvae_training_steps": 20}
    made = OPTIMIZER_BUILDER_REGISTRY["adam"](lr=1.0, schedule={**schedule, "num_cycles": num_cycles})
    preview = made.preview(Horizon(100))
    assert [preview.values_at(update)["lr"] for update in (30, 65, 100)] == pytest.approx(expected, abs=1e-12)
    assert [preview.values_at(update)["lr"] for update in (0, 19, 20, 25)] == pytest.approx([1, 1, 0, 0.5])
