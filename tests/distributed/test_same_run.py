"""Processes of one run that differ: refused before the first update, or at a checkpoint, and named."""

import socket

import pytest
import torch
from conftest import NO_COMPILER
from run_together import config, replaced, trained
from torch import distributed
from worlds import own_world, trainer_of

from optimizer.kernels import compiled, limits, native_library
from trainer import offline_trainer, same_run
from trainer.distributed.comparison import differences
from trainer.errors import ConfigError, UserCodeError

HOST = socket.gethostname()


def compared(values):
    return differences(own_world(), values[distributed.get_rank()])


def refused(made, prepare=None):
    """Return the message of each process, whose configs are in `made`."""
    rank = distributed.get_rank()
    undo = prepare() if prepare is not None and rank == 1 else None
    try:
        trainer_of(made[rank])
    except ConfigError as error:
        return str(error)
    finally:
        if undo is not None:
            undo()
    return None


def another_weight():
    """Let this process start at other weights in the component `second`."""
    build = offline_trainer.build_components

    def other(*given):
        components, loaded = build(*given)
        with torch.no_grad():
            next(components["second"].parameters()).view(-1)[0] += 1e-6
        return components, loaded

    return replaced(offline_trainer, "build_components", other)


def another_version():
    return replaced(same_run, "innerstep_version", lambda: "0.0.7")


def another_content():
    import sample_parts

    batch = sample_parts.TensorSplit.batch

    def other(split, indices):
        made = batch(split, indices)
        return {**made, "x": made["x"] + 0.01}

    return replaced(sample_parts.TensorSplit, "batch", other)


def no_compiler():
    """Let this process fail to compile steps."""

    def fail(*of):
        raise OSError("there is no compiler here")

    return replaced(native_library, "check_step", fail)


def no_compiled_norm():
    """Let this process fail to compile the norm of gradients, and nothing else."""
    check = native_library.check_step

    def fail(step, *of):
        if step == "squares":
            raise OSError("no norm can be compiled here")
        check(step, *of)

    return replaced(native_library, "check_step", fail)


def refused_with_large_components(made, prepare):
    """Return the message of each process of a run whose optimizers are large enough to be compiled."""
    undone = [replaced(limits, name, 1) for name in ("LEAST_ELEMENTS", "LEAST_TENSORS")]
    undone.append(replaced(compiled, "FAILURES", {}))
    try:
        return refused([made, made], prepare)
    finally:
        for undo in undone:
            undo()


def unreadable_sample():
    import sample_parts

    batch = sample_parts.TensorSplit.batch

    def other(split, indices):
        if 36 in indices:  # the last sample, which is in the fingerprint
            raise OSError("a bad disk")
        return batch(split, indices)

    return replaced(sample_parts.TensorSplit, "batch", other)


def resumed_by(asked, made):
    """Train a run of which this process was asked, by rank, whether to resume it; return its updates."""
    from rich.console import Console

    from trainer import load_config, runs

    world = own_world()
    return runs._train_or_resume(load_config(made), False, asked[world.rank], Console(quiet=True), world).step


def another_lr(trainer):
    trainer.optimizers["first"].param_groups[0]["lr"] *= 1.5


def another_position(trainer):
    trainer.optimizers["second"].scheduler.last_epoch += 1


def other_weights(trainer):
    with torch.no_grad():
        next(trainer.components["first"].parameters()).add_(1e-3)


def other_counts(trainer):
    trainer.updater.skipped["first"] = 3


def come_apart(made, change):
    """Train, while process 1 changes after eight updates; return the message, and the checkpoints that are there."""
    trainer = trainer_of(made)
    updates = offline_trainer.training_loop

    def changed(*given):
        for report in updates(*given):
            if report.step == 7 and trainer.world.rank == 1:
                change(trainer)
            yield report

    undo = replaced(offline_trainer, "training_loop", changed)
    try:
        trainer.run()
    except UserCodeError as error:
        trainer.world.barrier()
        there = trainer.config.train.run_dir / "checkpoints"
        return str(error), sorted(path.name for path in there.glob("step_*"))
    finally:
        undo()
    return None


def test_equal_values_do_not_differ(two_workers):
    values = {"a": 1, "b": float("nan"), "c": [1.5, "text", None]}
    assert two_workers.call(compared, [values, dict(reversed(values.items()))]) == [[], []]


def test_both_values_of_two_processes_are_named(two_workers):
    lines = two_workers.call(compared, [{"data.params.root": "/a", "seed": 1}, {"data.params.root": "/b", "seed": 1}])
    assert lines == [[f"rank 1 ({HOST}): data.params.root: '/b', where rank 0 ({HOST}) has '/a'"]] * 2


