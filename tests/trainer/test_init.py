"""`innerstep init`: projects that train, and what is in the way of one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from sample_files import _forgets, _registers  # noqa: F401  # fixtures

from trainer.templates import TEMPLATES

pytestmark = pytest.mark.usefixtures("_forgets", "_registers")

_DIGITS = {".gitignore", "README.md", "config.schema.json", "config.yaml", "my_data.py", "my_parts.py"}
FILES = {
    "digits": _DIGITS,
    "policy": {*_DIGITS, "my_world.py"},
    "actor-critic": {*_DIGITS, "my_world.py"},
}
COMMAND = [sys.executable, "-P", "-m", "trainer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
STEPS = {"train.total_steps": 40, "train.save_every": 5, "train.eval_every": 20}
FEW = [f"--{name}={value}" for name, value in STEPS.items()]


def run(folder, *arguments):
    ran = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    return ran.stdout


def killed_after_its_first_checkpoint(folder, template):
    few = FEW if template == "digits" else [*FEW, "--train.evaluation.every=20"]
    process = subprocess.Popen([*COMMAND, "train", "config.yaml", *few], cwd=folder, env=ENVIRONMENT)
    first, deadline = folder / "runs" / template / "checkpoints" / "step_00000005", time.monotonic() + 200
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def updates(folder, template):
    lines = (folder / "runs" / template / "metrics.jsonl").read_text().splitlines()
    return [line["step"] for line in map(json.loads, lines) if line["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_planned_trained_killed_resumed_and_loaded(tmp_path, template):
    assert "innerstep train config.yaml" in run(tmp_path, "init", "--template", template)
    assert "config.yaml: valid" in run(tmp_path, "validate", "config.yaml")
    assert (tmp_path / "config.yaml").read_text().startswith("# yaml-language-server: $schema=config.schema.json")
    assert '"my_' in (tmp_path / "config.schema.json").read_text()
    assert "adamw_warmup_cosine_decay" in run(tmp_path, "plan", "config.yaml")
    killed_after_its_first_checkpoint(tmp_path, template)
    resumed = run(tmp_path, "resume", f"runs/{template}")
    assert "after 40 updates, held out" in resumed
    found = updates(tmp_path, template)
    assert found == sorted(set(found))
    use = (tmp_path / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    subprocess.run([sys.executable, "-P", "-c", use], cwd=tmp_path, env=ENVIRONMENT, check=True)
    if template != "digits":
        assert "20 episodes in my_reach" in run(tmp_path, "evaluate", f"runs/{template}", "--checkpoint", "best")
    assert "my_" in run(tmp_path, "list", "--config", "config.yaml")


@pytest.mark.parametrize("template", TEMPLATES)
def test_init_writes_the_files_of_a_template_and_names_the_next_commands(cli, tmp_path, template):
    code, printed = cli("init", tmp_path / "new", "--template", template)
    assert code == 0, printed
    assert {path.name for path in (tmp_path / "new").iterdir()} == FILES[template]
    assert f"cd {tmp_path / 'new'}" in printed.replace("\n", "").replace("  innerstep", " innerstep")
    assert f"innerstep resume runs/{template}" in printed
    readme = (tmp_path / "new" / "README.md").read_text()
    assert "$" not in readme
    assert all(f"| {name} |" in readme for name in FILES[template] - {".gitignore", "README.md"})


def test_init_refuses_to_overwrite_and_lists_the_files(cli, tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    (tmp_path / "my_parts.py").symlink_to("missing.py")
    code, printed = cli("init", tmp_path)
    assert code == 2
    assert "config.yaml, my_parts.py" in " ".join(printed.split())
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "my_parts.py"}
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_init_keeps_a_readme_and_adds_its_line_to_gitignore_once(cli, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / ".gitignore").write_text("*.pyc")
    assert cli("init", tmp_path)[0] == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\nruns/\n"
    for name in FILES["digits"] - {"README.md", ".gitignore"}:
        (tmp_path / name).unlink()
    assert cli("init", tmp_path)[0] == 0
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\nruns/\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--template", "polcy"), "did you mean 'policy'?"), (("taken",), "taken"), (("taken/inside",), "taken/inside")],
)
def test_init_reports_what_is_in_the_way(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    code, printed = cli("init", *arguments)
    assert code == 2
    assert message in printed
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
