"""Values that are NaN or infinite: a run stops before the step, and what it had is there."""

import io
import json
import re

import pytest
import sample_faulty_parts  # noqa: F401
import torch
from conftest import files_of, metrics_of
from rich.console import Console
from safetensors.torch import load_file
from sample_runs import ADAMW, MLPS, SCHEDULE_FREE, config, faulty, two

from trainer import NonFiniteError, resume, train

CAUTIOUS = {"type": "adamw", "params": {"lr": 1e-2, "use_cautious_optimizer": True}}
CLIPPED = {"type": "sgd", "params": {"lr": 1e-2, "momentum": 0.9, "grad_clip_norm": 0.5}}
PLAIN = {"type": "adam", "params": {"lr": 1e-2, "grad_clip_norm": None}}


@pytest.fixture
def printed():
    return Console(file=io.StringIO(), width=1000)


def are_finite(run):
    newest = run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()
    return all(
        bool(tensor.isfinite().all())
        for path in newest.rglob("*/*.safetensors")
        for tensor in load_file(path).values()
        if tensor.is_floating_point()
    )


WAYS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "clipped": {"grad_clip_norm": 1.0, "optims": {"first": CLIPPED, "second": CLIPPED}},
    "cautious": {"optims": {"first": CAUTIOUS, "second": PLAIN}},
    "schedule-free": {"optims": {"first": SCHEDULE_FREE, "second": SCHEDULE_FREE}},
    "accumulated": {"accumulate": 3, "data": {"params": {"samples": 90}}},
    "asynchronous": {"save_async": True},
}


STOPPING = [(name, way) for name in WAYS for way in ("nan_loss", "infinite_loss", "nan_gradient")]
STOPPING.remove(("fp16", "nan_gradient"))  # an overflow, at first: see below


@pytest.mark.parametrize(("name", "way"), STOPPING)
def test_a_run_stops_before_the_step_and_keeps_what_it_had(tmp_path, printed, name, way):
    options = WAYS[name]
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError) as stopped:
        train(faulty(run, way, keep_last=1, **options), console=printed)
    told = str(stopped.value)
    assert told.startswith("update 6 (epoch ")
    what = {
        "nan_loss": "is nan",
        "infinite_loss": "is inf",
        "nan_gradient": "the gradient of first is not finite: layers",
    }
    assert what[way] in told
    assert f"after 6 updates. `innerstep resume {run}` continues there. --train.on_nonfinite=skip leaves" in told
    assert are_finite(run)
    result = resume(run, {"train.on_nonfinite": "skip"}, console=printed)
    assert result.step == 12
    assert are_finite(run)
    assert "update 6 is skipped" in printed.file.getvalue()


def test_what_is_saved_where_a_run_stops_is_what_an_uninterrupted_one_had(tmp_path, printed):
    with pytest.raises(NonFiniteError):
        train(faulty(tmp_path / "stopped"), console=printed)
    train(faulty(tmp_path / "whole", at=(), save_every=6), console=printed)
    stopped, whole = (files_of(tmp_path / name / "checkpoints/step_00000006") for name in ("stopped", "whole"))
    weights = [name for name in whole if name.endswith(".safetensors")]
    assert {name: stopped[name] for name in weights} == {name: whole[name] for name in weights}


def test_the_sample_and_the_weights_that_are_not_finite_are_named(tmp_path, printed):
    spoilt = config(tmp_path / "run", MLPS, {"first": ADAMW, "second": ADAMW}, data={"type": "spoilt_noise"})
    spoilt["plugins"].append("sample_faulty_parts")
    with pytest.raises(NonFiniteError, match=r"the batch's x \(1 of 32 values\) is not finite"):
        train(spoilt, console=printed)

    explosive = {"type": "sgd", "params": {"lr": 1e30, "grad_clip_norm": None}}
    exploding = config(
        tmp_path / "exploding", MLPS, {"first": explosive, "second": explosive}, save_every=1, keep_last=1
    )
    with pytest.raises(NonFiniteError, match=r"^update 1 .*: the loss is (nan|inf)"):
        train(exploding, console=printed)


def test_where_the_weights_are_not_finite_skipping_is_no_remedy(tmp_path, printed):
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError) as stopped:
        train(faulty(run, "poison"), console=printed)
    told = str(stopped.value)
    assert "Training since then is not saved: the weights are not finite: first." in told
    assert f"after 4 updates. `innerstep resume {run}` continues there." in told
    assert "on_nonfinite" not in told
    assert are_finite(run)


def test_skipped_updates_move_nothing_and_are_counted(tmp_path, printed):
    run = tmp_path / "run"
    train(faulty(run, at=(3, 4, 8), on_nonfinite="skip", save_every=None), console=printed)
    lines = [line for line in metrics_of(run) if line["split"] == "train"]
    assert [line.get("skipped/first", 0) for line in lines] == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    state = json.loads((run / "checkpoints/step_00000012/second/optimizer.json").read_text())
    assert state["scheduler"]["last_epoch"] == 9
    text = printed.file.getvalue()
    assert "update 3 is skipped, the 1. of first, second: the loss is nan" in text
    assert "second: skipped 3 updates, as values were not finite" in text


