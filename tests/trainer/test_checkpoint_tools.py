"""`innerstep checkpoint inspect`, `verify`, `diff` and `export`, as a user sees them."""

import io
import json
import re
import shutil

import pytest
import torch
from mutations import seal
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from sample_damage import flip
from sample_runs import ADAMW, SCHEDULE_FREE, WARMUP, config, two

from trainer import train
from trainer.checkpoint import contents
from trainer.checkpoint.contents import StateFiles
from trainer.checkpoint.shares import Share
from trainer.checkpoint.tools import diff as differences
from trainer.checkpoint.tools import inspect
from trainer.checkpoint.tools.diff import largest_difference
from trainer.checkpoint.writing import write_checkpoint
from trainer.config.load import load_config
from trainer.setup.components import build_components

COMPONENTS = {**two(), "third": {"type": "partly_frozen", "freeze": True}}
OPTIMS = {"first": WARMUP, "second": SCHEDULE_FREE}


def trained(run, **changed):
    train(config(run, COMPONENTS, OPTIMS, save_every=5, **changed), console=Console(file=io.StringIO()))
    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    torch.manual_seed(0)
    return trained(tmp_path_factory.mktemp("tools") / "run")


@pytest.fixture
def run(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "run")


def step(run, number):
    return run / "checkpoints" / f"step_{number:08d}"


def test_inspect_shows_every_component(cli, run):
    code, printed = cli("checkpoint", "inspect", run)
    assert code == 0
    head, files, header, *rows = printed.splitlines()
    assert head == f"{step(run, 12)}: after 12 updates (epoch 2, batch 2 of 5)"
    assert re.fullmatch(r"format version 1, [\d.]+ kB in \d+ files", files)
    assert header.split("  ")[0] == "component"
    cells = [re.split(r" {2,}", row) for row in rows]
    assert [row[:3] for row in cells] == [["first", "trains", "7"], ["second", "trains", "7"], ["third", "frozen", "4"]]
    assert cells[0][3:] == ["37", "152 B", "adamw_warmup_cosine_decay", "240 B", "12", "0"]
    assert cells[1][5] == "schedule_free_radam"
    assert cells[1][7:] == ["12", "0.1"]
    assert cells[2][5:] == ["-", "-", "-", "-"]


def test_state_that_is_one_json_file_is_shown_and_compared(cli, run, monkeypatch):
    """As the row of a new file in a checkpoint would be."""
    notes = StateFiles("notes", "text", tensors="", values="notes.json")
    for module in (contents, inspect, differences):
        monkeypatch.setattr(module, "RUN_STATE", (notes,))
    (step(run, 12) / "notes.json").write_text('{"author": "me", "text": "after the restart"}')
    assert "text of notes: author me, text after the restart" in cli("checkpoint", "inspect", run)[1]
    shutil.copytree(step(run, 12), step(run, 13))
    (step(run, 13) / "notes.json").write_text('{"author": "me", "text": "better"}')
    code, printed = cli("checkpoint", "diff", step(run, 12), step(run, 13))
    assert code == 1
    assert re.search(r"notes\.text +'?after the restart'? +'?better", printed)
    assert "notes.author" not in printed


def test_a_path_may_be_a_run_or_a_checkpoint_or_a_name_of_one(cli, run):
    for path in (run, step(run, 12), run / "checkpoints" / "latest"):
        assert "after 12 updates" in cli("checkpoint", "inspect", path)[1]
    assert "after 5 updates" in cli("checkpoint", "inspect", step(run, 5))[1]


def test_several_groups_show_the_range_of_their_lrs(cli, tmp_path):
    grouped = {"type": "adamw", "params": {"lr": 1e-2, "param_groups": [{"match": "linear.*", "lr": 1e-3}]}}
    run = config(tmp_path / "run", {"first": {"type": "normed"}}, {"first": grouped})
    train(run, console=Console(file=io.StringIO()))
    assert "0.001 to 0.01" in cli("checkpoint", "inspect", tmp_path / "run")[1]


