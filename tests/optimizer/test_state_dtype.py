"""Adam's moments in bfloat16: rounded stochastically, right on average, and falling when gradients do."""

import copy
import pickle

import pytest
import torch
from conftest import NO_COMPILER
from torch import nn

from optimizer import (
    OPTIMIZER_BUILDER_REGISTRY,
    CautiousOptimizer,
    load_named_state,
    load_optimizer_state,
    named_state,
    save_optimizer_state,
)
from optimizer.kernels import native
from optimizer.kernels.registry import implementation_of

pytestmark = NO_COMPILER

HALF = {"state_dtype": "bfloat16", "implementation": "compiled", "grad_clip_norm": None}
MOMENTS = ("exp_avg", "exp_avg_sq")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"matrix": (70, 41), "bias": (3,), "scalar": (), "nothing": (0, 4)}.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator)))
        self.turned = nn.Parameter(torch.randn(9, 16, generator=generator).t())


def built(module, key="adamw", **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](**{"lr": 0.01, **HALF, **params}).build(module)


def train(optimizer, updates):
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return optimizer


def everything(optimizer):
    """Return all that a step moves, as one list of tensors."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [*parameters, *(value for p in parameters for _, value in sorted(optimizer.state[p].items()))]


def standing(average, square, size=100_000, **params):
    """Return an optimizer over one parameter, with such moments, and its state."""
    p = nn.Parameter(torch.zeros(size))
    optimizer = built([("p", p)], **params)
    p.grad = torch.zeros(size)
    optimizer.step()
    state = optimizer.state[p]
    state["exp_avg"].fill_(average)
    state["exp_avg_sq"].fill_(square)
    return optimizer, state


@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("key", ["adam", "adamw", "adamw_cosine_schedule", "torch.optim.AdamW"])
def test_the_moments_are_bfloat16_and_the_rest_is_not(key, caution):
    module = Net()
    own = {"total_steps": 9, "max_lr": 0.1} if key == "adamw_cosine_schedule" else {}
    factory = OPTIMIZER_BUILDER_REGISTRY[key](**HALF, use_cautious_optimizer=caution, **own)
    assert factory.config()["state_dtype"] == "bfloat16"
    optimizer = train(factory.build(module), range(2))
    assert implementation_of(optimizer) == "compiled"
    for state in (*optimizer.state.values(), *optimizer.state_dict()["state"].values()):
        assert {name: value.dtype for name, value in state.items()} == {
            "step": torch.float32,
            "exp_avg": torch.bfloat16,
            "exp_avg_sq": torch.bfloat16,
        }
    assert all(p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("adamw", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1, "use_cautious_optimizer": True}),
        ("adam", {"weight_decay": 0.1, "maximize": True, "use_cautious_optimizer": True}),
    ],
)
def test_weights_go_where_they_go_with_float32(key, params):
    start, half, whole = Net(), Net(), Net()
    train(built(half, key, **params), range(200))
    train(built(whole, key, state_dtype=None, **params), range(200))
    modules = (start, half, whole)
    before, ours, exact = (torch.cat([p.detach().flatten() for p in module.parameters()]) for module in modules)
    assert 0 < (ours - exact).norm() < 0.02 * (exact - before).norm()


def test_the_second_moment_falls_with_the_gradients_and_rounded_to_nearest_it_would_not():
    optimizer, state = standing(0.0, 1.0, size=1000)
    twin = torch.ones(1000, dtype=torch.bfloat16)
    for _ in range(2000):
        optimizer.step()
        twin = (twin.float() * 0.999).bfloat16()
    assert torch.all(twin == 1.0)
    assert state["exp_avg_sq"].float().mean().item() == pytest.approx(0.999**2000, rel=0.02)


@pytest.mark.parametrize("caution", [False, True])
def test_rounding_is_right_on_average_and_by_less_than_a_last_bit(caution):
    optimizer, state = standing(1.0, 1.0, use_cautious_optimizer=caution)
    roundings = []
    for _ in range(2):
        for name, exact in zip(MOMENTS, (0.9, 0.999), strict=True):
            state[name].fill_(1.0)
            roundings.append((exact, state[name]))
        optimizer.step()
        roundings[-2:] = [(exact, moment.float()) for exact, moment in roundings[-2:]]
    for exact, moment in roundings:
        assert moment.mean().item() == pytest.approx(exact, abs=3e-5)
        assert moment.unique().numel() == 2
        assert (moment - exact).abs().max() < 2**-8
    # Neither moment, step nor neighbouring element is rounded as another is.
    ups = [moment > exact for exact, moment in roundings]
    ups += [ups[0].roll(shift) for shift in (1, 2, 16)] + [ups[1].roll(shift) for shift in (1, 2, 16)]
    assert torch.corrcoef(torch.stack(ups).float()).fill_diagonal_(0).abs().max() < 0.02


@pytest.mark.parametrize("caution", [False, True])
def test_the_number_of_threads_changes_nothing(caution):
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            p = nn.Parameter(torch.randn(300_003, generator=torch.Generator().manual_seed(0)))
            optimizer = train(built([p], use_cautious_optimizer=caution), range(3))
            found.append(everything(optimizer))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))


def by_state_dict(optimizer, module, folder):
    fresh = built(copy.deepcopy(module))
    fresh.load_state_dict(optimizer.state_dict())
    return fresh


def by_name(optimizer, module, folder):
    fresh = built(copy.deepcopy(module))
    load_named_state(fresh, named_state(optimizer))
    return fresh


def by_files(optimizer, module, folder):
    save_optimizer_state(optimizer, folder)
    return load_optimizer_state(built(copy.deepcopy(module)), folder)


def by_copy(optimizer, module, folder):
    return copy.deepcopy(optimizer)


def by_pickle(optimizer, module, folder):
    return pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("resumed", [by_state_dict, by_name, by_files, by_copy, by_pickle])
def test_a_resumed_run_is_the_whole_one_to_the_bit(resumed, tmp_path):
    module = Net()
    whole = train(built(Net()), range(6))
    half = train(built(module), range(3))
    fresh = train(resumed(half, module, tmp_path), range(3, 6))
    assert fresh.state_dtype == torch.bfloat16
    for one, other in zip(everything(whole), everything(fresh), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert not torch.equal(everything(whole)[0], everything(half)[0])


def test_checkpoints_of_one_type_load_into_optimizers_of_the_other():
    for saved, loading in ((HALF, {"state_dtype": None}), ({"state_dtype": None}, HALF)):
        module = Net()
        source, target = train(built(module, **saved), range(3)), built(module, **loading)
        target.load_state_dict(source.state_dict())
        for p in module.parameters():
            for name in MOMENTS:
                expected = source.state[p][name].to(target.state_dtype or torch.float32)
                torch.testing.assert_close(target.state[p][name], expected, rtol=0, atol=0)
        train(target, range(3, 5))


def test_what_is_no_number_stays_so_and_infinity_too():
    bits = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32).repeat(1000)  # of which two could run over
    p = nn.Parameter(torch.zeros(5000))
    optimizer = built([p])
    p.grad = torch.cat([bits.view(torch.float32), torch.full((1000,), torch.inf), torch.full((1000,), -torch.inf)])
    optimizer.step()
    average, square = (optimizer.state[p][name] for name in MOMENTS)
    assert average[:3000].isnan().all()
    assert square[:3000].isnan().all()
    assert torch.equal(average[3000:].float(), p.grad[3000:])
    assert torch.all(square[3000:] == torch.inf)


def test_parameters_that_are_laid_out_anew_take_their_moments_along():
    module = nn.Conv2d(2, 3, 4)
    optimizer = train(built(module), range(2))
    before = optimizer.state[module.weight]["exp_avg_sq"].float()
    module.to(memory_format=torch.channels_last)
    train(optimizer, [1])
    after = optimizer.state[module.weight]["exp_avg_sq"]
    assert after.dtype == torch.bfloat16
    assert after.stride() == module.weight.stride()
    torch.testing.assert_close(after.float(), before * 0.999 + module.weight.grad**2 * 0.001, rtol=2**-7, atol=0)


@pytest.mark.parametrize("key", ["sgd", "adamax", "nadam", "schedule_free_adamw", "muon"])
def test_other_classes_refuse_it(key):
    name = OPTIMIZER_BUILDER_REGISTRY[key].optimizer_class.__name__
    with pytest.raises(ValueError, match=f"state_dtype\n.*is for Adam and AdamW, and not for {name}"):
        OPTIMIZER_BUILDER_REGISTRY[key](lr=0.1, state_dtype="bfloat16")


def test_a_fallback_refuses_it():
    with pytest.raises(ValueError, match=r"fallback\n.*state_dtype is not available in a fallback"):
        OPTIMIZER_BUILDER_REGISTRY["muon"](fallback={"type": "adamw", "state_dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("params", "dtype", "found"),
    [
        ({"implementation": "fused"}, torch.float32, "torch .* on cpu: expected scalar type Float but found BFloat16"),
        ({"implementation": "foreach"}, torch.float32, "steps that are foreach"),
        ({"implementation": "blocks", "use_cautious_optimizer": True}, torch.float32, "steps that are default"),
        ({"implementation": "auto", "amsgrad": True}, torch.float32, "it does not support amsgrad"),
        ({}, torch.float64, r"parameters of torch\.float64"),
        ({}, torch.bfloat16, r"parameters of torch\.bfloat16"),
    ],
)
def test_steps_that_do_not_know_it_refuse_it(params, dtype, found):
    with pytest.raises(
        ValueError, match=f"^state_dtype: bfloat16 needs implementation: auto or compiled on the CPU.*; found {found}"
    ):
        built([nn.Parameter(torch.zeros(3, dtype=dtype))], **params)


def test_a_change_that_would_mix_types_is_refused():
    optimizer = train(built(Net()), range(2))
    before = [tensor.clone() for tensor in everything(optimizer)]
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(RuntimeError, match=r"state_dtype: a group has changed .* moments in torch\.bfloat16"):
        optimizer.step()
    assert all(map(torch.equal, before, everything(optimizer)))
    with pytest.raises(ValueError, match="state_dtype: build the optimizer with use_cautious_optimizer: true"):
        CautiousOptimizer(optimizer)


@pytest.mark.parametrize("halves", [[1], [0], [2], [0, 1, 2]])
def test_nothing_but_both_moments_may_be_bfloat16(halves):
    row = [torch.zeros(4, dtype=torch.bfloat16 if at in halves else torch.float32) for at in range(4)]
    with pytest.raises(TypeError, match=r"a parameter's tensors differ: .*torch\.bfloat16"):
        native.Step("adam", [row], [0])


def test_where_torchs_fused_kernel_takes_it_the_moments_are_made_for_it(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *lists, **options: calls.append(lists))
    p, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = built([p, other], implementation="fused")
    calls.clear()  # it was tried when the optimizer was built
    for update in range(2):
        p.grad, other.grad = torch.ones(3), torch.ones(2) if update else None
        optimizer.step()
        assert [step.item() for step in calls[update][5]] == [update + 1, 1][: update + 1]
    assert [[x.dtype for x in tensors] for tensors in calls[1][:4]] == [
        *[[torch.float32] * 2] * 2,
        *[[torch.bfloat16] * 2] * 2,
    ]
    optimizer.param_groups[0]["fused"] = False
    with pytest.raises(RuntimeError, match="state_dtype: a group has changed"):
        optimizer.step()
