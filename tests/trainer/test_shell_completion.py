"""Completion in the shell, and -h."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from conftest import ROOT

from trainer.cli.completion import NAMES, described_names, drawn_keys, overrides, runs
from trainer.cli.main import app


def all_commands():
    """Return each command as the words that call it."""
    from typer.main import get_command

    found = []
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found += [[name, below] for below in inner] if inner else [[name]]
    return found


COMMANDS = all_commands()


def completed(words):
    """Return the completions of the last of the words in bash, and the heavy modules that this imports."""
    code = (
        "import atexit, json, sys; sys.argv = ['innerstep'];"
        "heavy = lambda: [name for name in ('torch', 'numpy', 'yaml') if name in sys.modules];"
        "atexit.register(lambda: print(json.dumps(heavy())));"
        "from trainer.cli.main import main; main()"
    )
    asked = {"_INNERSTEP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    *offered, heavy = done.stdout.splitlines()
    return [line for line in offered if line], json.loads(heavy)


@pytest.fixture
def _some_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first", "runs/second", "else/deep/third"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "runs" / "no_run").mkdir()


@pytest.mark.usefixtures("_some_runs")
def test_commands_options_keys_fields_and_runs_are_completed_without_torch():
    for words, expected in {
        ("innerstep", "vali"): ["validate"],
        ("innerstep", "train", "--over"): ["--overwrite"],
        ("innerstep", "describe", "adamw_c"): ["adamw_cosine_schedule"],
        ("innerstep", "train", "c.yaml", "--train.dev"): ["--train.device"],
        ("innerstep", "resume", "runs/f"): ["runs/first"],
        ("innerstep", "evaluate", "runs/first", "--checkpoint", "b"): ["best"],
        ("innerstep", "train", ""): [],
    }.items():
        assert completed(words) == (expected, []), words


@pytest.mark.usefixtures("_some_runs")
def test_runs_are_found_in_folders_below(tmp_path):
    assert runs("") == ["else/deep/third", "runs/first", "runs/second"]
    assert runs("ru") == ["runs/first", "runs/second"]
    assert runs(f"{tmp_path}/runs/s") == [f"{tmp_path}/runs/second"]
    assert runs("missing/x") == []


def test_keys_to_draw_are_curves_and_fields_need_a_section():
    assert "cosine" in dict(drawn_keys("cos"))
    assert "cosine_annealing" in dict(drawn_keys("COSINE_A"))
    assert not drawn_keys("mlp")
    assert "mlp" in dict(described_names("ml"))
    assert all(len(meaning) <= 60 for _, meaning in described_names(""))
    assert dict(overrides("--se")).keys() == {"--seed"}


def test_the_file_of_names_is_that_of_the_code():
    spec = spec_from_file_location("write_config_fields", ROOT / "docs" / "write_config_fields.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert NAMES.read_text(encoding="utf-8") == module.names(), "run make config-fields"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words, cli):
    code, printed = cli(*words, "-h")
    assert code == 0
    assert f"Example: innerstep {' '.join(words)}" in " ".join(printed.split())


def test_the_help_lists_the_exit_codes(cli):
    from trainer import errors

    code, printed = cli("-h")
    assert code == 0
    text = " ".join(printed.split())
    codes = {cls.exit_code for cls in errors.EXPECTED if hasattr(cls, "exit_code")}
    for each in {0, *codes, errors.INTERRUPTED, errors.STOPPED_AND_SAVED}:
        assert f"{each}: " in text.partition("Exit codes:")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_is_printed(shell, cli, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, printed = cli("--show-completion", shell)
    assert code == 0
    assert "_INNERSTEP_COMPLETE" in printed