@pytest.mark.parametrize("command", ["inspect", "verify", "diff", "export"])
def test_a_path_to_nothing_is_a_mistake(cli, tmp_path, run, command):
    further = {"diff": [run], "export": ["--out", tmp_path / "w.safetensors"]}.get(command, [])
    code, printed = cli("checkpoint", command, tmp_path / "nothing", *further)
    assert code == 2
    assert f"{tmp_path / 'nothing'}: there is no checkpoint here. Give a run, one of its" in printed
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    code, printed = cli("checkpoint", command, tmp_path / "empty", *further)
    assert (code, "this run has no checkpoint yet" in printed) == (2, True)
    (run / "checkpoints" / "latest").write_text("step_00000099\n")
    code, printed = cli("checkpoint", command, run / "checkpoints" / "latest", *further)
    assert (code, "names no checkpoint that is there" in printed) == (2, True)


def test_verify_names_each_checkpoint_that_is_whole(cli, run):
    code, printed = cli("checkpoint", "verify", run)
    assert code == 0
    lines = printed.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(step(run, number)) for number in (5, 10, 12)]
    assert all(re.search(r": ok \([\d.]+ kB in 9 files\)$", line) for line in lines)


def test_verify_names_all_damage_at_once(cli, run, kept):
    flip(step(run, 5) / "first" / "model.safetensors")
    (step(run, 5) / "second" / "optimizer.json").unlink()
    (step(run, 12) / "manifest.json").unlink()
    (run / "checkpoints" / "best").write_text("step_00000007\n")
    code, printed = cli("checkpoint", "verify", run, kept)
    assert code == 1
    lines = printed.splitlines()
    assert f"{step(run, 5)}/first/model.safetensors: is not as it was written (its checksum differs)" in lines
    assert f"{step(run, 5)}/second/optimizer.json: is missing" in lines
    assert f"{step(run, 12)}/manifest.json: is missing" in lines
    assert f"{run}/checkpoints/best: names no checkpoint that is there" in lines
    assert sum(": ok (" in line for line in lines) == 4
    assert cli("checkpoint", "verify", step(run, 10))[0] == 0
    assert cli("checkpoint", "verify", step(run, 10), step(run, 5))[0] == 1


def test_a_damaged_checkpoint_is_a_mistake_to_inspect(cli, run):
    (step(run, 12) / "first" / "model.safetensors").write_bytes(b"\0" * 20)
    code, printed = cli("checkpoint", "inspect", run)
    assert (code, "first/model.safetensors: cannot be read" in printed) == (2, True)


def test_identical_checkpoints_differ_in_nothing(cli, run, kept):
    code, printed = cli("checkpoint", "diff", run, kept)
    assert code == 0
    identical = [f"{name}: identical" for name in ("first", "second", "third", "random number generators")]
    assert printed.splitlines()[3:] == identical


def test_diff_shows_positions_and_tensors(cli, run):
    code, printed = cli("checkpoint", "diff", step(run, 5), step(run, 12))
    assert code == 1
    assert "config, A and B:" not in printed
    assert re.search(r"^  step +5 +12$", printed, re.MULTILINE)
    assert re.search(r"^  first.optimizer.scheduler.last_epoch +5 +12$", printed, re.MULTILINE)
    assert "third: identical" in printed
    assert "first: 19 of 19 tensors differ" in printed
    both = [
        load_file(step(run, number) / "first" / "model.safetensors")["linear.weight"].double() for number in (5, 12)
    ]
    shown = re.search(r"^first +weights +linear.weight +(\S+)", printed, re.MULTILINE)[1]
    assert shown == f"{(both[0] - both[1]).abs().max():.3g}"


