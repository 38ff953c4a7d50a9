"""The contract of every registered optimizer key. A new key inherits these tests."""

import copy
import inspect
import io
import json
import pickle
from functools import partial

import pytest
import torch
from conftest import needs
from pydantic import ValidationError
from sample_optimizers import FALLBACK, HORIZON, KEYS, PARAMS, PATHS, built, options, registered, trainable, update
from torch import nn

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon, NamedState, OptimizerFactory, load_named_state, named_state
from optimizer.transforms.composite_optimizer import CompositeOptimizer

# It says so whenever an lr moves.
pytestmark = pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")

TORCH = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}
BASES = {
    **TORCH,
    "muon" + FALLBACK: CompositeOptimizer,
    "adamw_cosine_schedule": torch.optim.AdamW,
    "adamw_warmup_cosine_decay": torch.optim.AdamW,
}


@pytest.fixture(params=KEYS)
def key(request):
    return request.param


@pytest.fixture
def factory(key):
    return registered(key)(**PARAMS.get(key, {}))


@pytest.fixture
def model(key):
    """Return a function that makes a model which the key's optimizer can train, from a seed."""
    return partial(trainable, key)


@pytest.fixture
def _several_groups(key):
    if key == "lbfgs":
        pytest.skip("torch's LBFGS takes one parameter group only")


def test_is_a_factory_and_builds_the_base_class(key, factory, model):
    assert isinstance(factory, OptimizerFactory)
    optimizer = built(factory, model())
    assert isinstance(optimizer, BASES.get(key, torch.optim.Optimizer))


def test_round_trips_through_its_dump(factory):
    again = type(factory)(**factory.model_dump())
    assert again == factory
    assert type(factory).model_validate(factory.model_dump(mode="json")) == factory
    assert pickle.loads(pickle.dumps(factory)) == factory


def test_schema_names_every_parameter(factory):
    assert set(type(factory).model_json_schema()["properties"]) == set(type(factory).model_fields)


def test_every_parameter_is_described(factory):
    for name, field in type(factory).model_json_schema()["properties"].items():
        assert field.get("description"), name


def test_builds_from_every_form_of_parameters(factory, model):
    module = model()
    forms = [
        module,
        module.parameters(),
        module.named_parameters(),
        [{"params": module[0].named_parameters()}],
    ]
    for form in forms:
        built(factory, form)


@pytest.mark.usefixtures("_several_groups")
def test_builds_from_several_groups(factory, model):
    module = model()
    built(factory, [{"params": module[0].parameters()}, {"params": module[2].parameters(), "lr": 1e-4}])


def test_takes_only_what_trains_of_a_module(factory, model):
    module = model()
    module[0].requires_grad_(False)
    taken = [p for group in built(factory, module).param_groups for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in module[2].parameters()}


def test_refuses_to_optimize_nothing(factory, model):
    with pytest.raises(ValueError, match="no parameter"):
        factory.build([], horizon=HORIZON)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        factory.build(model().requires_grad_(False), horizon=HORIZON)


def test_refuses_an_unknown_group_option(factory, model):
    with pytest.raises(ValueError, match="unknown option 'learning_rate'"):
        factory.build([{"params": model().parameters(), "learning_rate": 1.0}], horizon=HORIZON)


def test_reduces_a_quadratic(key, factory):
    x = nn.Parameter(torch.tensor([[0.1, -0.2]]))
    before = float(x.detach().square().sum())
    optimizer = factory.build([x], horizon=Horizon(600))
    if hasattr(optimizer, "train"):
        optimizer.train()

    def closure():
        optimizer.zero_grad()
        loss = x.square().sum()
        loss.backward()
        if key == "sparseadam":
            x.grad = x.grad.to_sparse()
        return loss

    for _ in range(600):
        optimizer.step(closure)
    assert float(x.detach().square().sum()) < 0.3 * before


