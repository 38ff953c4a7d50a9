"""Rules by name, weight decay left out, and lr by layer."""

import pytest
import torch
from conftest import NO_COMPILER
from pydantic import ValidationError
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, named_state


class Policy(nn.Module):
    """A stem, four numbered layers, and a head."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4, 3))
        self.stem = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(3, 3), "norm": nn.LayerNorm(3)}) for _ in range(4))
        self.recurrent = nn.GRUCell(3, 3)
        self.head = nn.Linear(3, 2)

    def no_weight_decay(self):
        return {"position"}


def built(key="adamw", module=None, **params):
    return OPTIMIZER_BUILDER_REGISTRY[key](**params).build(module or Policy(), horizon=Horizon(100))


def by_name(optimizer, option):
    return {name: group[option] for group in optimizer.param_groups for name in group["param_names"]}


NAMES = [name for name, _ in Policy().named_parameters()]


def test_a_rule_changes_what_it_names_and_nothing_else():
    rules = [
        {"match": "blocks.*", "lr_multiplier": 0.1, "weight_decay": 0.5},
        {"match": ["head.*", "stem.*"], "betas": [0.5, 0.6]},
    ]
    optimizer = built(lr=1e-2, param_groups=rules)
    inside = {name for name in NAMES if name.startswith("blocks.")}
    assert by_name(optimizer, "lr") == pytest.approx({name: 1e-3 if name in inside else 1e-2 for name in NAMES})
    assert by_name(optimizer, "weight_decay") == {name: 0.5 if name in inside else 0.01 for name in NAMES}
    ends = {name for name in NAMES if name.split(".")[0] in ("head", "stem")}
    assert by_name(optimizer, "betas") == {name: (0.5, 0.6) if name in ends else (0.9, 0.999) for name in NAMES}
    assert len(optimizer.param_groups) == 3


def test_the_first_rule_that_matches_counts():
    rules = [{"match": "head.bias", "lr_multiplier": 0.5}, {"match": "head.*", "lr_multiplier": 0.1}]
    lrs = by_name(built(lr=1.0, param_groups=rules), "lr")
    assert (lrs["head.bias"], lrs["head.weight"], lrs["stem.weight"]) == (0.5, 0.1, 1.0)


def test_a_regex_is_found_anywhere_in_the_name():
    lrs = by_name(built(lr=1.0, param_groups=[{"regex": r"blocks\.[02]\..*weight$", "lr": 0.25}]), "lr")
    assert {name for name, lr in lrs.items() if lr == 0.25} == {
        f"blocks.{block}.{part}.weight" for block in (0, 2) for part in ("fc", "norm")
    }


def test_dynvisions_multiplier_for_recurrent_weights():
    lrs = by_name(built("adam", lr=0.001, param_groups=[{"match": "*recurrent*", "lr_multiplier": 0.1}]), "lr")
    assert {round(lr, 12) for name, lr in lrs.items() if "recurrent" in name} == {0.0001}
    assert {lr for name, lr in lrs.items() if "recurrent" not in name} == {0.001}


@pytest.mark.parametrize(
    "key", ["adamw", "adamw_warmup_cosine_decay", "adamw_cosine_schedule", "schedule_free_radam", "sgd"]
)
def test_groups_keep_their_ratio_all_the_way(key):
    required = {
        "adamw_warmup_cosine_decay": {"peak_lr": 1e-2, "warmup_steps": 10},
        "adamw_cosine_schedule": {"max_lr": 1e-2},
    }
    optimizer = built(key, param_groups=[{"match": "head.*", "lr_multiplier": 0.25}], **required.get(key, {}))
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(30):
        lrs = by_name(optimizer, "lr")
        assert lrs["head.bias"] == pytest.approx(lrs["stem.bias"] / 4, rel=1e-12)
        optimizer.step()


def test_without_decay_go_biases_norms_and_what_the_module_names():
    decays = by_name(built(no_decay=True, weight_decay=0.1), "weight_decay")
    parameters = dict(Policy().named_parameters())
    assert {name for name, decay in decays.items() if decay == 0.0} == {
        name for name in NAMES if parameters[name].ndim <= 1 or name == "position"
    }
    assert set(decays.values()) == {0.0, 0.1}
    inside = nn.Sequential(Policy())
    assert by_name(built(module=inside, no_decay=True), "weight_decay")["0.position"] == 0.0


def test_without_decay_by_name_and_a_rule_wins():
    decays = by_name(built(no_decay=["stem.*"]), "weight_decay")
    assert {name for name, decay in decays.items() if decay == 0.0} == {"stem.weight", "stem.bias"}
    decays = by_name(built(no_decay=True, param_groups=[{"match": "*norm*", "weight_decay": 0.3}]), "weight_decay")
    assert (decays["blocks.0.norm.weight"], decays["stem.bias"], decays["stem.weight"]) == (0.3, 0.0, 0.01)


def test_the_lr_falls_from_layer_to_layer_down():
    lrs = by_name(built(lr=1.0, layer_decay=0.5), "lr")
    expected = {
        "position": 5,
        "stem": 5,
        "blocks.0": 4,
        "blocks.1": 3,
        "blocks.2": 2,
        "blocks.3": 1,
        "recurrent": 0,
        "head": 0,
    }
    for name, lr in lrs.items():
        layer = next(layer for layer in expected if name.startswith(layer))
        assert lr == pytest.approx(0.5 ** expected[layer]), name


def test_layer_decay_and_a_multiplier_multiply():
    lrs = by_name(built(lr=1.0, layer_decay=0.5, param_groups=[{"match": "blocks.3.*", "lr_multiplier": 0.1}]), "lr")
    assert lrs["blocks.3.fc.bias"] == pytest.approx(0.05)


def test_layers_without_anything_above_them_are_the_top():
    lrs = by_name(
        built(module=nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), lr=1.0, layer_decay=0.5), "lr"
    )
    assert lrs == {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 1.0, "2.bias": 1.0}


def test_equal_options_share_a_group():
    rules = [{"match": "blocks.0.*", "lr_multiplier": 0.1}, {"match": "blocks.2.*", "lr_multiplier": 0.1}]
    optimizer = built(param_groups=rules)
    assert len(optimizer.param_groups) == 2
    assert sorted(name for group in optimizer.param_groups for name in group["param_names"]) == sorted(NAMES)


def test_rules_apply_within_groups_of_the_users_own():
    module = Policy()
    groups = [{"params": module.head.named_parameters(), "lr": 0.5}, {"params": module.stem.named_parameters()}]
    groups = [
        {**group, "params": [(f"{index}.{name}", p) for name, p in group["params"]]}
        for index, group in enumerate(groups)
    ]
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=1.0, param_groups=[{"match": "*.bias", "lr_multiplier": 0.1}])
    assert by_name(factory.build(groups), "lr") == pytest.approx(
        {"0.weight": 0.5, "0.bias": 0.05, "1.weight": 1.0, "1.bias": 0.1}
    )


def test_the_update_uses_the_groups():
    module = Policy()
    rules = [{"match": "head.*", "lr_multiplier": 0.0}, {"match": "stem.*", "lr_multiplier": 2.0}]
    optimizer = built("sgd", module=module, lr=0.1, grad_clip_norm=0, param_groups=rules)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {name: (before[name] - p.detach()).mean().item() for name, p in module.named_parameters()}
    expected = {name: {"head": 0.0, "stem": 0.2}.get(name.split(".")[0], 0.1) for name in NAMES}
    assert moved == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"param_groups": [{"match": "heads.*"}]},
            r"param_groups.0: no parameter's name matches 'heads.\*'; did you mean 'head",
        ),
        ({"param_groups": [{"regex": "xyz"}]}, r"param_groups.0: no parameter's name matches regex 'xyz'"),
        (
            {"param_groups": [{"match": "*"}, {"match": "head.*"}]},
            r"param_groups.1: all .* earlier rule: param_groups.0",
        ),
        ({"param_groups": [{"match": "head.*", "weight_decy": 0}]}, "did you mean 'weight_decay'"),
        ({"param_groups": [{"match": "head.*", "weight_decay": -1}]}, r"param_groups.0.weight_decay"),
        ({"param_groups": [{"match": "head.*", "lr": "fast"}]}, r"param_groups.0.lr"),
        ({"param_groups": [{"match": "head.*", "lr_multiplier": -0.1}]}, r"param_groups.0.lr_multiplier"),
        ({"param_groups": [{"lr_multiplier": 0.1}]}, "give match or regex, one of them"),
        ({"param_groups": [{"match": "a", "regex": "a"}]}, "give match or regex, one of them"),
        ({"param_groups": [{"regex": "("}]}, "not a regular expression"),
        ({"no_decay": ["nowhere.*"]}, r"no_decay: no parameter's name matches 'nowhere"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"layer_decay": 0}, "layer_decay"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        built(**params)


def test_layers_without_numbers_and_classes_without_decay_are_refused():
    with pytest.raises(ValueError, match="no numbered layers in the names weight, bias"):
        built(module=nn.Linear(2, 2), layer_decay=0.9)
    with pytest.raises(ValidationError, match="Rprop has no weight_decay"):
        built("rprop", no_decay=True)


@pytest.mark.parametrize("params", [{"no_decay": True}, {"layer_decay": 0.9}, {"param_groups": [{"match": "*"}]}])
def test_names_are_asked_for(params):
    with pytest.raises(ValueError, match="build from a module"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"](**params).build(Policy().parameters())


def test_a_parameter_that_comes_twice_is_named():
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'again' occurs twice: it is also 'weight'"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"]().build([*module.named_parameters(), ("again", module.weight)])
    with pytest.raises(ValueError, match="occurs twice"):
        OPTIMIZER_BUILDER_REGISTRY["adamw"]().build([{"params": module.weight}, {"params": module.parameters()}])


@pytest.mark.parametrize("implementation", [pytest.param("compiled", marks=NO_COMPILER), "fused", "single"])
@pytest.mark.parametrize("params", [{}, {"use_cautious_optimizer": True}], ids=["plain", "cautious"])
def test_a_parameter_taken_out_of_a_group_stays_and_the_others_step(implementation, params):
    module = nn.Linear(3, 2)
    optimizer = built("adamw", module, implementation=implementation, weight_decay=0.0, lr=0.5, **params)
    before = [p.detach().clone() for p in (module.weight, module.bias)]
    module.weight.grad, module.bias.grad = torch.ones(2, 3), torch.ones(2)
    optimizer.param_groups[0]["params"].remove(module.weight)  # as after a freeze; its name is left in the group
    optimizer.step()
    assert torch.equal(module.weight, before[0])
    torch.testing.assert_close(module.bias, before[1] - 0.5)
    with pytest.raises(ValueError, match=r"param_groups\.0\.param_names: .*parameters, 1; got 2.*Take the name"):
        named_state(optimizer)
    optimizer.param_groups[0]["param_names"].remove("weight")
    assert named_state(optimizer).tensors.keys() == {"bias/exp_avg", "bias/exp_avg_sq", "bias/step"}
