"""The plan: at any width each name and number is whole; its sizes are those of the checkpoints; JSON for scripts."""

import json
import re
import sys

import pytest
import torch
from conftest import DIGITS, NO_COMPILER, needs
from safetensors import safe_open
from sample_runs import ADAMW, MLPS, SCHEDULE_FREE, config
from screens import drawn, pipe, terminal, text_on

from optimizer.kernels import compiled, native_library
from trainer import load_config, train
from trainer.offline_trainer import OfflineTrainer
from trainer.reporting.plan_table import drawn_plan, plan_text, show_plan
from trainer.reporting.tables import fold
from trainer.setup import checkpoint_size

WARMUP = {
    "type": "adamw_warmup_cosine_decay",
    "params": {"peak_lr": 1.25e-3, "start_lr": 0.0, "end_lr": 1.5e-5, "warmup_steps": 4},
}
NAMES = ("eye_of_the_robot", "frozen_hand")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Return the plan of two components with a warning: one trains, and one is frozen."""
    components = {NAMES[0]: MLPS["first"], NAMES[1]: {**MLPS["second"], "freeze": True}}
    made = config(tmp_path_factory.mktemp("plan") / "run", components, {NAMES[0]: WARMUP, NAMES[1]: ADAMW})
    return OfflineTrainer(load_config(made), pipe()).plan()


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_names_and_numbers_are_whole_at_each_width(planned, width):
    lines = drawn(drawn_plan(planned, width), width)
    assert max(map(len, lines)) <= width
    for word in (*NAMES, "adamw_warmup_cosine_decay", "0 ↗ 1.25e-03 (4)", "↘ 1.5e-05 (12)", "frozen"):
        assert any(word in line for line in lines), word
    for word in ("49 trained", "49 frozen", "37 samples of noise", "12 updates of 8 samples", "2.4 epochs"):
        assert any(word in line for line in lines), word
    assert " ".join(" ".join(lines).split()).endswith(
        f"{NAMES[1]} is frozen: its optimizer adamw is skipped"
        f" warning: {NAMES[0]}: update 0 runs at lr 0 and moves nothing: start the warm-up above 0"
    )


def test_the_table_folds_with_the_width(planned):
    wide, narrow, list_of_values = (drawn(drawn_plan(planned, width), width) for width in (120, 80, 40))
    assert re.match(rf"{NAMES[0]} +49  yes +adamw_warmup_cosine_decay  fused  0 ↗ 1.25e-03 \(4\) ↘ 1.5e-05", wide[1])
    assert re.match(rf"{NAMES[0]} +49  yes +adamw_warmup_cosine_decay, fused", narrow[1])
    assert narrow[2].strip() == "0 ↗ 1.25e-03 (4) ↘ 1.5e-05 (12)"
    assert list_of_values[:2] == [NAMES[0], "  params     49"]


def test_a_pipe_gets_plain_text_of_any_width(planned, monkeypatch):
    for name, value in (("COLUMNS", "40"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
        console = pipe()
        show_plan(console, planned)
        assert console.file.getvalue() == plan_text(planned) + "\n"
    assert re.search(rf"(?m)^{NAMES[0]} .* 0 ↗ 1.25e-03 \(4\) ↘ 1.5e-05 \(12\)$", plan_text(planned))


def test_a_terminal_gets_colours_unless_the_user_wants_none(planned):
    for options, is_coloured in (({"no_color": False}, True), ({"no_color": True}, False)):
        console = terminal(80, color_system="standard", **options)
        show_plan(console, planned)
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", console.file.getvalue())) == is_coloured


@pytest.mark.parametrize("width", range(1, 40, 3))
def test_text_is_folded_between_words(width):
    text = "1e-05 ↗ 2e-03 (50) ↘ 1e-05 (600), stepped every 2 updates"
    lines = fold(text, width)
    assert " ".join(lines) == text
    for word in ("1e-05", "↗ 2e-03 (50)", "↘ 1e-05 (600),"):
        assert any(word in line for line in lines)
    assert max(map(len, lines)) <= max(width, len("↘ 1e-05 (600),"))


@needs("sklearn")
def test_plan_json_is_one_object(cli, capsys):
    code, printed = cli("plan", DIGITS, "--json", "--train.accumulate=5", "--train.precision=bf16")
    plan = json.loads(printed)
    assert code == 0
    assert plan["parameters"] == {"total": 78538, "trained": 78218, "frozen": 320}
    assert plan["data"] == {
        "type": "digits",
        "samples": 1438,
        "held_out": 359,
        "batch_size": 128,
        "batches_per_epoch": 12,
    }
    assert (plan["updates"], plan["updates_per_epoch"], plan["batches_per_update"], plan["epochs"]) == (600, 3, 5, 200)
    assert (plan["precision"], plan["processes"]) == ("bf16", 1)
    head = plan["components"][-1]
    assert (head["name"], head["parameters"], head["trained"], head["trains"]) == ("head", 4810, 4810, "yes")
    assert (head["optimizer"], head["step"]) == ("schedule_free_radam", "blocks")
    assert plan["notes"] == ["patch_embedder is frozen: its optimizer adamw is skipped"]


def test_plan_json_is_alone_on_the_standard_output(monkeypatch, capsys, tmp_path):
    import sample_parts

    from trainer.cli.main import main

    build = sample_parts.Noise.__init__

    def talkative(self, *arguments, **options):
        sys.stdout.write("a data set prints this\n")
        build(self, *arguments, **options)

    train(config(tmp_path / "run", MLPS, {"first": ADAMW, "second": ADAMW}, total_steps=1), console=pipe())
    made = config(tmp_path / "next", MLPS, {"first": ADAMW, "second": ADAMW})
    made["model"]["components"]["first"]["init_from"] = str(tmp_path / "run")
    (tmp_path / "config.json").write_text(json.dumps(made))
    monkeypatch.setattr(sample_parts.Noise, "__init__", talkative)
    monkeypatch.setattr("sys.argv", ["innerstep", "plan", str(tmp_path / "config.json"), "--json"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert json.loads(printed.out)["updates"] == 12
    assert "4 of 4 tensors" in printed.err
    assert "a data set prints this" in printed.err


OPTIMIZERS = {
    "adamw": ADAMW,
    "amsgrad": {"type": "adam", "params": {"lr": 1e-2, "amsgrad": True}},
    "momentum": {"type": "sgd", "params": {"lr": 1e-2, "momentum": 0.9}},
    "plain sgd": {"type": "sgd", "params": {"lr": 1e-2}},
    "schedule-free": SCHEDULE_FREE,
    "adafactor": {"type": "adafactor", "params": {"lr": 1e-2}},
    "muon": {"type": "muon", "params": {"lr": 1e-2, "fallback": {"type": "sgd", "lr": 1e-2}}},
}


def tensor_bytes(checkpoint, name):
    total = 0
    for path in checkpoint.rglob(name):
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 not a dict
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return total


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_planned_size_is_that_of_the_checkpoints(tmp_path, optimizer):
    optims = {"first": OPTIMIZERS[optimizer], "second": ADAMW}
    ema = {"ema": {"decay": 0.9, "components": ["second"]}}
    made = config(tmp_path / "run", MLPS, optims, total_steps=2, **ema)
    planned = OfflineTrainer(load_config(made), pipe()).plan().checkpoint_bytes
    train(made, console=pipe())
    checkpoint = tmp_path / "run/checkpoints/step_00000002"
    assert planned.weights == tensor_bytes(checkpoint, "model.safetensors")
    assert planned.averages == tensor_bytes(checkpoint, "ema.safetensors") > 0
    assert planned.optimizer_state == tensor_bytes(checkpoint, "optimizer.safetensors")
    again = OfflineTrainer(load_config(made), pipe(), resumed=True)
    again.restore(checkpoint)
    assert again.plan().checkpoint_bytes == planned


def test_an_optimizer_that_fails_on_small_parameters_has_no_planned_size(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("too small for me")

    monkeypatch.setattr(checkpoint_size, "build_over", fail)
    made = config(tmp_path / "run", MLPS, {"first": ADAMW, "second": ADAMW})
    plan = OfflineTrainer(load_config(made), pipe()).plan()
    assert plan.checkpoint_bytes.optimizer_state is None
    assert re.search(r"(?m)^checkpoint +about \d+ B and the optimizers' state, weights \d+ B$", plan_text(plan))


def test_equal_optimizers_of_equal_components_are_sized_once(tmp_path, monkeypatch):
    build_over, sized = checkpoint_size.build_over, []
    monkeypatch.setattr(checkpoint_size, "build_over", lambda *of: sized.append(of[1].type) or build_over(*of))
    wide = {"type": "mlp", "params": {**MLPS["first"]["params"], "hidden": [17]}}
    components = {**MLPS, "third": MLPS["first"], "wide": wide, "other": MLPS["first"]}
    optims = {name: SCHEDULE_FREE if name == "other" else ADAMW for name in components}
    made = config(tmp_path / "run", components, optims, total_steps=1)
    planned = OfflineTrainer(load_config(made), pipe()).plan().checkpoint_bytes
    assert sized == ["adamw", "adamw", "schedule_free_radam"], "one for first, second and third"
    train(made, console=pipe())
    checkpoint = tmp_path / "run/checkpoints/step_00000001"
    assert planned.optimizer_state == tensor_bytes(checkpoint, "optimizer.safetensors")


def test_planning_draws_no_random_numbers(tmp_path):
    made = config(tmp_path / "run", MLPS, {"first": SCHEDULE_FREE, "second": ADAMW})
    trainer = OfflineTrainer(load_config(made), pipe())
    before = torch.get_rng_state()
    trainer.plan()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_plan_is_shown_by_train_on_a_terminal(tmp_path):
    console = terminal(40)
    train(config(tmp_path / "run", MLPS, {"first": ADAMW, "second": ADAMW}, total_steps=1), console=console)
    assert "first\n  params     49\n" in re.sub(" +\n", "\n", text_on(console))


def plan_of_large_components(tmp_path, **params):
    """Return the plan of two components of 9 million parameters each."""
    components = {name: {"type": "mlp", "params": {**MLPS[name]["params"], "hidden": [1_000_000]}} for name in MLPS}
    optims = {"first": {**ADAMW, "params": {**ADAMW["params"], **params}}, "second": SCHEDULE_FREE}
    return OfflineTrainer(load_config(config(tmp_path / "run", components, optims)), pipe()).plan()


@NO_COMPILER
def test_the_plan_shows_compiled_steps_and_compiles_nothing_for_its_sizes(tmp_path, monkeypatch):
    check, checked = native_library.check_step, []
    monkeypatch.setattr(native_library, "check_step", lambda *of: checked.append(of[0]) or check(*of))
    made = plan_of_large_components(tmp_path)
    assert [component.step for component in made.components] == ["compiled", "compiled"]
    assert checked == ["adam", "schedule_free_radam"]
    assert made.notes == []
    parameters, tensors = 1_000_000 * 9 + 4, 4
    assert made.checkpoint_bytes.optimizer_state == 4 * (2 * parameters + tensors) + 4 * 3 * parameters


def test_without_a_compiler_the_plan_shows_the_next_best_and_why(tmp_path, monkeypatch):
    def fail(*of):
        raise OSError("cc could not compile native.c: no space left\nand more")

    monkeypatch.setattr(native_library, "check_step", fail)
    monkeypatch.setattr(compiled, "FAILURES", {})
    for params, shown, noted in (
        ({}, "fused", ("first", "second")),
        ({"implementation": "single"}, "single", ("second",)),
    ):
        made = plan_of_large_components(tmp_path, **params)
        steps = {component.name: component.step for component in made.components}
        assert steps == {"first": shown, "second": "blocks"}
        reason = "compiled they would be faster, but cc could not compile native.c: no space left"
        assert made.notes == [f"{name}: its steps are {steps[name]}; {reason}" for name in noted]
        assert made.warnings == []
