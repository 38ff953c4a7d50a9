"""`load_state_dict`: the states that it takes and refuses, matching by name, and the options that win."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from optimizer import OPTIMIZER_BUILDER_REGISTRY, StateMismatchError, load_named_state, named_state, scheduled
from optimizer.schedules.basic import Constant


class Two(nn.Module):
    """Two layers of one shape, defined in the order that is asked for."""

    def __init__(self, order="xy", sizes=(5, 3)):
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(*sizes))


def built(params, key="adamw", **options):
    return OPTIMIZER_BUILDER_REGISTRY[key](**options).build(params)


def stepped(module, key="adamw", updates=3, **options):
    """An optimizer after some updates, in which each parameter has another gradient."""
    optimizer = built(module, key, **options)
    for _ in range(updates):
        for factor, (name, parameter) in enumerate(sorted(module.named_parameters()), 2):
            parameter.grad = torch.full_like(parameter, 0.1 * factor + len(name))
        optimizer.step()
    return optimizer


def entries(module, optimizer, entry):
    return {name: float(optimizer.state[p][entry].flatten()[0]) for name, p in module.named_parameters()}


def quietly(optimizer, state, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(state, **options)


class TestNames:
    def test_another_order_of_definition_gets_the_right_moments(self):
        one, other = Two("xy"), Two("yx")
        saved, fresh = stepped(one), built(other)
        quietly(fresh, saved.state_dict())
        assert entries(other, fresh, "exp_avg_sq") == entries(one, saved, "exp_avg_sq")
        assert fresh.param_groups[0]["param_names"][0] == "y.weight"

    def test_names_are_found_across_groups(self):
        one, other = Two(), Two()
        saved = stepped(one, lr=0.5)
        groups = [
            {"params": list(other.y.named_parameters("y")), "lr": 0.2},
            {"params": list(other.x.named_parameters("x"))},
        ]
        fresh = built(groups, lr=0.5)
        with pytest.warns(UserWarning, match=r"initial_lr: saved 0\.5, now 0\.2"):
            fresh.load_state_dict(saved.state_dict())
        assert entries(other, fresh, "exp_avg") == entries(one, saved, "exp_avg")
        assert [group["lr"] for group in fresh.param_groups] == [0.2, 0.5]
        assert fresh.scheduler.last_epoch == 3

    def test_other_names_are_refused_with_the_way_to_load_by_position(self):
        saved = stepped(Two("xy")).state_dict()
        other = Two("xz")
        fresh = built(other)
        with pytest.raises(
            StateMismatchError, match=r"missing: z\.bias, z\.weight; extra: y\.bias, y\.weight.*position"
        ):
            fresh.load_state_dict(saved)
        assert not fresh.state
        for group in saved["param_groups"]:
            del group["param_names"]
        quietly(fresh, saved)
        assert fresh.state[other.z.weight]["exp_avg"].shape == (3, 5)

    def test_names_on_one_side_only_leave_it_to_the_order(self):
        one, other = Two("xy"), Two("yx")
        saved, fresh = stepped(one), built(other.parameters())
        quietly(fresh, saved.state_dict())
        assert torch.equal(fresh.state[other.y.weight]["exp_avg"], saved.state[one.x.weight]["exp_avg"])

    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
    def test_what_a_wrapper_adds_to_names_does_not_count(self, wrapper):
        one, other = Two("xy"), Two("yx")
        saved = stepped(one)
        fresh = built([(wrapper + name, p) for name, p in other.named_parameters()])
        quietly(fresh, saved.state_dict())
        assert entries(other, fresh, "exp_avg") == entries(one, saved, "exp_avg")

    def test_another_number_of_parameters_is_refused(self):
        fresh = built(nn.Linear(5, 3).parameters())
        with pytest.raises(StateMismatchError, match="the saved groups have 4 parameters, and these 2"):
            fresh.load_state_dict(stepped(Two()).state_dict())

    def test_one_group_of_several_that_were_counted_differently_is_refused(self):
        one = Two()
        groups = [{"params": list(one.x.named_parameters("x"))}, {"params": list(one.y.named_parameters("y"))}]
        saved = stepped_groups(groups)
        saved["param_groups"][1]["k"] += 2
        with pytest.raises(StateMismatchError, match=r"parameter groups differ: .*with k 1 and 3"):
            built(Two(), "schedule_free_adamw").load_state_dict(saved)


def stepped_groups(groups):
    optimizer = built(groups, "schedule_free_adamw")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


MISFITS = {
    "another shape": ("adam", {}, nn.Linear(7, 3), r"weight: exp_avg has shape \[3, 7\], and its parameter \[3, 5\]"),
    "the same number in another shape": ("adam", {}, nn.Linear(3, 5), r"exp_avg_sq has shape \[5, 3\].*bias: exp_avg"),
    "another class, which keeps less": (
        "sgd",
        {"momentum": 0.8},
        nn.Linear(5, 3),
        "lacks exp_avg, exp_avg_sq, step, which Adam",
    ),
    "another class, with names in common": (
        "Adamax",
        {},
        nn.Linear(5, 3),
        "lacks exp_avg_sq, which Adam makes .*weight, bias",
    ),
    "a sparse class": ("Adagrad", {}, nn.Linear(5, 3), "lacks exp_avg, exp_avg_sq"),
}


class TestFit:
    @pytest.mark.parametrize("misfit", MISFITS)
    def test_what_would_fail_later_is_refused_at_the_load(self, misfit):
        key, options, module, message = MISFITS[misfit]
        saved = stepped(module, key, **options).state_dict()
        own = nn.Linear(5, 3)
        optimizer = stepped(own, "adam", updates=1)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(StateMismatchError, match=message):
            optimizer.load_state_dict(saved)
        assert str(optimizer.state_dict()) == str(before)

    @pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64])
    def test_moments_of_another_kind_of_number_are_refused(self, kind):
        optimizer = stepped(nn.Linear(5, 3), "adamw", updates=1)
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][1]["exp_avg_sq"] = saved["state"][1]["exp_avg_sq"].to(kind)
        with pytest.raises(StateMismatchError, match=f"bias: exp_avg_sq is {kind}, another kind of number than its"):
            optimizer.load_state_dict(saved)

    @pytest.mark.parametrize("key", ["sgd", "pytorch_optimizer.Lion"])
    def test_a_class_that_keeps_nothing_of_it_refuses_it(self, key):
        saved = stepped(nn.Linear(5, 3), "Adagrad").state_dict()
        with pytest.raises(StateMismatchError, match=r"the state has step, sum, which SGD|lacks exp_avg, which Lion"):
            built(nn.Linear(5, 3), key).load_state_dict(saved)

    def test_a_class_of_another_library_refuses_another_shape(self):
        saved = stepped(nn.Linear(4, 3), "pytorch_optimizer.Lion").state_dict()
        with pytest.raises(StateMismatchError, match=r"weight: exp_avg has shape \[3, 4\], and its parameter \[3, 5\]"):
            built(nn.Linear(5, 3), "pytorch_optimizer.Lion").load_state_dict(saved)

    def test_an_option_that_needs_no_state_any_more_leaves_it_unused(self):
        with pytest.warns(UserWarning, match=r"momentum: saved 0\.9, now 0\.0"):
            built(nn.Linear(5, 3), "sgd").load_state_dict(stepped(nn.Linear(5, 3), "sgd", momentum=0.9).state_dict())

    @pytest.mark.parametrize("implementation", ["fused", "compiled", "single"])
    def test_moments_that_a_kernel_would_read_beyond_are_refused(self, implementation):
        # (1, 16) and (4, 4) with equal strides in memory: a step would read and write behind the 7 elements.
        module = nn.Linear(1, 16, bias=False)
        state = copy.deepcopy(stepped(module, implementation=implementation).state_dict())
        state["state"][0]["exp_avg"] = torch.ones(7).as_strided((4, 4), (1, 1))
        with pytest.raises(StateMismatchError, match=r"exp_avg has shape \[4, 4\], and its parameter \[16, 1\]"):
            built(module, implementation=implementation).load_state_dict(state)

    def test_every_misfit_is_in_one_error(self):
        saved = copy.deepcopy(stepped(Two()).state_dict())
        saved["state"][0]["exp_avg"] = torch.zeros(3, 4)
        saved["state"][1]["step"] = torch.zeros(0)
        del saved["state"][2]["exp_avg_sq"]
        saved["state"][3] = 5
        with pytest.raises(StateMismatchError) as refused:
            built(Two()).load_state_dict(saved)
        for part in ("lacks exp_avg_sq", "of y.weight", "x.weight: exp_avg", "x.bias: step", "y.bias: its state is 5"):
            assert part in str(refused.value)

    def test_a_load_leaves_no_trace_in_random_numbers_and_hooks(self):
        saved, optimizer = stepped(Two()).state_dict(), built(Two())
        seen = []
        handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
        before = torch.get_rng_state()
        optimizer.load_state_dict(saved)
        handle.remove()
        assert torch.equal(torch.get_rng_state(), before)
        assert seen == []

    @pytest.mark.parametrize("missing", ["state", "param_groups"])
    def test_a_state_dict_without_its_parts_is_refused(self, missing):
        saved = {key: value for key, value in stepped(Two()).state_dict().items() if key != missing}
        with pytest.raises(StateMismatchError, match=f"has no `{missing}`"):
            built(Two()).load_state_dict(saved)

    def test_a_hook_may_mend_a_state_before_it_is_checked(self):
        saved = copy.deepcopy(stepped(nn.Linear(5, 3)).state_dict())
        for state in saved["state"].values():
            state["m"] = state.pop("exp_avg")
        optimizer = built(nn.Linear(5, 3))

        def mend(_, state_dict):
            for state in state_dict["state"].values():
                state["exp_avg"] = state.pop("m")

        calls = []
        optimizer.register_load_state_dict_pre_hook(mend)
        optimizer.register_load_state_dict_post_hook(lambda _: calls.append("post"))
        quietly(optimizer, saved)
        assert calls == ["post"]
        assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


class TestOptions:
    def test_the_objects_own_options_hold_and_one_warning_tables_them(self):
        saved = stepped(nn.Linear(5, 3), weight_decay=0.3, betas=(0.7, 0.95), eps=1e-6).state_dict()
        fresh = built(nn.Linear(5, 3), weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
        with pytest.warns(UserWarning, match="keeps its own options") as seen:
            fresh.load_state_dict(saved)
        assert len(seen) == 1
        message = str(seen[0].message)
        assert "betas: saved [0.7, 0.95], now [0.8, 0.95]; weight_decay: saved 0.3, now 0.1" in message
        assert "eps:" not in message
        assert (fresh.param_groups[0]["weight_decay"], fresh.param_groups[0]["betas"]) == (0.1, (0.8, 0.95))

    def test_both_doors_have_the_same_rule(self):
        saved = stepped(nn.Linear(5, 3), "RMSprop", alpha=0.9, centered=True)
        fresh = built(nn.Linear(5, 3), "RMSprop", alpha=0.8, centered=True)
        with pytest.warns(UserWarning, match=r"alpha: saved 0\.9, now 0\.8"):
            load_named_state(fresh, named_state(saved))
        assert fresh.param_groups[0]["alpha"] == 0.8

    def test_what_a_schedule_moves_is_no_configuration(self):
        options = {
            "option_schedules": {"weight_decay": {"type": "linear", "num_training_steps": 10}},
            "schedule": {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 10},
        }
        saved = stepped(nn.Linear(5, 3), weight_decay=0.4, **options)
        fresh = built(nn.Linear(5, 3), weight_decay=0.4, **options)
        quietly(fresh, saved.state_dict())
        for option in ("lr", "betas", "weight_decay"):
            assert fresh.param_groups[0][option] == saved.param_groups[0][option]

    @pytest.mark.parametrize("implementation", ["fused", "foreach", "single"])
    def test_another_implementation_is_no_other_option(self, implementation):
        quietly(
            built(nn.Linear(5, 3), implementation=implementation),
            stepped(nn.Linear(5, 3), implementation="foreach").state_dict(),
        )

    def test_what_a_class_counts_in_its_groups_is_loaded(self):
        saved = stepped(nn.Linear(5, 3), "schedule_free_sgd", updates=4, weight_decay=0.2)
        fresh = built(nn.Linear(5, 3), "schedule_free_sgd", weight_decay=0.1)
        with pytest.warns(UserWarning, match="weight_decay"):
            fresh.load_state_dict(saved.state_dict())
        for counted in ("k", "weight_sum", "lr_max"):
            assert fresh.param_groups[0][counted] == saved.param_groups[0][counted] != 0, counted
        assert fresh.param_groups[0]["weight_decay"] == 0.1


def test_a_loaded_state_by_name_is_a_copy():
    one, other = nn.Linear(5, 3), nn.Linear(5, 3)
    saved, fresh = stepped(one), built(other)
    load_named_state(fresh, named_state(saved))
    before = {name: tensor.clone() for name, tensor in named_state(fresh).tensors.items()}
    saved.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in named_state(fresh).tensors.items())


class Wide(torch.optim.Optimizer):
    """Keeps its sum in float32, whatever the parameters' type is."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("total", torch.zeros_like(p, dtype=torch.float32)).add_(p.grad.float())
                p.add_(state["total"].to(p.dtype), alpha=-group["lr"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_that_a_class_keeps_wider_than_its_parameters_is_not_rounded(dtype):
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    one, other = (scheduled(Wide)([p]).embed(Constant()) for _ in range(2))
    p.grad = torch.full_like(p, 0.3)
    for _ in range(5):
        one.step()
    one.state[p]["total"] += 1e-7
    other.load_state_dict(one.state_dict())
    assert other.state[p]["total"].dtype == torch.float32
    assert torch.equal(other.state[p]["total"], one.state[p]["total"])


def test_moments_of_a_float32_run_are_cast_for_a_bfloat16_one():
    one, other = nn.Linear(5, 3), nn.Linear(5, 3, dtype=torch.bfloat16)
    fresh = built(other)
    fresh.load_state_dict(stepped(one).state_dict())
    assert fresh.state[other.weight]["exp_avg"].dtype == torch.bfloat16


def test_state_that_a_class_keeps_narrower_than_its_parameters_continues_to_the_bit():
    """NAdam keeps a product in float32: as float64 it would be multiplied otherwise."""
    modules = [nn.Linear(4, 3).double() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    first, second = [OPTIMIZER_BUILDER_REGISTRY["nadam"](lr=0.1).build(module) for module in modules]

    def update(module, optimizer, step):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for step in range(3):
        update(modules[0], first, step)
    modules[1].load_state_dict(modules[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(3, 6):
        update(modules[0], first, step)
        update(modules[1], second, step)
    assert torch.equal(modules[0].weight, modules[1].weight)