def test_each_update_runs_at_the_lr_of_the_curve_and_the_end_holds(factory, model):
    module = model()
    optimizer = built(factory, module)
    curve = factory.resolved(HORIZON).curve
    base = 1.0 if curve.absolute else factory.lr
    for step in range(HORIZON.total_steps + 5):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(curve.lr_at(step) * base, rel=1e-15)
        assert optimizer.scheduler.last_epoch == step
        assert optimizer.scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        update(module, optimizer, step)
    assert curve.lr_at(HORIZON.total_steps + 5) == curve.lr_at(HORIZON.total_steps - 1)


@pytest.mark.usefixtures("_several_groups")
def test_a_group_keeps_its_ratio_all_the_way(factory, model):
    module = model()
    base = built(factory, model()).defaults["lr"]
    groups = [{"params": module[0].parameters()}, {"params": module[2].parameters(), "lr": base / 8}]
    optimizer = built(factory, groups)
    for step in range(HORIZON.total_steps + 2):
        lrs = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        first, second = (lrs[id(next(module[index].parameters()))] for index in (0, 2))
        assert second == pytest.approx(first / 8, rel=1e-12)
        update(module, optimizer, step)


@pytest.mark.parametrize("done", [0, 1, 7, 29, 33])
def test_resumes_bit_exactly(factory, done, model):
    straight, module = model(), model()
    optimizer = built(factory, straight)
    for step in range(36):
        update(straight, optimizer, step)

    first = built(factory, module)
    for step in range(done):
        update(module, first, step)
    saved = io.BytesIO()
    torch.save({"model": module.state_dict(), "optimizer": first.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = model(seed=1)
    resumed.load_state_dict(loaded["model"])
    second = built(factory, resumed)
    second.load_state_dict(loaded["optimizer"])
    for step in range(done, 36):
        update(resumed, second, step)

    assert_same(straight, resumed)
    assert options(optimizer) == options(second)


def test_resumes_bit_exactly_from_a_state_by_name(factory, model):
    module = model()
    optimizer = built(factory, module)
    for step in range(7):
        update(module, optimizer, step)
    state = named_state(optimizer)
    tensors = {path: tensor.clone() for path, tensor in state.tensors.items()}
    resumed = copy.deepcopy(module)
    second = built(factory, resumed)
    load_named_state(second, NamedState(tensors, json.loads(json.dumps(state.values))))
    for step in range(7, 14):
        update(module, optimizer, step)
        update(resumed, second, step)
    assert_same(module, resumed)
    assert options(optimizer) == options(second)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_goes_on_after_a_copy(key, factory, copied, model):
    module = model()
    optimizer = built(factory, module)
    for step in range(4):
        update(module, optimizer, step)
    if key == "heavyball.AdamW" and copied is not copy.deepcopy:
        with pytest.raises(pickle.PicklingError):  # it holds functions that have no path
            copied((module, optimizer))
        return
    twin_module, twin = copied((module, optimizer))
    assert type(twin) is type(optimizer)
    for step in range(4, 12):
        update(module, optimizer, step)
        update(twin_module, twin, step)
    assert_same(module, twin_module)
    assert options(optimizer) == options(twin)


def test_state_dict_has_no_side_effects_and_carries_the_position(factory, model):
    module = model()
    optimizer = built(factory, module)
    update(module, optimizer, 0)
    before = options(optimizer), copy.deepcopy(module.state_dict())
    state = optimizer.state_dict()
    assert state["scheduler"]["last_epoch"] == 1
    assert all(group["schedule_position"] == 1 for group in state["param_groups"])
    assert options(optimizer) == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in module.state_dict().items())


def test_position_survives_tools_that_keep_only_state_and_groups(factory, model):
    module = model()
    optimizer = built(factory, module)
    for step in range(9):
        update(module, optimizer, step)
    state = optimizer.state_dict()
    fresh = built(factory, module)
    fresh.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    assert fresh.scheduler.last_epoch == 9
    assert options(fresh) == options(optimizer)


def test_misspelt_parameter_is_refused_with_the_nearest_name(factory):
    name = next(iter(type(factory).model_fields))
    with pytest.raises(ValidationError, match=f"did you mean '{name}'"):
        type(factory)(**{**factory.model_dump(), name + "x": 1})


@pytest.mark.parametrize("path", [pytest.param(path, marks=needs(path.split(".")[0])) for path in PATHS])
def test_the_contract_covers_other_libraries(path):
    assert path in KEYS


def numeric_fields(key):
    schema = registered(key).model_json_schema()["properties"]
    for name, field in schema.items():
        for option in field.get("anyOf", [field]):
            if option.get("type") in ("number", "integer"):
                yield name, option


BAD_VALUES = [
    (key, name, bad)
    for key in KEYS
    for name, field in numeric_fields(key)
    for bad in [
        "fast",
        True,
        float("nan"),
        float("inf"),
        [1.0],
        *([-1] if field.get("minimum", field.get("exclusiveMinimum")) in (0, 1) else []),
        *([0] if field.get("exclusiveMinimum") == 0 or field.get("minimum") == 1 else []),
        *([1.5] if field.get("maximum") == 1 or field["type"] == "integer" else []),
    ]
]


@pytest.mark.parametrize(("key", "name", "bad"), BAD_VALUES)
def test_bad_value_is_refused_by_name(key, name, bad):
    with pytest.raises(ValidationError) as refused:
        registered(key)(**{**PARAMS.get(key, {}), name: bad})
    assert [error["loc"][0] for error in refused.value.errors()] == [name]


def test_betas_are_checked_each(key, factory):
    if "betas" not in type(factory).model_fields:
        return
    of_a_kind = [[0.9], [0.9, "x"], 0.9]
    out_of_range = [[0.9, 1.0], [-0.1, 0.9]]
    for bad in [*of_a_kind, *(out_of_range if key != "heavyball.AdamW" else [])]:  # its class checks no ranges
        with pytest.raises(ValidationError, match="betas"):
            type(factory)(**{**factory.model_dump(), "betas": bad})


def test_implementations_agree(key, model):
    cls = registered(key).optimizer_class
    accepted = [name for name in ("foreach", "fused") if name in inspect.signature(cls).parameters]
    results = {}
    for implementation in ("auto", "single", *accepted):
        factory = registered(key)(**PARAMS.get(key, {}), implementation=implementation)
        module = model()
        optimizer = built(factory, module)
        for step in range(10):
            update(module, optimizer, step)
        results[implementation] = torch.cat([p.detach().flatten() for p in module.parameters()])
    for implementation, result in results.items():
        torch.testing.assert_close(result, results["single"], rtol=1e-4, atol=1e-6, msg=implementation)
    for implementation in {"foreach", "fused"} - set(accepted):
        factory = registered(key)(**PARAMS.get(key, {}), implementation=implementation)
        with pytest.raises(ValueError, match=f"has no {implementation} one"):
            built(factory, model())


@pytest.mark.parametrize("key", sorted(TORCH))
def test_has_the_classes_own_defaults(key):
    """Every default of a torch class holds, but for the clipping of the three keys that LeRobot has too."""
    factory = OPTIMIZER_BUILDER_REGISTRY[key]()
    ours = factory.build([nn.Parameter(torch.zeros(2, 2))]).defaults
    theirs = TORCH[key]([nn.Parameter(torch.zeros(2, 2))]).defaults
    assert ours.keys() == theirs.keys()
    own = {"foreach", "fused", "schedule_position", "initial_lr"}
    assert {name: ours[name] for name in ours.keys() - own} == {name: theirs[name] for name in theirs.keys() - own}
    assert factory.grad_clip_norm == (10.0 if key in ("adam", "adamw", "sgd") else None)
    assert OPTIMIZER_BUILDER_REGISTRY[TORCH[key].__name__] is type(factory), "the class's own name is a key too"


def assert_same(one, other):
    for (name, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(p, q), name
