"""Optimizers with their learning-rate schedule inside, built from a key and validated parameters."""

from .adamw_cosine_decay import AdamWWithWarmupCosine, AdamWWithWarmupCosineFactory
from .adamw_onecyclelr import AdamWWithOneCycle, AdamWWithOneCycleFactory
from .config.importing import no_plugins
from .config.registry import Registry, UnknownKeyError
from .factories.base import OPTIMIZER_BUILDER_REGISTRY, FreeScheduleFactory, OptimizerFactory, ScheduledFactory
from .factories.torch_optim import TorchFactory, torch_factory
from .interop.lerobot import make_optimizer_and_scheduler
from .schedule_free_radam import RAdamScheduleFreeFactory
from .schedules.base import SCHEDULE_REGISTRY, Schedule
from .schedules.durations import Duration, PositiveDuration, RunLength
from .schedules.horizon import Horizon
from .schedules.torch_schedule import TorchSchedule
from .scheduling.optimizer import ScheduledOptimizer
from .scheduling.read_only import ReadOnlyScheduler
from .scheduling.scheduled_class import scheduled
from .scheduling.scheduler import EmbeddedScheduler
from .state.checks import StateMismatchError
from .state.files import load_optimizer_state, save_optimizer_state
from .state.named import NamedState, named_state
from .state.named_loading import load_named_state
from .testing.check_factory import ConformanceError, check_factory
from .transforms.cautious import CautiousOptimizer
from .transforms.step_options import StepOptions

__all__ = [
    "OPTIMIZER_BUILDER_REGISTRY",
    "SCHEDULE_REGISTRY",
    "AdamWWithOneCycle",
    "AdamWWithOneCycleFactory",
    "AdamWWithWarmupCosine",
    "AdamWWithWarmupCosineFactory",
    "CautiousOptimizer",
    "ConformanceError",
    "Duration",
    "EmbeddedScheduler",
    "FreeScheduleFactory",
    "Horizon",
    "NamedState",
    "OptimizerFactory",
    "PositiveDuration",
    "RAdamScheduleFreeFactory",
    "ReadOnlyScheduler",
    "Registry",
    "RunLength",
    "Schedule",
    "ScheduledFactory",
    "ScheduledOptimizer",
    "StateMismatchError",
    "StepOptions",
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
