"""Curves before there is a run: `innerstep plot`, its warnings, and notebooks."""

import re

import pytest
import yaml
from conftest import DIGITS

from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, Horizon


def chart(printed):
    """Return the rows of the first chart, top first, as the columns in which there is a dot."""
    rows = [line.split("┤")[1] for line in printed.splitlines() if "┤" in line][:10]
    return [{column for column, mark in enumerate(row) if mark == "•"} for row in rows]


def warnings(printed):
    return [line.partition(": ")[2] for line in printed.splitlines() if line.startswith("warning: ")]


def test_a_config_is_drawn_as_text_by_component(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed = cli("plot", DIGITS)
    assert code == 0
    assert re.findall(r"^(\w+), learning rate$", printed, re.MULTILINE) == ["info_embedder", "encoder", "head"]
    assert "update 599" in printed
    assert warnings(printed) == []
    assert list(tmp_path.iterdir()) == []


def test_the_text_has_the_curves_shape(cli):
    _, printed = cli("plot", "LinearLR", "--start_factor=1", "--end_factor=0", "--total_iters=720", "--total_steps=720")
    rows, width = chart(printed), printed.count("─")  # as wide as the terminal
    assert len(rows) == 10
    for index, columns in enumerate(rows):
        assert abs(min(columns) - width / 10 * index) <= 1.5
        assert abs(max(columns) - width / 10 * (index + 1)) <= 1.5


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_written(cli, tmp_path, ending, magic):
    out = tmp_path / f"curves.{ending}"
    code, printed = cli("plot", DIGITS, "--out", out, "--train.total_steps=300")
    assert (code, printed.splitlines()[0]) == (0, f"drew {out}")
    assert out.read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_what_else_moves_has_a_chart_of_its_own(cli):
    options = [
        "--option_schedules={weight_decay: {type: linear}}",
        "--schedule.type=one_cycle",
        "--schedule.max_lr=1e-2",
    ]
    _, printed = cli("plot", "adamw", *options)
    assert [line.split(", ")[1] for line in printed.splitlines() if line.startswith("adamw, ")] == [
        "learning rate",
        "weight_decay",
        "beta1",
    ]


def test_no_data_is_needed_where_the_config_says_the_length(cli, tmp_path):
    raw = yaml.safe_load(DIGITS.read_text())
    raw["plugins"] = ["sample_parts"]
    raw["data"] = {"type": "noise", "params": {"path": "/nowhere/at/all"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    assert cli("plot", tmp_path / "config.yaml")[0] == 0
    raw["train"] |= {"total_steps": None, "epochs": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    code, printed = cli("plot", tmp_path / "config.yaml")
    assert code == 2
    assert "/nowhere/at/all" in printed
    raw["data"] = {"type": "noise", "batch_size": 10}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    assert (
        "update 11"
        in cli("plot", tmp_path / "config.yaml", "--model.component_optims.encoder.params.warmup_steps=1ep")[1]
    )


SUSPICIOUS = {
    "a first update at lr 0": (["cosine", "--num_warmup_steps=10"], "update 0 runs at lr 0 and moves nothing"),
    "a peak never reached": (
        ["constant_with_warmup", "--num_warmup_steps=2000"],
        "the peak is never reached: the run ends at update 999, where the lr is 4.99e-01; later it would be 1e+00",
    ),
    "a run longer than the schedule": (
        ["warmup_cosine_decay", "--peak_lr=1e-3", "--end_lr=1e-5", "--total_steps=400", "--run=1000"],
        "the run is longer than the schedule: from update 399 on (60% of it) the lr stays at 1e-05",
    ),
    "a schedule longer than the run": (
        ["linear", "--num_training_steps=2000"],
        "the schedule is longer than the run: of its 2000 updates 1000 are run, and the last is at lr 5e-01",
    ),
    "a jump at a join": (
        ["cosine_decay_with_warmup", "--num_warmup_steps=400", "--num_decay_steps=1000", "--peak_lr=1", "--decay_lr=0"],
        "the lr jumps at update 400, from 9.98e-01 to 6.55e-01",
    ),
    "a jump between parts": (
        ["sequence", "--schedules=[{type: linear}, {type: linear}]", "--milestones=[300]"],
        "the lr jumps at update 300, from 3.33e-03 to 1e+00",
    ),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_what_is_suspicious_is_said(cli, tmp_path, case):
    arguments, message = SUSPICIOUS[case]
    if arguments[-1] == "--run=1000":  # a config, as total_steps is the schedule's own there
        raw = yaml.safe_load(DIGITS.read_text())
        params = {"peak_lr": 1e-3, "end_lr": 1e-5, "total_steps": 400}
        raw["model"]["component_optims"]["encoder"]["params"] = params
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
        arguments = [tmp_path / "config.yaml", "--train.total_steps=1000"]
    code, printed = cli("plot", *arguments)
    assert code == 0
    assert any(message in line for line in warnings(printed)), printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["warmup_cosine_decay", "--peak_lr=1e-3", "--start_lr=1e-5", "--warmup_steps=10%"],
        ["one_cycle", "--max_lr=1e-3"],
        ["StepLR", "--step_size=300"],
        ["constant"],
        ["adamw"],
        ["piecewise_constant", "--step_rules=1:10,0.1:20,0.005"],
        ["wsd", "--num_warmup_steps=10%", "--num_decay_steps=20%", "--min_lr_ratio=0.1"],
        ["StepLR", "--step_size=3", "--interval=epoch", "--steps_per_epoch=50"],
        ["warmup_cosine_decay", "--peak_lr=1e-3", "--start_lr=1e-5", "--warmup_steps=2", "--total_steps=10"],
    ],
)
def test_what_is_not_suspicious_is_not(cli, arguments):
    code, printed = cli("plot", *arguments)
    assert code == 0
    assert warnings(printed) == []


def test_a_schedule_that_a_metric_moves_says_so(cli):
    code, printed = cli("plot", "ReduceLROnPlateau")
    assert code == 0
    assert "note: ReduceLROnPlateau waits for val_loss, and is drawn as before its first report" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cosien"], "neither a config file nor a key; did you mean 'cosine'"),
        (["nothing_like_it"], "neither a config file nor a key. `innerstep list`"),
        (["missing.yaml"], "missing.yaml"),
        (["one_cycle"], "one_cycle: max_lr: required, but not given"),
        (["one_cycle", "--max_lr=fast"], "one_cycle: max_lr"),
        (["adamw", "--lrr=1"], "did you mean 'lr'"),
        (["adamw", "--schedule.type=cosien"], "did you mean 'cosine'"),
        (["LambdaLR", "--lr_lambda=sample_functions.below_zero"], "LambdaLR gives the lr -0.002"),
        (["multi_adam"], "no curve that could be drawn"),
        (["cosine", "--out", "curve.gif"], "must end in .png, .svg or .pdf; got curve.gif"),
        (["cosine", "--out", "nowhere/curve.png"], "--out: there is no directory nowhere"),
        (["cosine", "--total_steps=0"], "total_steps must be at least 1"),
    ],
)
def test_a_mistake_is_told(cli, arguments, message):
    code, printed = cli("plot", *arguments)
    assert code == 2
    assert message in printed


def test_a_preview_can_go_back():
    parts = [{"type": "constant"}, {"type": "one_cycle", "max_lr": 1e-2}]
    schedule = {"type": "sequence", "schedules": parts, "milestones": [5]}
    preview = OPTIMIZER_BUILDER_REGISTRY["adamw"](schedule=schedule).preview(Horizon(20))
    first = preview.values_at(0)
    assert preview.values_at(10)["beta1"] != first["beta1"]
    assert preview.values_at(0) == first


@pytest.mark.parametrize(
    "made",
    [
        SCHEDULE_REGISTRY["cosine"](num_warmup_steps="5%"),
        SCHEDULE_REGISTRY["StepLR"](step_size=3, interval="epoch"),
        OPTIMIZER_BUILDER_REGISTRY["adamw_warmup_cosine_decay"](peak_lr=1e-3),
        OPTIMIZER_BUILDER_REGISTRY["sgd"](momentum=0.9, schedule={"type": "one_cycle", "max_lr": 1}),
    ],
)
def test_a_notebook_shows_the_curve(made):
    assert "<svg" in made._repr_svg_()


def test_list_filters_by_keys_and_aliases(cli):
    _, printed = cli("list", "--filter", "ADAM*")
    keys = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert keys == ["adam", "adamax", "adamw", "adamw_cosine_schedule", "adamw_warmup_cosine_decay"]
    assert "warmup_stable_decay" in cli("list", "--filter", "wsd")[1]
    code, printed = cli("list", "--filter", "adamww")
    assert (code, "did you mean 'adamw'" in printed) == (2, True)


def test_describe_names_the_class_it_stands_for(cli):
    def described(key):
        return " ".join(cli("describe", key)[1].split())  # however long the lines are

    assert "of torch.optim.adamw.AdamW" in described("adamw")
    assert "of torch.optim.lr_scheduler.StepLR" in described("StepLR")
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer")
    assert "of pytorch_optimizer.optimizer.lion.Lion" in described("pytorch_optimizer.Lion")
