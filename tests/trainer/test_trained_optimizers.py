"""Optimizers in the trainer: groups, presets, metrics, and clipping over all components."""

import io
from functools import partial

import pytest
import torch
from conftest import files_of, metrics_of, needs
from rich.console import Console
from sample_runs import ADAMW, PLATEAU, config, drop, two

from trainer import ConfigError, load_config, resume, train
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import plan_text


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


def lrs(run, name):
    return [line[f"lr/{name}"] for line in metrics_of(run) if line["split"] == "train"]


def test_an_evaluation_moves_the_schedule_that_waits_for_it_and_a_resume_goes_on(tmp_path, quiet):
    optims = {"first": PLATEAU, "second": ADAMW}
    for name in ("whole", "parts"):
        train(config(tmp_path / name, two(), optims, eval_every=2, save_every=5), console=quiet)
    assert lrs(tmp_path / "whole", "second") == [1e-2] * 12
    falling = lrs(tmp_path / "whole", "first")
    assert falling[:4] == [1e-2] * 4  # the first evaluation sets the mark, the second misses it
    assert falling[4:6] == [5e-3] * 2
    for later in ("step_00000010", "step_00000012"):
        drop(tmp_path / "parts" / "checkpoints" / later)
    resume(tmp_path / "parts", console=quiet)
    assert lrs(tmp_path / "parts", "first") == falling
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_without_held_out_data_nothing_can_be_waited_for(tmp_path, quiet):
    raw = config(
        tmp_path / "run", two(), {"first": PLATEAU, "second": ADAMW}, data={"params": {"held_out": 0}}, eval_every=2
    )
    with pytest.raises(
        ConfigError, match=r"component_optims.first.params.schedule: waits for 'val_loss', but the data has no"
    ):
        train(raw, console=quiet)


def test_a_preset_is_the_classs_and_what_is_given_wins(tmp_path, quiet):
    optims = {"first": {"type": "preset"}, "second": {"type": "preset", "params": {"lr": 1e-4, "betas": [0.8, 0.9]}}}
    loaded = load_config(config(tmp_path / "run", two(), optims))
    first, second = (loaded.model.component_optims[name].factory for name in ("first", "second"))
    assert (first.lr, first.weight_decay, first.betas, first.schedule.key) == (3e-3, 0.2, (0.9, 0.999), "linear")
    assert (second.lr, second.weight_decay, second.betas, second.schedule.key) == (1e-4, 0.2, (0.8, 0.9), "linear")
    train(loaded, console=quiet)
    written = load_config(tmp_path / "run" / "config.yaml").model.component_optims
    assert (written["second"].type, written["second"].params["lr"]) == ("adamw", 1e-4)


def test_a_preset_that_is_none_is_refused(tmp_path):
    components = {"first": {"type": "normed"}, "second": {"type": "partly_frozen"}}
    with pytest.raises(ConfigError, match=r"model.component_optims.second.type: partly_frozen brings no preset"):
        load_config(config(tmp_path, components, {"first": {"type": "preset"}, "second": {"type": "preset"}}))


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (lambda: {"type": "adamw", "lr": 1e-3}, "must return"),
        (lambda: {"type": "adamw", "params": None}, "must return"),
        (lambda: {"params": {}}, "must return"),
        (lambda: 1 / 0, "fails: ZeroDivisionError"),
        ({"type": "adamw"}, "brings no preset"),
    ],
)
def test_a_malformed_preset_is_refused(tmp_path, monkeypatch, preset, message):
    import sample_parts

    monkeypatch.setattr(sample_parts.Normed, "optimizer_preset", staticmethod(preset) if callable(preset) else preset)
    with pytest.raises(ConfigError, match=rf"model.component_optims.first.type: .*{message}"):
        load_config(config(tmp_path, two(), {"first": {"type": "preset"}, "second": ADAMW}))


def test_a_preset_of_a_component_that_is_wrong_itself_adds_no_error(tmp_path):
    components = {"first": {"type": "normd"}, "second": {"type": "normed"}}
    with pytest.raises(ConfigError, match=r"^model\.components\.first\.type: unknown component 'normd'[^\n]*$"):
        load_config(config(tmp_path, components, {"first": {"type": "preset"}, "second": {"type": "preset"}}))


def test_a_preset_of_no_component_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.component_optims\.frist: there is no component .*mean 'first'"):
        load_config(config(tmp_path, two(), {"frist": {"type": "preset"}, "second": ADAMW}))


def test_params_of_another_kind_are_refused_with_a_preset_too(tmp_path):
    with pytest.raises(ConfigError, match=r"model.component_optims.first.params: must be a mapping"):
        load_config(config(tmp_path, two(), {"first": {"type": "preset", "params": ["lr"]}, "second": ADAMW}))


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        pytest.param(
            {"type": "pytorch_optimizer.AdaHessian"},
            "component_optims.first: ScheduledAdaHessian fails in its first step",
            marks=needs("pytorch_optimizer"),
        ),
        (
            {"type": "adamw", "params": {"schedule": {"type": "sample_schedulers.Ending", "last": 5}}},
            "Ending fails at its step 6 of 12 in the run: it is over",
        ),
    ],
)
def test_what_cannot_train_is_told_with_its_path(tmp_path, quiet, optim, message):
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path / "run", two(), {"first": optim, "second": ADAMW}), console=quiet)


def test_an_evaluation_that_comes_too_late_is_no_evaluation(tmp_path, quiet):
    for optim, field in (
        (PLATEAU, "schedule"),
        (
            {"type": "adamw", "params": {"option_schedules": {"eps": PLATEAU["params"]["schedule"]}}},
            "option_schedules.eps",
        ),
    ):
        raw = config(tmp_path / "run", two(), {"first": optim, "second": ADAMW}, eval_every=12)
        with pytest.raises(
            ConfigError, match=rf"first.params.{field}: waits for 'val_loss', but evaluations come at the end"
        ):
            train(raw, console=quiet)


