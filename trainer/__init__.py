"""An offline trainer for models made of named components, driven by one YAML file."""

import os
from typing import TYPE_CHECKING, Any

# MKL may sum in another order from one process to the next, or over another number of threads, unless it is told not
# to, and it reads this when it is first used; but a resumed run is to be the uninterrupted one to the bit.
os.environ.setdefault("MKL_CBWR", "AUTO")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

if TYPE_CHECKING:
    from .config.load import load_config
    from .config.schema import ExperimentConfig
    from .errors import ConfigError, NonFiniteError, SaveError, UserCodeError
    from .interfaces.component import MODEL_REGISTRY
    from .interfaces.dataset import DATASET_REGISTRY, Batch, DataSet, TensorSplit
    from .interfaces.objective import OBJECTIVE_REGISTRY, Objective, Outcome
    from .offline_trainer import Result
    from .resume_check import check_resumes
    from .runs import resume, train
    from .runtime.signals import StoppedBySignal

_OWNERS = {
    "MODEL_REGISTRY": "interfaces.component",
    "ExperimentConfig": "config.schema",
    "load_config": "config.load",
    "DATASET_REGISTRY": "interfaces.dataset",
    "Batch": "interfaces.dataset",
    "DataSet": "interfaces.dataset",
    "TensorSplit": "interfaces.dataset",
    "ConfigError": "errors",
    "NonFiniteError": "errors",
    "SaveError": "errors",
    "UserCodeError": "errors",
    "StoppedBySignal": "runtime.signals",
    "OBJECTIVE_REGISTRY": "interfaces.objective",
    "Objective": "interfaces.objective",
    "Outcome": "interfaces.objective",
    "Result": "offline_trainer",
    "check_resumes": "resume_check",
    "resume": "runs",
    "train": "runs",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `innerstep --help` imports this package, and must not import torch.
    if name not in _OWNERS:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"trainer.{_OWNERS[name]}"), name)


__all__ = [
    "DATASET_REGISTRY",
    "MODEL_REGISTRY",
    "OBJECTIVE_REGISTRY",
    "Batch",
    "ConfigError",
    "DataSet",
    "ExperimentConfig",
    "NonFiniteError",
    "Objective",
    "Outcome",
    "Result",
    "SaveError",
    "StoppedBySignal",
    "TensorSplit",
    "UserCodeError",
    "check_resumes",
    "load_config",
    "resume",
    "train",
]