@pytest.mark.slow
def test_of_four_processes_the_odd_one_is_named(four_workers):
    values = [{"seed": 2}, {"seed": 1}, {"seed": 1}, {"seed": 1}]
    lines = four_workers.call(compared, values)
    assert lines == [[f"rank 0 ({HOST}): seed: 2, where 3 others have 1"]] * 4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"grad_clip_norm": 2.0}, "train.grad_clip_norm: 2.0"),
        ({"eval_every": 3}, "train.eval_every: 3"),
        ({"data": {"params": {"samples": 38}}}, "data: samples in train: 38"),
        ({"data": {"params": {"held_out": 0}}, "keep_best": None}, "data: samples in held_out: nothing"),
    ],
    ids=["fixed field", "field that may change", "length", "no held-out samples"],
)
def test_another_config_or_length_is_refused_before_anything_is_written(two_workers, tmp_path, changed, named):
    run = tmp_path / "run"
    optims = {"eval_every": None} if "held_out" in named else {}
    made = [config(run, **optims), config(run, **optims, **changed)]
    messages = two_workers.call(refused, made)
    assert messages[0] == messages[1]
    assert f"rank 1 ({HOST}): {named}, where rank 0 ({HOST}) has " in messages[0]
    assert not run.exists()


@pytest.mark.parametrize(
    ("prepare", "named"),
    [
        (another_weight, "model.components.second: checksum of its weights"),
        (another_version, "version of innerstep: '0.0.7'"),
        (another_content, "data: fingerprint of train.sketch.x"),
    ],
)
def test_other_weights_versions_and_values_are_refused(two_workers, tmp_path, prepare, named):
    messages = two_workers.call(refused, [config(tmp_path / "run")] * 2, prepare)
    assert messages[0] == messages[1]
    assert f"rank 1 ({HOST}): {named}" in messages[0]
    assert messages[0].count("rank 1") == 1 or "sketch" in named  # nothing else differs
    assert not (tmp_path / "run").exists()


@NO_COMPILER
def test_steps_that_one_process_cannot_compile_are_refused_unless_all_take_others(two_workers, tmp_path):
    made = config(tmp_path / "run")
    messages = two_workers.call(refused_with_large_components, made, no_compiler)
    assert messages[0] == messages[1]
    for name, shown in (("first", "fused"), ("second", "blocks")):
        line = f"model.component_optims.{name}: implementation of its steps: '{shown}'"
        assert f"rank 1 ({HOST}): {line}, where rank 0 ({HOST}) has 'compiled'" in messages[0]
        made["model"]["component_optims"][name]["params"]["implementation"] = shown
    assert f"rank 1 ({HOST}): compiling a step failed: there is no compiler here" in messages[0]
    assert "the same C compiler" in messages[0]
    assert not (tmp_path / "run").exists()
    assert two_workers.call(refused_with_large_components, made, no_compiler) == [None, None]


@NO_COMPILER
def test_a_norm_that_one_process_cannot_compile_is_refused(two_workers, tmp_path):
    messages = two_workers.call(refused_with_large_components, config(tmp_path / "run"), no_compiled_norm)
    line = 'model.component_optims.second: norm of its gradients: "PyTorch\'s"'
    assert f"rank 1 ({HOST}): {line}, where rank 0 ({HOST}) has 'compiled'" in messages[0]


def test_samples_that_one_process_cannot_read_are_an_error_when_they_are_needed(two_workers, tmp_path):
    assert two_workers.call(refused, [config(tmp_path / "run")] * 2, unreadable_sample) == [None, None]


@pytest.mark.parametrize("asked", [[True, False], [False, True]])
def test_the_main_process_decides_whether_a_run_is_resumed(two_workers, tmp_path, asked):
    made = config(tmp_path / "run")
    assert two_workers.call(resumed_by, [True, True], made) == [12, 12]
    if asked[0]:
        assert two_workers.call(resumed_by, asked, made) == [12, 12]
    else:
        with pytest.raises(Exception, match="holds a run already"):
            two_workers.call(resumed_by, asked, made)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (another_lr, "model.component_optims.first: lr: "),
        (another_position, "model.component_optims.second: schedule.last_epoch: "),
        (other_weights, "model.components.first: checksum of its weights"),
        (other_counts, "skipped.first: 3"),
    ],
)
def test_processes_that_have_come_apart_save_nothing(two_workers, tmp_path, change, named):
    results = two_workers.call(come_apart, config(tmp_path / "run", eval_every=5, keep_best=None), change)
    for message, there in results:
        assert f"rank 1 ({HOST}): {named}" in message
        assert "The newest finite checkpoint: after 4 updates" in message
        assert there == ["step_00000004"]


def test_state_that_follows_the_samples_of_one_process_is_refused_after_the_first_update(two_workers, tmp_path):
    made = config(tmp_path / "run")
    made["data"]["type"], made["data"]["batch_size"] = "served", 9  # one process serves 4 samples, the other 5
    with pytest.raises(Exception, match=r"after 1 update, which cannot be saved[^~]*data: checksum of its state"):
        two_workers.call(trained, made)
    assert not (tmp_path / "run" / "checkpoints").exists()
