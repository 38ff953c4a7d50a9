"""Every example, copied into an empty folder, does the work that its docstring and the README describe."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, needs
from safetensors.torch import load_file

EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path):
    """Copy an example, and run Python in its folder; return its standard output."""

    def in_copy(example, *arguments):
        source = EXAMPLES / example
        if source.is_dir():
            shutil.copytree(source, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", "__pycache__"))
        else:
            shutil.copy(source, tmp_path)
        command = [sys.executable, *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return in_copy


def table_of(text, pattern):
    """Return the numbers of the lines that `pattern` matches, by the whole number that is its first group."""
    return {int(first): [float(value) for value in rest] for first, *rest in re.findall(pattern, text)}


def test_plain_loop_resumes_exactly(run):
    whole, resumed = run("plain_loop.py", "plain_loop.py").split("resumed in new objects:")
    line = r"update +(\d+) +lr (\S+) +loss (\S+)"
    first, second = table_of(whole, line), table_of(resumed, line)
    assert second == {update: values for update, values in first.items() if update >= 100}
    assert [first[update][0] for update in (0, 20, 199)] == [1e-4, 1e-2, 1e-4]  # start, peak, end
    assert first[199][1] < first[0][1] / 5
    assert "saved: optimizer_param_groups.json, optimizer_state.safetensors" in whole
    assert "the weights of both runs are identical" in resumed


@needs("lightning")
def test_lightning_module_resumes_exactly(run):
    whole, resumed = run("lightning_module.py", "lightning_module.py").split("resumed from Lightning's checkpoint")
    line = r"epoch (\d+): (\d+) updates, the next one at lr (\S+)"
    first, second = table_of(whole, line), table_of(resumed, line)
    assert first[0] == [10, 1e-2]  # the end of the warm-up
    assert first[3] == [40, 1e-4]
    assert second == {2: first[2], 3: first[3]}
    assert "the weights of both runs are identical" in resumed


def test_three_components_continue_at_every_resume(run, tmp_path):
    printed = run("three_components", "walkthrough.py")
    *_, stopped, lengthened, frozen = printed.split("$ innerstep ")
    rates = r"update (\d+) +(\S+) +(\S+) +(\S+)"
    (resumed_at,) = map(int, re.findall(r"resuming after (\d+) of 200 updates", stopped))
    assert 60 < resumed_at < 200
    for first, table in ((resumed_at, table_of(stopped, rates)), (100, table_of(lengthened, rates))):
        assert [*table] == [first - 2, first - 1, first, first + 1]
        for before, after in zip(table[first - 1], table[first], strict=True):
            assert after == pytest.approx(before, rel=0.03)
        assert table[first][0] < table[first - 1][0]  # the vision backbone's falls
    lines = [json.loads(line) for line in (tmp_path / "runs/reaching/metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == [*range(300)]
    assert (train[-1]["lr/vision_backbone"], train[-1]["lr/state_embedder"]) == (1e-5, 2.5e-3)
    held_out = {line["step"]: line["distance"] for line in lines if line["split"] == "held_out"}
    assert held_out[300] < held_out[100] / 2
    assert "vision_backbone is frozen" in frozen
    newest = ("reaching/checkpoints/step_00000300", "frozen/checkpoints/step_00000050")
    trained, left = (load_file(tmp_path / "runs" / name / "vision_backbone/model.safetensors") for name in newest)
    assert trained.keys() == left.keys()
    assert all(torch.equal(tensor, left[name]) for name, tensor in trained.items())


def test_walkthrough_runs_the_readmes_commands():
    block = re.search(r"cd three_components\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)[1]
    commands = re.findall(r"^innerstep ([^#\n]*[^#\s])", block, re.MULTILINE)
    walked = (EXAMPLES / "three_components/walkthrough.py").read_text().replace("{RUN}", "runs/reaching")
    assert len(commands) == 4
    assert all(command in walked for command in commands)


def test_own_optimizer_and_schedule_train(run, tmp_path):
    printed = run("own_optimizer_and_schedule", "-m", "trainer", "train", "config.yaml")
    assert re.search(r"^backbone .* lion +default +cooldown$", printed, re.MULTILINE)
    assert float(re.search(r"held out: .*accuracy (\S+)", printed)[1]) > 0.6
    lines = [json.loads(line) for line in (tmp_path / "runs/lion/metrics.jsonl").read_text().splitlines()]
    lrs = {line["step"]: line["lr/backbone"] for line in lines if line["split"] == "train"}
    assert lrs[0] == lrs[150] == 1e-3
    assert lrs[299] == pytest.approx(1e-3 * (1 - (149 / 150) ** 0.5))


def test_own_optimizer_is_found_by_its_dotted_path(run):
    dotted = "--model.component_optims.backbone.type=my_optimizers.Lion"
    planned = run("own_optimizer_and_schedule", "-m", "trainer", "plan", "config.yaml", dotted)
    assert re.search(r"^backbone .* my_optimizers.Lion +default +cooldown$", planned, re.MULTILINE)


def test_own_optimizer_and_schedule_keep_every_promise(run):
    pytest_options = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "3 passed" in run("own_optimizer_and_schedule", *pytest_options, "test_my_optimizers.py")


def test_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.rglob("*"):
        if path.suffix in (".py", ".yaml") and "runs" not in path.parts:
            assert path.name in text, path


def test_examples_import_only_what_is_public():
    for path in EXAMPLES.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (optimizer|trainer)\.", path.read_text(), re.MULTILINE), path
