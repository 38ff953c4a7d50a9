"""Damage to any file of a checkpoint is named, and the newest good checkpoint before it taken."""

import io
import random
import re
import shutil

import faults
import pytest
from rich.console import Console

from trainer.runs import resume, train

STEPS = {"total_steps": 4, "eval_every": 1, "precision": "fp16", "keep_last": None, "ema": {"decay": 0.9}}
FILES = [
    "manifest.json",
    "trainer.json",
    "rng.safetensors",
    *(f"{part}/{file}" for part in faults.COMPONENTS for file in ("model.safetensors", "optimizer.safetensors")),
    *(f"{part}/optimizer.json" for part in faults.COMPONENTS),
    *("first/ema.safetensors", "first/ema.json"),  # the other component's optimizer averages its weights
]
LAST = "checkpoints/step_00000004"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("damage") / "run"
    train(faults.config(run, **STEPS), console=Console(file=io.StringIO()))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def flip(path):
    content = bytearray(path.read_bytes())
    place = random.Random(path.name).choice([at for at, byte in enumerate(content) if byte not in b" \n"])
    content[place] ^= 1 << random.Random(path.name).randrange(8)
    path.write_bytes(content)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: random.Random(path.name).randrange(len(content))])


DAMAGES = {
    "one bit": (flip, r"checksum differs|cannot be read|has format version|is not as it was written"),
    "cut short": (cut, r"bytes, and was written with|cannot be read|checksum differs"),
    "missing": (lambda path: path.unlink(), "is missing"),
    "emptied": (lambda path: path.write_bytes(b""), r"has 0 bytes|cannot be read"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing|cannot be read"),
}


def test_these_are_all_files_of_a_checkpoint(whole):
    folder = whole / LAST
    assert sorted(FILES) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_taken(whole, run, file, damage):
    harm, expected = DAMAGES[damage]
    harm(run / LAST / file)
    check_resume(whole, run, rf"damaged checkpoint: .*/{LAST}/{file}: .*({expected})")


FOREIGN = {
    "notes.txt": "notes.txt",
    ".DS_Store": ".DS_Store",
    "first/model.safetensors~": "first/model.safetensors~",
    "second/.nfs00000a1b": "second/.nfs00000a1b",
    "third/model.safetensors": "third",
}


@pytest.mark.parametrize("file", FOREIGN)
def test_a_foreign_file_is_ignored_with_one_note(whole, run, cli, tmp_path, file):
    for folder in (run / "checkpoints").glob("step_*"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("what is this?")
    note = f"{run / LAST}: ignored, as not part of the checkpoint: {FOREIGN[file]}"
    for command in (["verify", run], ["export", run, "--out", tmp_path / "w.safetensors"]):
        code, printed = cli("checkpoint", *command)
        assert code == 0
        assert printed.splitlines().count(note) == 1
    said = io.StringIO()
    resume(run, console=Console(file=said, width=1000))
    assert said.getvalue().splitlines().count(note) == 1
    assert "resuming after 4 of 4 updates" in said.getvalue()
    assert (run / LAST / file).read_text() == "what is this?"
    assert names_of(whole) == names_of(run)


def check_resume(whole, run, expected):
    said = io.StringIO()
    resume(run, console=Console(file=said, width=1000))
    printed = [line for line in said.getvalue().splitlines() if line.startswith("damaged checkpoint: ")]
    assert len(printed) == 1
    assert re.search(expected, printed[0]), printed[0]
    assert "resuming after 3 of 4 updates" in said.getvalue()
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []
    assert [path.name for path in (run / "checkpoints").glob("damaged-*")] == ["damaged-step_00000004"]


def names_of(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_with_several_damaged_the_newest_good_one_is_taken(whole, run):
    for step in (4, 3, 2):
        flip(run / f"checkpoints/step_{step:08d}/trainer.json")
    said = io.StringIO()
    resume(run, console=Console(file=said, width=1000))
    assert said.getvalue().count("damaged checkpoint: ") == 3
    assert "resuming after 1 of 4 updates" in said.getvalue()
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []


def test_with_every_checkpoint_damaged_the_run_stops_and_nothing_is_lost(run, cli):
    for number, folder in enumerate(sorted((run / "checkpoints").glob("step_*"))):
        flip(folder / FILES[number])
    before = (run / "metrics.jsonl").read_bytes()
    code, printed = cli("resume", run)
    assert code == 2
    assert printed.count("damaged checkpoint: ") == 4
    assert "every checkpoint is damaged, as listed above. Bring one back from a copy" in printed
    assert "Traceback" not in printed
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_that_was_asked_for_is_not_replaced_by_another(run, cli):
    flip(run / LAST / "trainer.json")
    code, printed = cli("resume", run / LAST)
    assert code == 2
    assert "takes the newest good one" in printed


def resumed(run):
    console = Console(file=io.StringIO(), width=1000)
    resume(run, console=console)
    return console.file.getvalue()


@pytest.mark.parametrize("text", ["step_00000009\n", "", "nonsense", "\0" * 14])
def test_a_resume_says_where_latest_names_nothing(run, text):
    (run / "checkpoints/latest").write_text(text)
    printed = resumed(run)
    assert "checkpoints/latest: names no checkpoint that is there; step_00000004, the newest, is checked" in printed
    assert (run / "checkpoints/latest").read_text() == "step_00000004\n"
    assert "names no checkpoint" not in resumed(run)


def test_a_resume_says_that_it_begins_anew_where_what_latest_names_was_all(run):
    for folder in (run / "checkpoints").glob("step_*"):
        shutil.rmtree(folder)
    printed = resumed(run)
    assert "checkpoints/latest: names no checkpoint that is there; there is no other: the run begins" in printed
    assert "resuming after 0 of 4 updates" in printed


@pytest.mark.parametrize("name", ["latest", "best"])
def test_what_names_a_checkpoint_may_be_lost(whole, run, name):
    (run / "checkpoints" / name).write_bytes(b"\xff\0")
    shutil.rmtree(run / LAST)
    resume(run, console=Console(file=io.StringIO()))
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []


@pytest.mark.parametrize(
    "text", [b"\xff\xfe\n", b"12\n", b'["step"]\n', b'{"step": "x"}\n', b"\0" * 512, b'{"step": 3']
)
def test_metrics_that_end_in_something_else_are_cut_there(whole, run, text):
    shutil.rmtree(run / LAST)
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content + text)
    resume(run, console=Console(file=io.StringIO()))
    assert faults.end_of(whole, 4).differences(faults.end_of(run, 4)) == []
