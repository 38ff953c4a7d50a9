"""The order of imports: a package imports only from packages that come before it in the flow of data."""

import ast
import importlib
import sys

import pytest
from conftest import ROOT
from sources import SOURCES

import trainer

OPTIMIZER = [
    "types",
    "charts",
    "config",
    "schedules",
    "transforms",
    "state",
    "scheduling",
    "kernels",
    "analysis",
    "factories",
    "",
    "interop",
    "testing",
]
"""The packages of `optimizer` in the order of the flow; "" is the mission's three files beside them."""
TRAINER = [
    "run_layout",
    "errors",
    "templates",
    "splitting",
    "interfaces",
    "runtime",
    "distributed",
    "builtins",
    "lerobot_data",
    "policies",
    "offline_rl",
    "lerobot_policies",
    "simulation",
    "config",
    "loop",
    "checkpoint",
    "setup",
    "reporting",
    "checkpoint.tools",
    "report_page",
    "diagnosis",
    "importing",
    "exporting",
    "",
    "cli",
]
"""The packages of `trainer` in the order of the flow; "" is the story of a run and what stands beside it."""

CORE = {
    "torch",
    "schedulefree",
    "pydantic",
    "pydantic_core",
    "yaml",
    "safetensors",
    "numpy",
    "rich",
    "typer",
    "xxhash",
    "omegaconf",
}
EXTRAS = {
    "matplotlib",
    "pyarrow",
    "av",
    "PIL",
    "torchcodec",
    "huggingface_hub",
    "gymnasium",
    "minari",
    "lerobot",
    "tensorboard",
    "wandb",
    "google",  # protobuf, which the two bring
}


def package_of(module):
    """Return the name of a module's package as the two lists have it."""
    top, _, inner = module.partition(".")
    order = {"optimizer": OPTIMIZER, "trainer": TRAINER}[top]
    if SOURCES[module].name == "__init__.py":
        return inner
    return inner if inner in order else inner.rpartition(".")[0]


def imports(module, tree=None):
    """Yield what a module imports, by absolute names: of modules where it imports those, else of their packages."""
    path = SOURCES[module]
    here = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = here.split(".")[: len(here.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            elif base.split(".")[0] == module.split(".")[0]:
                raise AssertionError(f"{path}: imports of its own package are relative")
            yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names)


FACES = {"optimizer", "trainer", "optimizer.conformance_suite", "trainer.__main__"}
"""Modules that only give others the names by which users call them."""


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - FACES))
def test_a_module_imports_only_from_its_package_and_from_those_before_it(module):
    top = module.split(".")[0]
    order = {"optimizer": OPTIMIZER, "trainer": TRAINER}[top]
    own = {name for name in imports(module) if name in SOURCES and name.split(".")[0] == top}
    late = {name for name in own if order.index(package_of(name)) > order.index(package_of(module))}
    assert late == set()


def test_no_modules_import_each_other_in_a_circle():
    arrows = {module: {name for name in imports(module) if name in SOURCES} - {module} for module in SOURCES}
    while leaves := {module for module, targets in arrows.items() if not targets}:
        arrows = {module: targets - leaves for module, targets in arrows.items() if module not in leaves}
    assert arrows == {}


def test_the_optimizer_knows_nothing_of_the_trainer():
    for module in SOURCES:
        if module.startswith("optimizer"):
            assert not any(name.split(".")[0] == "trainer" for name in imports(module)), module


def test_one_package_of_the_trainer_imports_torch_distributed():
    users = {
        package_of(module)
        for module in SOURCES
        if module.startswith("trainer")
        and any(name.startswith("torch.distributed") for name in imports(module) if name is not None)
    }
    assert users == {"distributed"}


def test_the_trainer_uses_what_packages_of_the_optimizer_export():
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())) if module.startswith("trainer") else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optimizer":
                source = node.module
                assert source in SOURCES, f"{path}: {source}"
                if source in ("optimizer.types", "optimizer.charts"):
                    continue
                assert SOURCES[source].name == "__init__.py", f"{path}: {source} is a module inside a package"
                exported = set(importlib.import_module(source).__all__)
                assert {alias.name for alias in node.names} <= exported, f"{path}: {source}"


def test_the_readme_of_a_package_names_its_files():
    for path in SOURCES.values():
        if path.name == "__init__.py" and path.parent.name != "optimizer":
            text = (path.parent / "README.md").read_text()
            files = {file.name for file in path.parent.glob("*.py") if not file.name.startswith("__")}
            assert {file for file in files if f"`{file}`" not in text} == set(), path.parent


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_only_core_dependencies_are_imported_at_the_top(module):
    tree = ast.parse(SOURCES[module].read_text())
    tops = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    allowed = CORE | {"optimizer", "trainer"} | set(sys.stdlib_module_names)
    if module == "optimizer.kernels.gpu":  # imported when a CUDA device steps: torch's builds for CUDA bring it
        allowed |= {"triton"}
    assert {name.split(".")[0] for name in imports(module, tops)} <= allowed
    assert {name.split(".")[0] for name in imports(module)} <= allowed | EXTRAS


def test_every_file_can_be_read_in_one_sitting():
    for path in [*SOURCES.values(), *(ROOT / "tests").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 400 or "tests" in path.parts, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                limit = 45 if "tests" in path.parts else 40
                assert node.end_lineno - node.lineno < limit, f"{path}: {node.name}"


def test_dir_lists_the_public_names_that_are_imported_on_first_use():
    assert set(trainer.__all__) <= set(dir(trainer))
