"""Imports of commands: heavy modules only where they are needed."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

DIGITS = ROOT / "configs" / "digits.yaml"
HEAVY = ("torch", "torch._dynamo", "pydantic", "numpy", "matplotlib", "sklearn")


def imported(code, *arguments):
    """Return which of HEAVY are imported when `code` has run."""
    found = f"[m for m in {HEAVY} if m in sys.modules]"
    report = f"import atexit, json, sys; atexit.register(lambda: print(json.dumps({found})))"
    command = [sys.executable, "-c", f"{report}; {code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return {*json.loads(done.stdout.splitlines()[-1])}


def command(*arguments):
    return imported("import runpy; runpy.run_module('trainer', run_name='__main__')", *arguments)


def test_help_imports_nothing_heavy():
    assert command("--help") == command("--version") == set()
    assert command("train", "--help") <= {"pydantic"}
    assert imported("import trainer, trainer.cli") == set()


def test_the_messages_of_a_config_need_no_torch():
    assert imported("import optimizer.config") == {"pydantic"}


def test_one_public_name_registers_all_optimizers_and_schedules():
    code = "from optimizer import {} as found; import optimizer; assert len(optimizer.SCHEDULE_REGISTRY) > 40"
    for name in ("Registry", "OPTIMIZER_BUILDER_REGISTRY"):
        check = f"{code.format(name)}; assert 'schedule_free_radam' in optimizer.OPTIMIZER_BUILDER_REGISTRY"
        assert "torch" in imported(check)


def test_a_plan_imports_neither_the_compiler_nor_what_draws():
    assert not command("plan", DIGITS) & {"torch._dynamo", "matplotlib"}


@pytest.mark.parametrize("name", ["plan", "train", "config"])
def test_a_mistake_in_a_file_shows_before_torch_is_imported(tmp_path, name):
    path = tmp_path / "broken.yaml"
    path.write_text("train: {total_steps: [3}\n")
    assert "torch" not in command(name, path)
    path.write_text("extends: missing.yaml\n")
    assert "torch" not in command(name, path, "--train.total_steps=3")
