"""Modules of a user as files beside a config, and configs that name them."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import trainer.check_config  # noqa: F401 it registers what is built in, which a test does not forget
from optimizer import OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY
from optimizer.config import importing
from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, SINK_REGISTRY
from trainer.interfaces.evaluation import ENVIRONMENT_REGISTRY

_REGISTRIES = (
    *(OPTIMIZER_BUILDER_REGISTRY, SCHEDULE_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY),
    *(SINK_REGISTRY, ENVIRONMENT_REGISTRY),
)

PARTS = """
import torch
from torch import nn
from trainer import DATASET_REGISTRY, MODEL_REGISTRY, OBJECTIVE_REGISTRY, DataSet, Objective, Outcome, TensorSplit


@MODEL_REGISTRY.register("beside_layer")
class Layer(nn.Linear):
    def __init__(self, width: int = 3) -> None:
        super().__init__(width, width)


@DATASET_REGISTRY.register("beside_data")
class Data(DataSet):
    def __init__(self) -> None:
        self.train = TensorSplit({"x": torch.arange(24.0).reshape(8, 3)})
        self.held_out, self.statistics = None, {}


@OBJECTIVE_REGISTRY.register("beside_loss")
class Loss(Objective):
    def losses(self, components, batch):
        return Outcome({"size": components["net"](batch["x"]).square().mean()})
"""
"""A module with all that a run needs: keys beside_layer, beside_data and beside_loss."""


_PATH = [*sys.path]


@pytest.fixture
def _forgets(monkeypatch, tmp_path_factory):
    """Forget, after a test, the folders and modules that it added."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    own = tmp_path_factory.getbasetemp()
    forget(*(name for name, module in [*sys.modules.items()] if own in _place(module).parents))


@pytest.fixture
def _registers(monkeypatch):
    """Forget, after a test, the keys that it registered, and where its modules were found."""
    monkeypatch.setattr(importing, "_FOUND", {})
    for registry in _REGISTRIES:
        registry._load_modules()  # once in a process: their keys stay
        for name in ("_classes", "_keys", "_aliases"):
            monkeypatch.setattr(registry, name, {**getattr(registry, name)})


def _place(module):
    """Return the path of a module, which is empty for a built-in one."""
    found = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(found) if isinstance(found, str) else Path()


def forget(*names):
    """Forget modules, as another process would not know them, and the folders that tests put on the path."""
    for name in names:
        sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if folder in _PATH]


def plugged(run_dir, plugins=("beside_parts",), **changed):
    """Return the config of a run of three updates with the classes that PARTS registers."""
    return {
        "plugins": [*plugins],
        "data": {"type": "beside_data", "batch_size": 4, **changed},
        "model": {"components": {"net": {"type": "beside_layer"}}, "component_optims": {"net": {"type": "adamw"}}},
        "train": {"objective": {"type": "beside_loss"}, "total_steps": 3, "run_dir": str(run_dir), "device": "cpu"},
    }


def written(folder, config, **modules):
    """Write a config and modules, by name, into `folder`; return the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def readme_example():
    """Return the README's small config, the changes to it for a plugin, and the plugin's source."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    source = next(text for kind, text in blocks if kind == "python" and "my_parts.py" in text)
    _, whole, added = (text for kind, text in blocks if kind == "yaml")
    return whole, added, source
