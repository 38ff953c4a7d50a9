"""The story of a run, top to bottom: build everything, train, evaluate, save, draw."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from torch.optim import Optimizer

from optimizer.config import counted

from .checkpoint.contents import Progress
from .checkpoint.dry_save import TriedContents
from .checkpoint.fingerprint import run_fingerprint
from .checkpoint.init_from import load_part_optimizers
from .checkpoint.manager import CheckpointManager, writing
from .checkpoint.own_state import OwnState
from .checkpoint.provenance import provenance
from .checkpoint.savable import check_lengths
from .config.schema import ExperimentConfig
from .errors import ConfigError, resume_command, user_code
from .interfaces.component import is_frozen, train_mode
from .interfaces.dataset import Batch, DataSet, in_order
from .interfaces.objective import Objective
from .loop.averaged_weights import averaged_weights, switches_weights, train_at_training_weights
from .loop.batches import ShuffledBatches
from .loop.data_checks import check_parts
from .loop.evaluation import check_means, evaluate, named_values
from .loop.gradient_updates import GradientUpdater, Rules, off_plan
from .loop.loop import training_loop
from .loop.metric_monitors import check_monitors, report
from .reporting.metrics_file import MetricsFile, evaluation_text, training_line, written_evaluation
from .reporting.plan_table import plan
from .reporting.progress_bar import RunProgress
from .reporting.run_plots import draw_pictures, require_plotting
from .rescue import check_weights, rescuing
from .resuming import restore_run, saved_values
from .run_layout import METRICS
from .runtime.device import chosen_device, on_device
from .runtime.rng import seed_all, separate_rng
from .runtime.signals import Interruption, StoppedBySignal
from .runtime.terminal import log
from .setup.components import build_components
from .setup.dry_run import prepare_components
from .setup.optimizers import build_optimizer

CALIBRATION_BATCHES = 50
"""Training batches that BatchNorm statistics are measured over before an evaluation at averaged weights."""
NOTICED_AFTER = 100
"""Updates after which a component that the objective does not step as planned is reported; again at the end."""


@dataclass(frozen=True)
class Result:
    """How a run ended. step: updates done. metrics: those of the last evaluation, by name."""

    run_dir: Path
    step: int
    metrics: dict[str, float]


class OfflineTrainer:
    """Trains the components of a config on a fixed data set.

    Building it writes nothing and raises ConfigError for whatever cannot work. resumed: whether `restore`
    comes next, so that no component needs to be initialised from elsewhere.
    """

    def __init__(self, config: ExperimentConfig, console: Console, resumed: bool = False) -> None:
        config = _in_place(config)
        self.config, self.console = config, console
        self.device = chosen_device(config.train.device)
        check_lengths(config.train.run_dir, config.model.components)
        if config.train.pictures:
            require_plotting("train.pictures")
        self.data: DataSet = config.data.make("data")
        check_parts(self.data)
        self.batches = self._shuffled(config.data.workers, config.data.pin_memory)
        self.horizon = config.train.horizon(self.batches.steps_per_epoch)
        self.components, loaded = build_components(config.model, config.seed, not resumed, self.log)
        self.objective: Objective = config.train.objective.make("train.objective")
        check_means(self.objective, config.train.accumulate, self.data.held_out, config.data.batch_size)
        one_sample = self.batches.smallest_batch == 1
        with separate_rng(config.seed):
            outcome = prepare_components(
                self.objective, self.components, self.data, config.model, loaded, self.device, one_sample
            )
        self.optimizers = self._build_optimizers()
        self.fingerprint = run_fingerprint(config, self.optimizers, self.horizon)
        if not resumed:
            load_part_optimizers(config.model, self.optimizers, self.log)
        train_at_training_weights(self.optimizers.values())
        evaluates, total = self.data.held_out is not None, self.horizon.total_steps
        check_monitors(config, self.optimizers, named_values(outcome), evaluates, total)
        train = config.train
        every = {name: config.model.component_optims[name].every for name in self.optimizers}
        rules = Rules(train.precision, train.grad_clip_norm, train.on_nonfinite, every)
        self.learner = GradientUpdater(self.components, self.optimizers, self.device, rules, self.log)
        self.contents = TriedContents(self.components, self.optimizers)
        self.own = OwnState(self.objective, self.data, self.components, config.data.workers, self.log)
        self.provenance = provenance(self.device, self.optimizers, self.data, config.seed)
        if train.compile:
            for component in self.components.values():
                component.compile()
        self.saving = CheckpointManager(train, self.log)
        self.step = self.begun = 0
        self.metrics: dict[str, float] = {}
        self.evaluation_is_due = False

    def plan(self) -> str:
        """Return the table of components, optimizers and schedules."""
        return plan(self.config, self.components, self.optimizers, self.horizon, len(self.data.train))

    def run(self) -> Result:
        """Train from where the trainer stands to the end; write metrics, checkpoints and pictures.

        The first signal that asks for it ends the run after the update and its checkpoint, with StoppedBySignal.
        Raises SaveError where something cannot be written, unless train.on_save_error says to continue; UserCodeError
        where code of the user's fails, or KeyboardInterrupt where it raises one; NonFiniteError by train.on_nonfinite.
        Of all four the message says what is saved.
        """
        if self.step == 0:
            seed_all(self.config.seed)
        train_mode(self.components)
        with (
            closing(MetricsFile(self.config.train.run_dir / METRICS)) as metrics,
            RunProgress(self.console, self.step, self.horizon.total_steps) as progress,
            Interruption() as interruption,
            self.saving,
            rescuing(self, interruption),
            self.batches,
        ):
            self._train(metrics, progress, interruption)
        if interruption.signal is not None and (self.evaluation_is_due or not self._is_over()):
            self._stop(interruption.signal)
        for line in [*self._off_plan(), *self.saving.missing_best()]:
            self.log(line)
        if self.config.train.pictures:
            self._draw()
        return Result(self.config.train.run_dir, self.step, self.metrics)

    def _train(self, metrics: MetricsFile, progress: RunProgress, interruption: Interruption) -> None:
        """Run the updates. What is due after one comes in this order: metrics, checkpoint, evaluation."""
        train = self.config.train
        self.begun = self.step
        if self.evaluation_is_due:  # the checkpoint that the run resumes from was written before it
            self._evaluate_and_keep(metrics, written_evaluation(metrics.path, self.step))
        steps = range(self.step, self.horizon.total_steps)
        reports = training_loop(
            self.objective, self.components, self.batches, self.learner, steps, train.log_every, self.device
        )
        for update in reports:
            self.step = update.step + 1
            self.evaluation_is_due = self.data.held_out is not None and self._due(train.eval_every)
            if self.step == self.begun + 1:  # before there is much to lose: the optimizers have their state now
                self.contents.check(self.step)
            if update.logged:
                with user_code("a metric"):
                    line = training_line(update, progress.rate(update.step))
                self._write(metrics, line)
                progress.show(update)
            if self._is_over() or self.saving.due(self.step):
                self.save(is_last=self._is_over())
                if self._is_over():
                    self.saving.wait()  # the last checkpoint is there before an evaluation can fail
            if self.evaluation_is_due and interruption.signal is None:
                self._evaluate_and_keep(metrics)
            if self.step == self.begun + NOTICED_AFTER:
                for notice in self._off_plan():
                    self.log(notice)
            if interruption.signal is not None:  # one that comes later than this is for the next update
                if not self.saving.holds(self.step):
                    self.save(is_last=True)
                break

    def evaluate(self) -> dict[str, float]:
        """Return losses and metrics on the held-out data; training goes on as if nothing had been done."""
        assert self.data.held_out is not None, "there is nothing to evaluate on"
        averaged = any(switches_weights(optimizer) for optimizer in self.optimizers.values())
        with separate_rng(self.config.seed), averaged_weights(self.optimizers.values()), self.own.kept():
            return evaluate(
                self.objective,
                self.components,
                self._on_device(in_order(self.data.held_out, self.config.data.batch_size)),
                self._on_device(self._calibration_batches()) if averaged else None,
                self.learner.autocast(),
            )

    def log(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        log(self.console, line)

    def save(self, is_last: bool = False) -> None:
        """Write a checkpoint of this moment, or let it be written. is_last: of the run.

        Raises SaveError; UnsavableError; NonFiniteError by train.on_nonfinite.
        """
        if self.config.train.on_nonfinite == "stop":
            check_weights(self.components)
        with averaged_weights(self.optimizers.values()):
            progress = Progress(self.step, saved_values(self))
            files = {**self.contents.make(progress), **self.own.files()}
            self.saving.save(self.step, files, is_last)

    def restore(self, folder: Path) -> None:
        """Go to where the checkpoint in `folder` stands.

        Raises ConfigError if the config differs from its, and resume.on_change does not say what then.
        """
        restore_run(self, folder)

    def _build_optimizers(self) -> dict[str, Optimizer]:
        """Return one optimizer for each trainable component in model.component_optims."""
        optimizers = {}
        for name, optim in self.config.model.component_optims.items():
            component = self.components[name]
            if is_frozen(component):
                continue
            optimizers[name] = build_optimizer(name, optim, component, self.horizon)
        for name, component in self.components.items():
            if name not in optimizers and not is_frozen(component):
                raise ConfigError(
                    f"model.component_optims: no entry for component {name!r}, which is trainable."
                    f" Add one, or set model.components.{name}.freeze to true."
                )
        if not optimizers:
            raise ConfigError("model.components: every one is frozen; there is nothing to train")
        return optimizers

    def _shuffled(self, workers: int = 0, pin_memory: bool = False) -> ShuffledBatches:
        if pin_memory and self.device.type != "cuda":
            raise ConfigError(f"data.pin_memory: is for a CUDA device; the run's is {self.device}. Set it to false.")
        data, rules = self.config.data, (self.config.data.drop_last, self.config.train.accumulate, workers, pin_memory)
        return ShuffledBatches(self.data.train, data.batch_size, self.config.seed, *rules)

    def _stop(self, number: signal.Signals) -> NoReturn:
        self.saving.check_written(self.step)
        way_on = f"`{resume_command(self.config.train.run_dir)}` continues there"
        raise StoppedBySignal(f"{number.name}: stopped after {counted(self.step, 'update')}; they are saved; {way_on}")

    def _draw(self) -> None:
        run_dir = self.config.train.run_dir
        with writing(run_dir), user_code(f"the run is done and saved; drawing {run_dir / METRICS}"):
            for path in draw_pictures(run_dir):
                self.log(f"drew {path}")

    def _write(self, metrics: MetricsFile, line: dict[str, Any]) -> None:
        try:
            metrics.write(line)
        except OSError as error:
            self.saving.failed(f"{metrics.path}: cannot be written: {error.strerror}", error)

    def _evaluate_and_keep(self, metrics: MetricsFile, written: Mapping[str, float] | None = None) -> None:
        """Evaluate, tell the schedules that wait for it, and keep the checkpoint if it is the best so far.

        written: what the evaluation gave, if the run was stopped just after it was written.
        """
        if written is None:
            with user_code("the evaluation"):
                self.metrics = self.evaluate()
            epoch = (self.step - 1) // self.batches.steps_per_epoch
            self._write(metrics, {"split": "held_out", "step": self.step, "epoch": epoch, **self.metrics})
        else:
            self.metrics = dict(written)
        report(self.optimizers.values(), self.metrics)
        self.log(evaluation_text(self.step, self.metrics))
        self.evaluation_is_due = False
        if self.saving.is_best(self.step, self.metrics):
            if self.saving.holds(self.step):
                self.saving.keep_as_best()
            else:
                self.save()

    def _off_plan(self) -> list[str]:
        return off_plan(self.learner, range(self.begun, self.step))

    def _is_over(self) -> bool:
        return self.step == self.horizon.total_steps

    def _due(self, every: int | None) -> bool:
        return self._is_over() or (every is not None and self.step % every == 0)

    def _calibration_batches(self) -> Iterator[Batch]:
        batches = self._shuffled()
        in_turn = chain.from_iterable(map(batches.of_update, range(batches.steps_per_epoch)))
        return islice(in_turn, CALIBRATION_BATCHES)

    def _on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (on_device(batch, self.device) for batch in batches)


def _in_place(config: ExperimentConfig) -> ExperimentConfig:
    """Return `config` with the whole path of its run directory: users' code may change the working directory."""
    train = config.train.model_copy(update={"run_dir": config.train.run_dir.absolute()})
    return config.model_copy(update={"train": train})
