"""What may import what: a module imports only from modules that come before it in the flow of data."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from sources import SOURCES

FLOW = [
    "optimizer.types",
    "optimizer.config.messages",
    "optimizer.config.importing",
    "optimizer.config.registry",
    "optimizer.schedules.horizon",
    "optimizer.config.validation",
    "optimizer.config.signatures",
    "optimizer.config.function_path",
    "optimizer.config.tagged_field",
    "optimizer.schedules.durations",
    "optimizer.schedules.curve",
    "optimizer.charts",
    "optimizer.schedules.base",
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
    "optimizer.transforms.step_hooks",
    "optimizer.transforms.composite_optimizer",
    "optimizer.transforms.memory_layout",
    "optimizer.float64_step",
    "optimizer.state.strides",
    "optimizer.transforms.clipping",
    "optimizer.transforms.cautious",
    "optimizer.scheduled.rescale",
    "optimizer.scheduled.option",
    "optimizer.scheduled.scheduler",
    "optimizer.analysis.lint",
    "optimizer.analysis.preview",
    "optimizer.state.checks",
    "optimizer.state.fit",
    "optimizer.state.loading",
    "optimizer.transforms.step_options",
    "optimizer.scheduled.kernel",
    "optimizer.scheduled.optimizer",
    "optimizer.scheduled.read_only",
    "optimizer.state.pytree_json",
    "optimizer.state.named",
    "optimizer.state.named_loading",
    "optimizer.state.plain_json",
    "optimizer.state.savable_tensors",
    "optimizer.state.atomic_files",
    "optimizer.state.files",
    "optimizer.factories.parameter_groups",
    "optimizer.kernels",
    "optimizer.kernels.moments",
    "optimizer.kernels.stepping",
    "optimizer.kernels.fused",
    "optimizer.kernels.blocks",
    "optimizer.kernels.cautious",
    "optimizer.kernels.native",
    "optimizer.kernels.gpu",
    "optimizer.kernels.compiled",
    "optimizer.kernels.schedule_free_radam",
    "optimizer.kernels.registry",
    "optimizer.factories.base",
    "optimizer.factories.adamw_options",
    "optimizer.factories.torch_optim",
    "optimizer.factories.muon",
    "optimizer.factories.multi_adam",
    "optimizer.interop.lerobot",
    "optimizer.adamw_cosine_decay",
    "optimizer.adamw_onecyclelr",
    "optimizer.factories.schedule_free",
    "optimizer.schedule_free_radam",
    "optimizer.factories.dotted_path",
    "optimizer.testing.harness",
    "optimizer.testing.checks",
    "optimizer.testing.check_factory",
    "optimizer.testing.pytest_suite",
    "optimizer",
    "trainer.errors",
    "trainer.runtime.streams",
    "trainer.runtime.terminal",
    "trainer.runtime.version",
    "trainer.reporting.tables",
    "trainer.config.plain_values",
    "trainer.config.yaml_values",
    "trainer.config.yaml_file",
    "trainer.config.overrides",
    "trainer.config.paths",
    "trainer.config.plugins",
    "trainer.runtime.rng",
    "trainer.interfaces.dataset",
    "trainer.runtime.device",
    "trainer.loop.data_checks",
    "trainer.runtime.signals",
    "trainer.loop.batches",
    "trainer.builtins.digits",
    "trainer.builtins.modules",
    "trainer.interfaces.objective",
    "trainer.builtins.dataflow",
    "trainer.builtins.classification",
    "trainer.config.presets",
    "trainer.config.class_choice",
    "trainer.config.override_fields",
    "trainer.config.init_from",
    "trainer.config.schema",
    "trainer.runtime.files",
    "trainer.checkpoint.names",
    "trainer.checkpoint.directory",
    "trainer.checkpoint.concurrent_reading",
    "trainer.checkpoint.savable",
    "trainer.checkpoint.contents",
    "trainer.checkpoint.health",
    "trainer.checkpoint.writing",
    "trainer.checkpoint.selection",
    "trainer.checkpoint.init_from",
    "trainer.setup.components",
    "trainer.loop.gradients",
    "trainer.loop.running_statistics",
    "trainer.loop.parameter_lists",
    "trainer.loop.gradient_updates",
    "trainer.loop.loop",
    "trainer.loop.evaluation",
    "trainer.reporting.metrics_file",
    "trainer.setup.dry_run",
    "trainer.setup.optimizers",
    "trainer.checkpoint.upgrades",
    "trainer.checkpoint.restore",
    "trainer.checkpoint.unsaved",
    "trainer.checkpoint.own_state",
    "trainer.checkpoint.provenance",
    "trainer.loop.metric_monitors",
    "trainer.checkpoint.manager",
    "trainer.checkpoint.dry_save",
    "trainer.run",
    "trainer.rescue",
    "trainer.resuming",
    "trainer.reporting.run_plots",
    "trainer.reporting.plan_table",
    "trainer.reporting.schedule_plots",
    "trainer.reporting.progress_bar",
    "trainer.run_lock",
    "trainer.ownership",
    "trainer.offline_trainer",
    "trainer.runs",
    "trainer.checkpoint.tools.inspect",
    "trainer.checkpoint.tools.diff",
    "trainer.resume_check",
    "trainer.checkpoint.tools.export",
    "trainer.checkpoint.tools.torch_files",
    "trainer.checkpoint.tools.external_formats",
    "trainer.checkpoint.tools.positional_state",
    "trainer.checkpoint.tools.convert",
    "trainer.reporting.registry_listing",
    "trainer",
    "trainer.cli.checkpoint",
    "trainer.cli.arguments",
    "trainer.cli.main",
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
        assert len(path.read_text().splitlines()) <= 400 or "tests" in path.parts, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path}: {node.name}"
