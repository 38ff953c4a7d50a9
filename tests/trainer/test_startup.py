"""Imports of commands: heavy modules only where they are needed."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from trainer.cli.completion import fields
from trainer.config.homes import home_of
from trainer.config.schema import ExperimentConfig

DIGITS = ROOT / "configs" / "digits.yaml"
COMPILER = ("torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.tensor", "sympy")
"""Modules that a compiled model needs, and that take longer to import than torch does."""
HEAVY = ("torch", "pydantic", "numpy", "matplotlib", "sklearn", "gymnasium", "huggingface_hub", *COMPILER)


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


def test_an_optimizer_imports_no_other_keys_and_nothing_that_draws_or_saves():
    others = ("optimizer.factories.muon", "optimizer.schedules.decays", "optimizer.charts", "safetensors.torch")
    code = (
        "import sys, torch; from optimizer import OPTIMIZER_BUILDER_REGISTRY as keys;"
        "keys['adamw'](lr=0.1).build([torch.nn.Parameter(torch.ones(3))]);"
        f"assert not set({others}) & set(sys.modules), 'too many'; keys['muon'];"
        f"assert set({others}) & set(sys.modules) == {{'optimizer.factories.muon'}}, 'too few'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.stderr


@pytest.mark.parametrize("statement", ["from optimizer import ScheduledOptimizer", "import trainer; trainer.load_run"])
def test_an_attribute_error_in_an_import_is_the_cause_that_is_named(statement, tmp_path):
    (tmp_path / "torch.py").write_text("import os\nos.no_such_function\n")
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths}, check=False)
    *_, last = done.stderr.splitlines()
    assert last.startswith("ImportError: "), done.stderr
    assert "no attribute 'no_such_function'" in last
    assert "torch.py" in done.stderr


def test_a_plan_imports_neither_the_compiler_nor_what_draws():
    assert not command("plan", DIGITS) & {*COMPILER, "matplotlib", "gymnasium", "huggingface_hub"}


def test_a_run_imports_neither_the_compiler_nor_what_draws(tmp_path):
    options = ("total_steps=3", "pictures=false", f"run_dir={tmp_path / 'run'}")
    short = "--model.component_optims.encoder.params.warmup_steps=1"
    assert command("train", DIGITS, short, *(f"--train.{option}" for option in options)) == {
        "torch",
        "numpy",
        "pydantic",
    }
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RAdam", "NAdam", "ASGD"])
def test_the_first_steps_of_torchs_classes_import_no_compiler(optimizer):
    code = (
        "import torch; from optimizer import OPTIMIZER_BUILDER_REGISTRY as keys;"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3);"
        f"keys['{optimizer.lower()}'](lr=0.1).build([p]).step(); assert not p.grad_fn and p.max() < 1"
    )
    assert not imported(code) & {*COMPILER}


@pytest.mark.parametrize("name", ["plan", "train", "config", "validate"])
def test_a_mistake_in_a_file_shows_before_torch_is_imported(tmp_path, name):
    path = tmp_path / "broken.yaml"
    path.write_text("train: {total_steps: [3}\n")
    assert "torch" not in command(name, path)
    path.write_text("extends: missing.yaml\n")
    assert "torch" not in command(name, path, "--train.total_steps=3")


@pytest.mark.parametrize(
    "flag", ["--run_dir=x", "--batch-size=3", "--lr=1", "--nonsense=1", "--train..lr=1", "--device"]
)
def test_a_misspelt_option_shows_before_torch_is_imported(flag):
    assert "torch" not in command("train", DIGITS, flag)


def test_options_are_sought_among_all_fields_of_a_config():
    homes = {home_of(name, fields()) for name in ("lr", "save_every", "batch_size", "on_change")}
    assert homes == {
        "model.component_optims.NAME.params.lr",
        "train.save_every",
        "data.batch_size",
        "resume.on_change",
    }
    for section, field in ExperimentConfig.model_fields.items():
        for name in getattr(field.annotation, "model_fields", {}):
            assert name in ("type", "params") or home_of(name, fields()) is not None, f"{section}.{name}"


def test_the_schema_is_the_same_text_whatever_was_imported_first():
    late = "import optimizer.schedules.transformers, optimizer.factories.muon, optimizer.schedule_free_radam;"
    code = "from trainer.reporting.config_schema import schema_text; print(schema_text([]))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", first + code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
        for first in ("", late)
    }
    assert len(texts) == 1