@pytest.mark.parametrize(
    "path", ["schedulefree.AdamWScheduleFree", "schedulefree.RAdamScheduleFree", "schedulefree.SGDScheduleFree"]
)
def test_the_schedule_free_librarys_classes_leave_no_trace_by_path_either(tmp_path, quiet, path):
    optims = {"first": {"type": path, "params": {"lr": 0.05}}, "second": ADAMW}
    for name, every in (("seldom", None), ("often", 1)):
        train(config(tmp_path / name, two(), optims, eval_every=every), console=quiet)
    seldom, often = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("seldom", "often"))
    assert seldom == often


def trained(tmp_path, quiet, **options):
    return OfflineTrainer(
        load_config(config(tmp_path / "run", two(), {"first": ADAMW, "second": ADAMW}, **options)), quiet
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_joint_norm_is_over_all_components(tmp_path, quiet, precision, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=8.0))  # else it overflows
    optims = {name: {"type": "sgd", "params": {"lr": 1.0, "grad_clip_norm": 0}} for name in ("first", "second")}
    moved = {}
    for max_norm in (0, 0.01):
        raw = config(
            tmp_path / str(max_norm), two(), optims, grad_clip_norm=max_norm, precision=precision, total_steps=1
        )
        trainer = OfflineTrainer(load_config(raw), quiet)
        before = {name: p.detach().clone() for name, p in trainer.components.named_parameters()}
        train(raw, console=quiet)
        after = OfflineTrainer(load_config(raw), quiet)
        after.restore(tmp_path / str(max_norm) / "checkpoints" / "step_00000001")
        moved[max_norm] = {name: before[name] - p.detach() for name, p in after.components.named_parameters()}
        norms = metrics_of(tmp_path / str(max_norm))[0]
        total = torch.linalg.vector_norm(torch.tensor([norms["grad_norm/first"], norms["grad_norm/second"]]))
    factor = 0.01 / float(total)  # the norms in the metrics are those before clipping
    assert factor < 1
    for name, step in moved[0.01].items():
        torch.testing.assert_close(step, moved[0][name] * factor, rtol=1e-3, atol=1e-6)


def test_a_component_that_overflows_leaves_the_others_their_gradients(tmp_path, quiet):
    trainer = trained(tmp_path, quiet, grad_clip_norm=1e9, precision="fp16")
    learner, components = trainer.updater, trainer.components
    before = {name: p.detach().clone() for name, p in components.named_parameters()}
    loss = components["second"](torch.randn(8, 4)).sum() * 1e-3 + components["first"](torch.randn(8, 4)).sum() * 1e35
    learner.step(loss, "first", "second")
    same = {name: torch.equal(p, before[name]) for name, p in components.named_parameters()}
    assert all(same[name] for name in same if name.startswith("first"))
    assert not same["second.norm.bias"]
    assert all(torch.isfinite(p).all() for p in components.parameters())


def test_rules_and_groups_are_in_the_plan(tmp_path, quiet):
    optims = {
        "first": {
            "type": "adamw",
            "params": {"lr": 1e-2, "no_decay": True, "param_groups": [{"match": "linear.*", "lr_multiplier": 0.1}]},
        },
        "second": ADAMW,
    }
    trainer = OfflineTrainer(load_config(config(tmp_path / "run", two(), optims)), quiet)
    assert "first, group 1 of 3: 1 tensor, lr 0.001, weight_decay 0.01\n" in plan_text(trainer.plan())
    assert "first, group 2 of 3: 1 tensor, lr 0.001, weight_decay 0\n" in plan_text(trainer.plan())
    assert "first, group 3 of 3: 2 tensors, lr 0.01, weight_decay 0" in plan_text(trainer.plan())
    assert "second, group" not in plan_text(trainer.plan())


def assert_resumed_equals_uninterrupted(tmp_path, quiet, optims):
    for name in ("whole", "parts"):
        train(config(tmp_path / name, two(), optims, save_every=5), console=quiet)
    for later in ("step_00000010", "step_00000012"):
        drop(tmp_path / "parts" / "checkpoints" / later)
    resume(tmp_path / "parts", console=quiet)
    whole, parts = (files_of(tmp_path / run / "checkpoints" / "step_00000012") for run in ("whole", "parts"))
    assert whole == parts


def test_a_component_may_need_its_whole_module_for_its_groups(tmp_path, quiet):
    optims = {
        "first": {"type": "muon", "params": {"fallback": {"type": "adamw"}, "schedule": {"type": "linear"}}},
        "second": ADAMW,
    }
    assert_resumed_equals_uninterrupted(tmp_path, quiet, optims)


@pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=needs(path.split(".")[0])) for path in ("pytorch_optimizer.SOAP", "heavyball.AdamW")],
)
def test_an_optimizer_by_dotted_path_trains_and_resumes(tmp_path, quiet, path):
    optims = {"first": {"type": path, "params": {"lr": 1e-3, "schedule": {"type": "cosine"}}}, "second": ADAMW}
    assert_resumed_equals_uninterrupted(tmp_path, quiet, optims)


def test_the_norm_before_clipping_is_kept():
    from optimizer import OPTIMIZER_BUILDER_REGISTRY

    module = torch.nn.Linear(2, 2)
    optimizer = OPTIMIZER_BUILDER_REGISTRY["sgd"](grad_clip_norm=0.5).build(module)
    assert optimizer.grad_norm is None
    for p in module.parameters():
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    assert float(optimizer.grad_norm) == pytest.approx(24**0.5)
