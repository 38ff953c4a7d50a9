"""Tests that need a CUDA device. Without one they are skipped with that reason."""

import copy
import io

import pytest
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from sample_demonstrations import IMAGE, STATE, policy_config
from sample_runs import ADAMW, MLPS, SCHEDULE_FREE, WARMUP, config, drop, two

from optimizer import OPTIMIZER_BUILDER_REGISTRY
from optimizer.kernels.moments import unsupported_by_fused
from trainer import MODEL_REGISTRY, TensorSplit, load_run, resume, train
from trainer.loop.batches import ShuffledBatches
from trainer.loop.nonfinite import all_finite

TWO_OPTIMS = {"first": WARMUP, "second": SCHEDULE_FREE}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]


@pytest.mark.parametrize("second", [ADAMW, SCHEDULE_FREE], ids=["adamw", "schedule_free"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_equals_an_uninterrupted_run(tmp_path, second, precision):
    options = {"save_every": 5, "eval_every": 4, "precision": precision, "device": "cuda"}
    for name in ("whole", "parts"):
        run = config(tmp_path / name, two(), {"first": WARMUP, "second": second}, **options)
        train(run, console=Console(file=io.StringIO()))
    for later in ("step_00000010", "step_00000012"):
        drop(tmp_path / "parts" / "checkpoints" / later)
    resume(tmp_path / "parts", console=Console(file=io.StringIO()))
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12 says so of every fork
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_in_pinned_memory_train_alike(tmp_path, workers):
    pinned = ShuffledBatches(TensorSplit({"x": torch.arange(23)}), 4, 0, workers=workers, pin_memory=True)
    with pinned:
        assert next(pinned.of_update(0))["x"].is_pinned()
    for name, data in (("plain", {}), ("pinned", {"pin_memory": True, "workers": workers})):
        run = config(tmp_path / name, two(), {"first": WARMUP, "second": ADAMW}, data=data, device="cuda")
        train(run, console=Console(file=io.StringIO()))
    plain, found = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("plain", "pinned"))
    assert found == plain


@pytest.mark.parametrize("began", ["cuda", "cpu"])
def test_a_run_goes_on_on_the_other_device_with_a_message(tmp_path, began):
    goes_on = {"cuda": "cpu", "cpu": "cuda"}[began]
    train(config(tmp_path / "run", two(), TWO_OPTIMS, save_every=5, device=began), console=Console(file=io.StringIO()))
    drop(tmp_path / "run" / "checkpoints" / "step_00000012")
    printed = io.StringIO()
    result = resume(tmp_path / "run", {"train.device": goes_on}, console=Console(file=printed, width=1000))
    assert result.step == 12
    assert "resumed on another machine setting: device" in printed.getvalue()


def test_an_asynchronous_run_writes_the_same(tmp_path):
    for name, beside in (("between", False), ("beside", True)):
        run = config(tmp_path / name, two(), TWO_OPTIMS, save_every=3, save_async=beside, device="cuda")
        train(run, console=Console(file=io.StringIO()))
    for step in (3, 6, 9, 12):
        between, beside = (files_of(tmp_path / run / f"checkpoints/step_{step:08d}") for run in ("between", "beside"))
        assert beside == between


@pytest.mark.filterwarnings("ignore")  # of the compiler's
def test_compiled_components_train_alike(tmp_path):
    optims, data = {"first": WARMUP, "second": ADAMW}, {"params": {"width": 4}}
    for name, compiled in (("eager", False), ("compiled", True)):
        run = config(tmp_path / name, MLPS, optims, data=data, compile=compiled, total_steps=6, device="cuda")
        train(run, console=Console(file=io.StringIO()))
    eager, fast = ([line["loss"] for line in metrics_of(tmp_path / run)] for run in ("eager", "compiled"))
    assert fast == pytest.approx(eager, rel=1e-4)


def test_an_objectives_modules_are_on_the_device_too(tmp_path):
    run = config(tmp_path / "run", two(), TWO_OPTIMS, objective="buffered", save_every=5, device="cuda")
    train(run, console=Console(file=io.StringIO()))
    whole = files_of(tmp_path / "run" / "checkpoints" / "step_00000012")
    drop(tmp_path / "run" / "checkpoints" / "step_00000012")
    resume(tmp_path / "run", console=Console(file=io.StringIO()))
    assert files_of(tmp_path / "run" / "checkpoints" / "step_00000012") == whole


@MODEL_REGISTRY.register("scattering")
class Scattering(torch.nn.Module):
    """Adds many numbers to four of them, on a CUDA device in an order that is not deterministic by default."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("numbers", torch.randn(200_000))
        self.register_buffer("places", torch.randint(4, (200_000,)))

    def forward(self, x):
        added = torch.zeros(4, device=x.device).index_add(0, self.places, self.numbers * self.linear.bias.sum())
        return self.linear(x) + added * 1e-3


def test_with_deterministic_algorithms_a_resume_equals_an_uninterrupted_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # restored afterwards
    (tmp_path / "told_to_be_deterministic.py").write_text(
        "import os, torch\n"
        "os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'\n"
        "torch.use_deterministic_algorithms(True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for name in ("whole", "parts"):
            run = config(tmp_path / name, two(type="scattering", params={}), TWO_OPTIMS, save_every=5, device="cuda")
            run["plugins"].append("told_to_be_deterministic")
            train(run, console=Console(file=io.StringIO()))
        drop(tmp_path / "parts" / "checkpoints" / "step_00000012")
        resume(tmp_path / "parts", console=Console(file=io.StringIO()))
    finally:
        torch.use_deterministic_algorithms(False)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_auto_is_fused_and_a_skipped_step_moves_nothing():
    module = torch.nn.Linear(4, 2, device="cuda")
    optimizer = OPTIMIZER_BUILDER_REGISTRY["adamw"](grad_clip_norm=None).build(module)
    assert optimizer.param_groups[0]["fused"]
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for overflow in (False, True, False):
        scaler.scale(module(torch.ones(3, 4, device="cuda")).square().mean()).backward()
        if overflow:
            module.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert optimizer.scheduler.last_epoch == 2


@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("adamw", {"use_cautious_optimizer": True, "weight_decay": 0.1}),
        ("sgd", {"use_cautious_optimizer": True, "momentum": 0.9, "nesterov": True}),
        ("schedule_free_radam", {"weight_decay": 0.1}),
    ],
)
def test_compiled_steps_are_those_of_the_cpu(key, params):
    moved = []
    for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(size).to(device, dtype)) for size in (3, 40_001, 1_000_000)]
        factory = OPTIMIZER_BUILDER_REGISTRY[key](lr=0.01, implementation="compiled", **params)
        optimizer = factory.build(parameters)
        for _ in range(20):
            for p in parameters:
                p.grad = torch.randn(p.shape).to(device, dtype)
            optimizer.step()
        moved.append([p.detach().cpu().double() for p in parameters])
    for ours, twin in zip(*moved, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-6, atol=1e-6)


def test_moments_in_bfloat16_are_taken_by_the_fused_kernel_or_refused():
    module = torch.nn.Linear(64, 32, device="cuda")
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=0.01, state_dtype="bfloat16", grad_clip_norm=None)
    if unsupported_by_fused(OPTIMIZER_BUILDER_REGISTRY["adamw"]().build(module)) is not None:
        with pytest.raises(ValueError, match=r"state_dtype: bfloat16 needs .* found torch .* on cuda"):
            factory.build(module)
        return
    twin = copy.deepcopy(module)
    start = module.weight.detach().clone()
    for net, optimizer in ((module, factory.build(module)), (twin, factory.replaced(state_dtype=None).build(twin))):
        for update in range(20):
            torch.manual_seed(update)
            net.weight.grad, net.bias.grad = torch.randn_like(net.weight), torch.randn_like(net.bias)
            optimizer.step()
        dtypes = {name: value.dtype for name, value in optimizer.state[net.weight].items()}
        moments = torch.bfloat16 if net is module else torch.float32
        assert dtypes == {"step": torch.float32, "exp_avg": moments, "exp_avg_sq": moments}
    assert (module.weight - twin.weight).norm() < 0.03 * (twin.weight - start).norm()


def test_a_component_in_bfloat16_trains_and_its_gradients_are_checked(tmp_path):
    components = {"first": {"type": "low_precision"}, "second": {"type": "normed"}}
    made = config(tmp_path / "run", components, {"first": ADAMW, "second": WARMUP}, device="cuda")
    made["plugins"].append("sample_averages")
    assert train(made, console=Console(file=io.StringIO())).step == 12
    gradients = [torch.ones(size, dtype=torch.bfloat16, device="cuda") for size in (0, 70_000, 3)]
    gradients.append(torch.ones(5, device="cuda"))
    assert all_finite(gradients)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for index in (1, 2, 3):
            spoilt = [gradient.clone() for gradient in gradients]
            spoilt[index][-1] = bad
            assert not all_finite(spoilt)


def test_an_exported_script_computes_on_the_device(tmp_path, cli):
    train(policy_config(tmp_path / "run", device="cuda"), console=Console(file=io.StringIO()))
    assert cli("export", tmp_path / "run", tmp_path / "out", "--to", "torch")[0] == 0
    space = {"__name__": "exported", "__file__": str(tmp_path / "out/policy.py")}
    exec((tmp_path / "out/policy.py").read_text(), space)
    loaded = load_run(tmp_path / "run", device="cuda")
    image = torch.randint(0, 256, (5, 2, 3, 8, 8), dtype=torch.uint8, device="cuda")
    given = {STATE: torch.randn(5, 2, 3, device="cuda"), IMAGE: image}
    with torch.no_grad():
        found, expected = space["load"]("cuda")(given), loaded.policy.actions(loaded.components, given)
    assert found.is_cuda
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