def test_diff_shows_twenty_rows_unless_all_are_asked_for(cli, run):
    _, printed = cli("checkpoint", "diff", step(run, 5), step(run, 12))
    hidden = int(re.search(r"… and (\d+) more; --all shows them\n\nfirst: ", printed)[1])
    _, whole = cli("checkpoint", "diff", "--all", step(run, 5), step(run, 12))
    assert "more; --all" not in whole
    rows = re.findall(r"^(?:first|second) +(weights|state) +\S+ +(\S+) +\S+$", whole, re.MULTILINE)
    assert len(rows) == 20 + hidden
    assert rows == sorted(rows, key=lambda row: (row[0] == "weights", float(row[1])), reverse=True)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("moment", ["_compare_values", "_compare_tensors"])
@pytest.mark.parametrize("late", [False, True])
def test_diff_takes_the_next_checkpoint_where_a_run_that_trains_removed_one(
    cli, run, kept, monkeypatch, which, moment, late
):
    pair = [step(kept, 12), step(kept, 12)]
    pair[which] = run
    whole = getattr(differences, moment)

    def removing(sides):
        result = whole(sides) if late else None
        shutil.rmtree(step(run, 12), ignore_errors=True)
        return result or whole(sides)

    monkeypatch.setattr(differences, moment, removing)
    code, printed = cli("checkpoint", "diff", *pair)
    assert code == 1
    assert printed.splitlines()[which] == f"{'AB'[which]}: {step(run, 10)}"
    assert "only in" not in printed


def test_diff_ends_where_the_checkpoint_that_it_was_given_is_removed(cli, run, kept, monkeypatch):
    whole = differences._compare_tensors
    monkeypatch.setattr(differences, "_compare_tensors", lambda sides: (whole(sides), shutil.rmtree(step(run, 12)))[0])
    code, printed = cli("checkpoint", "diff", step(run, 12), kept)
    assert code == 2
    assert "step_00000012: there is no checkpoint here" in printed


def test_diff_shows_the_config_by_dotted_path(cli, run, tmp_path):
    torch.manual_seed(0)
    other = config(tmp_path / "other", two(), {"first": ADAMW, "second": SCHEDULE_FREE}, grad_clip_norm=1.0)
    train(other, console=Console(file=io.StringIO()))
    code, printed = cli("checkpoint", "diff", run, tmp_path / "other")
    assert code == 1
    assert re.search(r"model.component_optims.first.type +'adamw_warmup_cosine_decay' +'adamw'$", printed, re.MULTILINE)
    assert re.search(r"model.component_optims.first.params.peak_lr +0.01 +absent$", printed, re.MULTILINE)
    assert re.search(r"train.grad_clip_norm +None +1.0$", printed, re.MULTILINE)
    assert "third: only in A" in printed


def rewritten(checkpoint, out, **weights):
    """Write a copy of a checkpoint with other weights for component `third`."""
    from trainer.runtime.files import read_json

    files = {
        path.relative_to(checkpoint).as_posix(): read_json(path) if path.suffix == ".json" else load_file(path)
        for path in checkpoint.rglob("*.*")
        if path.name != "manifest.json"
    }
    files["third/model.safetensors"] = weights
    out.mkdir()
    return write_checkpoint(out, 12, Share.of(files))


