"""What may import what: a module imports only from modules that come before it in the flow of data."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from sources import SOURCES

FLOW = [
    "optimizer.shown",
    "optimizer.importing",
    "optimizer.registry",
    "optimizer.horizon",
    "optimizer.validation",
    "optimizer.signatures",
    "optimizer.named_function",
    "optimizer.by_type",
    "optimizer.lengths",
    "optimizer.curve",
    "optimizer.drawing",
    "optimizer.schedule",
    "optimizer.schedules.basic",
    "optimizer.schedules.hugging_face",
    "optimizer.schedules.transformers",
    "optimizer.schedules.lerobot",
    "optimizer.schedules.lightning",
    "optimizer.schedules.decays",
    "optimizer.schedules.cycles",
    "optimizer.schedules.composition",
    "optimizer.schedules.torch_leaps",
    "optimizer.schedules.torch_schedule",
    "optimizer.schedules.torch_composites",
    "optimizer.schedules.pytorch",
    "optimizer.schedules.plateau",
    "optimizer.schedules",
    "optimizer.step_hooks",
    "optimizer.combined",
    "optimizer.memory_layout",
    "optimizer.float64_step",
    "optimizer.strides",
    "optimizer.clipping",
    "optimizer.cautious",
    "optimizer.reentry",
    "optimizer.track",
    "optimizer.embedded_scheduler",
    "optimizer.suspicion",
    "optimizer.preview",
    "optimizer.state_checks",
    "optimizer.state_fit",
    "optimizer.state_loading",
    "optimizer.embedding",
    "optimizer.stand_in",
    "optimizer.state_tree",
    "optimizer.named_state",
    "optimizer.named_loading",
    "optimizer.plain_json",
    "optimizer.savable_tensors",
    "optimizer.files",
    "optimizer.state_files",
    "optimizer.parameter_groups",
    "optimizer.kernels",
    "optimizer.kernels.moments",
    "optimizer.kernels.stepping",
    "optimizer.kernels.fused",
    "optimizer.kernels.blocks",
    "optimizer.kernels.cautious",
    "optimizer.kernels.schedule_free_radam",
    "optimizer.kernels.native",
    "optimizer.kernels.gpu",
    "optimizer.kernels.compiled",
    "optimizer.kernels.choice",
    "optimizer.factory",
    "optimizer.adamw_options",
    "optimizer.torch_optimizers",
    "optimizer.matrix_optimizers",
    "optimizer.multi_adam",
    "optimizer.lerobot",
    "optimizer.adamw_cosine_decay",
    "optimizer.adamw_onecyclelr",
    "optimizer.schedule_free",
    "optimizer.schedule_free_radam",
    "optimizer.imported",
    "optimizer.bench",
    "optimizer.promises",
    "optimizer.conformance",
    "optimizer.conformance_suite",
    "optimizer",
    "trainer.errors",
    "trainer.streams",
    "trainer.terminal",
    "trainer.version",
    "trainer.tables",
    "trainer.plain_values",
    "trainer.yaml_values",
    "trainer.config_file",
    "trainer.overrides",
    "trainer.paths",
    "trainer.plugins",
    "trainer.rng",
    "trainer.data",
    "trainer.device",
    "trainer.data_checks",
    "trainer.interruption",
    "trainer.batches",
    "trainer.digits",
    "trainer.components",
    "trainer.objective",
    "trainer.wiring",
    "trainer.classification",
    "trainer.presets",
    "trainer.choice",
    "trainer.override_fields",
    "trainer.init_config",
    "trainer.config",
    "trainer.disk",
    "trainer.checkpoint_names",
    "trainer.checkpoint_files",
    "trainer.beside_training",
    "trainer.savable",
    "trainer.checkpoint",
    "trainer.health",
    "trainer.checkpoint_writing",
    "trainer.taking_up",
    "trainer.parts",
    "trainer.model",
    "trainer.gradients",
    "trainer.running_statistics",
    "trainer.parameter_lists",
    "trainer.learner",
    "trainer.updates",
    "trainer.evaluation",
    "trainer.metrics",
    "trainer.rehearsal",
    "trainer.component_optimizer",
    "trainer.upgrades",
    "trainer.restoring",
    "trainer.unsaved",
    "trainer.own_state",
    "trainer.provenance",
    "trainer.monitors",
    "trainer.saving",
    "trainer.save_rehearsal",
    "trainer.run",
    "trainer.rescue",
    "trainer.resuming",
    "trainer.pictures",
    "trainer.plan",
    "trainer.plots",
    "trainer.progress",
    "trainer.lock",
    "trainer.ownership",
    "trainer.offline_trainer",
    "trainer.runs",
    "trainer.inspection",
    "trainer.differences",
    "trainer.resume_check",
    "trainer.exporting",
    "trainer.torch_files",
    "trainer.foreign",
    "trainer.naming",
    "trainer.conversion",
    "trainer.catalogue",
    "trainer",
    "trainer.checkpoint_cli",
    "trainer.command_arguments",
    "trainer.cli",
    "trainer.__main__",
]
CORE = {"torch", "schedulefree", "pydantic", "pydantic_core", "yaml", "safetensors", "numpy", "rich", "typer", "xxhash"}
EXTRAS = {"sklearn", "matplotlib"}


def imports(path, tree=None):
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name if name in SOURCES else node.module for name in submodules]


def test_the_flow_names_every_module():
    assert sorted(FLOW) == sorted(SOURCES)


@pytest.mark.parametrize("module", FLOW)
def test_a_module_imports_only_what_comes_before_it(module):
    own = {name for name in imports(SOURCES[module]) if name in SOURCES}
    late = {name for name in own if FLOW.index(name) >= FLOW.index(module)}
    assert late == set()


def test_the_optimizer_knows_nothing_of_the_trainer():
    for module, path in SOURCES.items():
        if module.startswith("optimizer"):
            assert not any(name.split(".")[0] == "trainer" for name in imports(path)), module


@pytest.mark.parametrize("module", FLOW)
def test_only_core_dependencies_are_imported_at_the_top(module):
    tree = ast.parse(SOURCES[module].read_text())
    tops = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    allowed = CORE | {"optimizer", "trainer"} | set(sys.stdlib_module_names)
    if module == "optimizer.kernels.gpu":  # imported when a CUDA device steps: torch's builds for CUDA bring it
        allowed |= {"triton"}
    assert {name.split(".")[0] for name in imports(SOURCES[module], tops)} <= allowed
    assert {name.split(".")[0] for name in imports(SOURCES[module])} <= allowed | EXTRAS


def test_every_file_can_be_read_in_one_sitting():
    for path in [*SOURCES.values(), *Path(ROOT / "tests").glob("*.py")]:
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 300 or "tests" in path.parts, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path}: {node.name}"