def spoilt(run, kind="normed", **changed):
    optims = {"first": ADAMW, "second": ADAMW}
    made = config(
        run, {name: {"type": kind} for name in optims}, optims, data={"type": "spoilt_noise"}, eval_every=1, **changed
    )
    made["plugins"].append("sample_faulty_parts")
    return made


@pytest.mark.parametrize("kind", ["normed", "observant"])
def test_a_skipped_batch_leaves_the_running_statistics_alone(tmp_path, printed, kind):
    run = tmp_path / "run"
    train(spoilt(run, kind, on_nonfinite="skip"), console=printed)
    lines = metrics_of(run)
    assert next(line["step"] for line in lines if line.get("skipped/first") == 1) == 3
    assert all(line["loss"] is not None for line in lines if line["split"] == "held_out")
    assert are_finite(run)


@pytest.mark.parametrize("kind", ["normed", "observant"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_stops_a_run_takes_nothing_with_it(tmp_path, printed, accumulate, kind):
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match="The newest finite checkpoint: after"):
        train(spoilt(run, kind, accumulate=accumulate), console=printed)
    assert are_finite(run)
    resume(run, {"train.on_nonfinite": "skip"}, console=printed)
    assert are_finite(run)


def test_a_skipped_loss_leaves_the_other_losses_of_the_update_their_steps(tmp_path, printed):
    run = tmp_path / "run"
    made = config(run, two(), {"first": ADAMW, "second": ADAMW}, on_nonfinite="skip")
    made["plugins"].append("sample_faulty_parts")
    made["train"]["objective"] = {"type": "parallel", "params": {"at": [2]}}
    train(made, console=printed)
    last = [line for line in metrics_of(run) if line["split"] == "train"][-1]
    assert (last["skipped/first"], last.get("skipped/second")) == (1, None)


def test_skipped_updates_are_counted_on_after_a_resume(tmp_path, printed):
    options = {"at": (3, 9), "on_nonfinite": "skip", "save_every": 5}
    train(faulty(tmp_path / "whole", **options), console=printed)
    train(faulty(tmp_path / "parts", **options), console=printed)
    resume(tmp_path / "parts/checkpoints/step_00000005", console=printed)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    whole, parts = (files_of(tmp_path / name / "checkpoints/step_00000012") for name in ("whole", "parts"))
    assert whole == parts


def test_by_option_a_run_continues_and_the_finite_checkpoint_stays(tmp_path, printed):
    run = tmp_path / "run"
    train(faulty(run, on_nonfinite="continue", keep_last=1, save_every=4), console=printed)
    there = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    assert there == ["step_00000004", "step_00000012"], "the newest finite one, and the newest"
    assert not are_finite(run)
    resume(run / "checkpoints/step_00000004", {"train.on_nonfinite": "skip"}, console=printed)
    assert are_finite(run)


def test_half_precision_stops_once_its_scale_cannot_fall_any_more(tmp_path, printed):
    run = tmp_path / "run"
    made = faulty(run, "nan_gradient", at=range(5, 200), precision="fp16", total_steps=200, save_every=50)
    with pytest.raises(NonFiniteError, match="the gradient of first is not finite"):
        train(made, console=printed)
    lines = [line for line in metrics_of(run) if line["split"] == "train"]
    assert 10 < lines[-1]["skipped/first"] < 30
    assert are_finite(run)


def test_an_overflow_of_half_precision_is_no_end(tmp_path, printed):
    run = tmp_path / "run"
    train(faulty(run, "nan_gradient", at=[3], precision="fp16"), console=printed)
    assert metrics_of(run)[-1]["step"] == 12
    assert "first: skipped 1 update," in printed.file.getvalue()


def test_a_mask_that_is_infinite_by_design_is_no_fault(tmp_path, printed):
    made = config(tmp_path / "run", {"first": {"type": "masked"}}, {"first": ADAMW}, save_every=3)
    made["plugins"].append("sample_faulty_parts")
    assert train(made, console=printed).step == 12
    assert not re.search(r"\b(not |non-?)finite", printed.file.getvalue())


def test_the_command_ends_with_its_own_exit_code(tmp_path, cli):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(faulty(tmp_path / "run")))
    code, text = cli("train", path)
    assert code == 4
    assert "error: update 6 (epoch 1, batch 1 of 5, all counted from 0): the loss is nan" in text
    assert "Traceback" not in text


def test_finite_gradients_are_left_as_they_are():
    from trainer.loop.nonfinite import all_finite

    torch.manual_seed(3)
    tensors = [
        torch.randn(7),
        torch.randn(3, 2).t(),
        torch.randn(2, dtype=torch.float64) * 1e300,
        torch.ones(1).expand(4),
    ]
    tensors += [torch.randn(3).to(torch.bfloat16), torch.zeros(0), torch.arange(3), torch.eye(3).to_sparse()]
    before = [tensor.clone() for tensor in tensors]
    assert all_finite(tensors)
    assert all(torch.equal(one.to_dense(), other.to_dense()) for one, other in zip(tensors, before, strict=True))
    for bad in (float("nan"), float("inf"), -float("inf")):
        for index, tensor in enumerate(tensors):
            if tensor.is_floating_point() and tensor.numel() > 1:
                spoilt = [one.clone() for one in tensors]
                spoilt[index] = (tensor.to_dense() * bad).to_sparse() if tensor.is_sparse else tensor.clone().fill_(bad)
                assert not all_finite(spoilt)