def test_diff_tells_missing_and_mis_shaped_tensors_from_unequal_ones(cli, run, tmp_path):
    nan = float("nan")
    first = {
        "same": torch.tensor([nan, torch.inf, 1.0]),
        "shape": torch.ones(2),
        "kind": torch.ones(2),
        "a": torch.ones(1),
    }
    second = {**first, "shape": torch.ones(3), "kind": torch.ones(2, dtype=torch.int64)}
    second["b"] = second.pop("a")
    a, b = rewritten(step(run, 12), tmp_path / "a", **first), rewritten(step(run, 12), tmp_path / "b", **second)
    code, printed = cli("checkpoint", "diff", a, b)
    assert code == 1
    assert "only in A: third, weights: a" in printed
    assert "only in B: third, weights: b" in printed
    assert "third, weights: shape: [2] float32, [3] float32" in printed
    assert "third, weights: kind: [2] float32, [2] int64" in printed
    assert "third: 4 of 5 tensors differ" in printed


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], None),
        ([1.0, float("nan")], [1.0, 2.0], (float("inf"), float("inf"))),
        ([1.0, float("inf")], [1.5, float("inf")], (0.5, 1 / 3)),
        ([0.0, 8.0], [2.0, 4.0], (4.0, 1.0)),
        ([1, 2], [1, 4], (2.0, 0.5)),
        ([True, False], [True, True], (1.0, 1.0)),
        ([1 + 1j], [1 - 1j], (2.0, pytest.approx(2**0.5))),
    ],
)
def test_the_largest_difference(first, second, expected):
    assert largest_difference(torch.tensor(first), torch.tensor(second)) == expected


def test_the_largest_difference_compare_tensors_of_eight_bits():
    first = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    assert largest_difference(first, first.clone()) is None
    assert largest_difference(first, torch.tensor([1.0, 4.0]).to(torch.float8_e4m3fn)) == (2.0, 0.5)


@pytest.mark.parametrize("component", [None, "second"])
def test_exported_weights_load_without_innerstep_and_with_it(cli, run, tmp_path, component):
    out = tmp_path / "weights.safetensors"
    code, printed = cli("checkpoint", "export", run, "--out", out, *(["--component", component] if component else []))
    assert code == 0, printed
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    saved = load_file(step(run, 12) / "second" / "model.safetensors")
    prefix = "" if component else "second."
    exported = {name.removeprefix(prefix): tensor for name, tensor in load_file(out).items() if name.startswith(prefix)}
    assert exported.keys() == saved.keys()
    source = str(out) if component else f"{out}:second"
    model = load_config(config(tmp_path / "next", two(init_from=source), OPTIMS)).model
    loaded = build_components(model, 0, True, print)[0]["first"].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_export_replaces_nothing_unasked(cli, run, tmp_path):
    out = tmp_path / "weights.safetensors"
    out.write_text("mine")
    code, printed = cli("checkpoint", "export", run, "--out", out)
    assert (code, out.read_text()) == (2, "mine")
    assert "is there already. Choose another file, or replace it with --overwrite." in printed
    assert cli("checkpoint", "export", run, "--out", out, "--overwrite")[0] == 0
    assert load_file(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "weights.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "w.pt"], "--out: must end in .safetensors; got w.pt"),
        (["--out", "no/where/w.safetensors"], "--out: there is no directory no/where"),
        (["--out", "w.safetensors", "--component", "frist"], "has no component 'frist'; did you mean 'first'?"),
    ],
)
def test_a_mistake_in_exporting_is_named(cli, run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed = cli("checkpoint", "export", run, *arguments)
    assert (code, message in printed) == (2, True), printed
    assert not list(tmp_path.glob("*.safetensors"))


def test_damaged_weights_are_not_exported(cli, run, tmp_path):
    flip(step(run, 12) / "first" / "model.safetensors")
    code, printed = cli("checkpoint", "export", run, "--out", tmp_path / "w.safetensors")
    assert (code, "first/model.safetensors: is not as it was written" in printed) == (2, True)
    assert not (tmp_path / "w.safetensors").exists()


def test_inspect_reads_nothing_outside_the_checkpoint(cli, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    checkpoint = copy / "checkpoints/step_00000012"
    values = json.loads((checkpoint / "trainer.json").read_text())
    values["components"]["../../../other"] = "trains"
    shutil.copytree(checkpoint / "first", tmp_path / "other")
    (checkpoint / "trainer.json").write_text(json.dumps(values))
    seal(checkpoint)
    code, printed = cli("checkpoint", "inspect", copy)
    assert (code, "has no weights of '../../../other'" in printed) == (2, True), printed
