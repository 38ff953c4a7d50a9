"""Optimizers with their learning-rate schedule inside, built from a key and validated parameters."""

import optimizer.imported  # for what they register, like the next three
import optimizer.matrix_optimizers
import optimizer.multi_adam
import optimizer.schedules  # noqa: F401
from optimizer.adamw_cosine_decay import AdamWWithWarmupCosine, AdamWWithWarmupCosineFactory
from optimizer.adamw_onecyclelr import AdamWWithOneCycle, AdamWWithOneCycleFactory
from optimizer.cautious import CautiousOptimizer
from optimizer.conformance import ConformanceError, check_factory
from optimizer.embedded_scheduler import EmbeddedScheduler
from optimizer.embedding import ScheduledOptimizer, scheduled
from optimizer.factory import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory, OptimizerFactory, ScheduledFactory
from optimizer.horizon import Horizon
from optimizer.importing import no_plugins
from optimizer.lerobot import make_optimizer_and_scheduler
from optimizer.named_loading import load_named_state
from optimizer.named_state import NamedState, named_state
from optimizer.registry import Registry, UnknownKeyError
from optimizer.schedule import SCHEDULE_REGISTRY, Schedule
from optimizer.schedule_free_radam import RAdamScheduleFreeFactory
from optimizer.schedules.torch_schedule import TorchSchedule
from optimizer.stand_in import ReadOnlyScheduler
from optimizer.state_checks import StateMismatchError
from optimizer.state_files import load_optimizer_state, save_optimizer_state
from optimizer.torch_optimizers import TorchFactory, torch_factory

__all__ = [
    "OPTIMIZER_BUILDER_REGISTRY",
    "SCHEDULE_REGISTRY",
    "AdamWWithOneCycle",
    "AdamWWithOneCycleFactory",
    "AdamWWithWarmupCosine",
    "AdamWWithWarmupCosineFactory",
    "CautiousOptimizer",
    "ConformanceError",
    "EmbeddedScheduler",
    "FreeScheduleFactory",
    "Horizon",
    "NamedState",
    "OptimizerFactory",
    "RAdamScheduleFreeFactory",
    "ReadOnlyScheduler",
    "Registry",
    "Schedule",
    "ScheduledFactory",
    "ScheduledOptimizer",
    "StateMismatchError",
    "TorchFactory",
    "TorchSchedule",
    "UnknownKeyError",
    "check_factory",
    "load_named_state",
    "load_optimizer_state",
    "make_optimizer_and_scheduler",
    "named_state",
    "no_plugins",
    "save_optimizer_state",
    "scheduled",
    "torch_factory",
]
