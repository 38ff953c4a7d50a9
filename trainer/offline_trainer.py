"""The story of a run, top to bottom: build everything, train, evaluate, save, draw."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch.optim import Optimizer

from trainer import checkpoint
from trainer.batches import ShuffledBatches
from trainer.component_optimizer import component_optimizer
from trainer.config import ExperimentConfig
from trainer.data import Batch, DataSet, in_order
from trainer.errors import ConfigError
from trainer.evaluation import (
    evaluate,
    is_schedule_free,
    named_values,
    train_at_training_weights,
    trainable_batch_norms,
    weights_to_keep,
)
from trainer.interruption import Interruption, StoppedBySignal
from trainer.learner import Learner
from trainer.metrics import METRICS, MetricsFile, evaluation_text, training_line
from trainer.model import build_components, is_frozen, train_mode
from trainer.monitors import check_monitors, report
from trainer.objective import Objective
from trainer.own_state import OwnState
from trainer.parts import load_part_optimizers
from trainer.pictures import draw_pictures, require_plotting
from trainer.plan import plan
from trainer.progress import RunProgress
from trainer.provenance import provenance, say_what_differs
from trainer.rehearsal import rehearse
from trainer.restoring import changes, lasting, refuse, restore_components, table
from trainer.rng import seed_all, separate_rng, set_rng_state
from trainer.saving import Saving, writing
from trainer.updates import on_device, updates
from trainer.upgrades import brought_up

CALIBRATION_BATCHES = 50
"""Training batches that BatchNorm statistics are measured over before an evaluation at averaged weights."""


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
        self.config, self.console = config, console
        self.device = _device(config.train.device)
        if config.train.pictures:
            require_plotting("train.pictures")
        self.data: DataSet = config.data.make("data")
        self.batches = self._shuffled(config.data.workers, config.data.pin_memory)
        self.horizon = config.train.horizon(self.batches.steps_per_epoch)
        self.components = build_components(config.model, config.seed, not resumed, self.say).to(self.device)
        self.optimizers = self._build_optimizers()
        if not resumed:
            load_part_optimizers(config.model, self.optimizers, self.say)
        train_at_training_weights(self.optimizers.values())
        self.objective: Objective = config.train.objective.make("train.objective")
        self.objective.prepare(self.components, self.data)
        train = config.train
        self.learner = Learner(self.components, self.optimizers, self.device, train.precision, train.grad_clip_norm)
        self._rehearse()
        self.own = OwnState(self.objective, self.data, self.components, config.data.workers, self.say)
        self.provenance = provenance(self.device, self.optimizers, self.data, config.seed)
        if train.compile:
            for component in self.components.values():
                component.compile()
        self.saving = Saving(train, self.say)
        self.step = 0
        self.metrics: dict[str, float] = {}

    def plan(self) -> str:
        """Return the table of components, optimizers and schedules."""
        return plan(self.config, self.components, self.optimizers, self.horizon)

    def run(self) -> Result:
        """Train from where the trainer stands to the end; write metrics, checkpoints and pictures.

        The first SIGINT or SIGTERM ends the run after the update and its checkpoint, with StoppedBySignal.
        Raises SaveError where something cannot be written, unless train.on_save_error says to go on.
        """
        train = self.config.train
        steps = range(self.step, self.horizon.total_steps)
        if self.step == 0:
            seed_all(self.config.seed)
        train_mode(self.components)
        reports = updates(
            self.objective, self.components, self.batches, self.learner, steps, train.log_every, self.device
        )
        with (
            self.batches,
            closing(MetricsFile(train.run_dir / METRICS)) as metrics,
            RunProgress(self.console, self.step, self.horizon.total_steps) as progress,
            Interruption() as interruption,
            self.saving,
        ):
            for update in reports:
                self.step = update.step + 1
                if update.logged:
                    self._write(metrics, training_line(update, progress.rate(update.step)))
                    progress.show(update)
                is_best = self._due(train.eval_every) and self._evaluated(metrics, update.epoch)
                ends = interruption.signal is not None or self._is_over()
                if ends or is_best or self.saving.due(self.step):
                    self.save(is_last=ends)
                    if interruption.signal:  # one that comes later than this is for the next update
                        break
        if not self._is_over():
            self._stop(interruption)
        if train.pictures:
            self._draw()
        return Result(train.run_dir, self.step, self.metrics)

    def evaluate(self) -> dict[str, float]:
        """Return losses and metrics on the held-out data; training goes on as if nothing had been done."""
        assert self.data.held_out is not None, "there is nothing to evaluate on"
        averaged = any(is_schedule_free(optimizer) for optimizer in self.optimizers.values())
        with separate_rng(self.config.seed), weights_to_keep(self.optimizers.values()), self.own.kept():
            return evaluate(
                self.objective,
                self.components,
                self._on_device(in_order(self.data.held_out, self.config.data.batch_size)),
                self._on_device(self._calibration_batches()) if averaged else None,
                self.learner.autocast(),
            )

    def say(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def save(self, is_last: bool = False) -> None:
        """Write a checkpoint of this moment, or let it be written. is_last: of the run. Raises SaveError."""
        values = {
            "data": self._data_position(),
            "horizon": {"total_steps": self.horizon.total_steps, "steps_per_epoch": self.horizon.steps_per_epoch},
            "components": {name: "trains" if name in self.optimizers else "frozen" for name in self.components},
            "config": lasting(self.config, self.optimizers, self.horizon),
            "scaler": self.learner.state_dict(),
            "best": self.saving.best,
            "provenance": self.provenance,
        }
        with weights_to_keep(self.optimizers.values()):
            progress = checkpoint.Progress(self.step, values)
            files = checkpoint.contents(self.components, self.optimizers, progress) | self.own.files()
            self.saving.save(self.step, files, is_last)

    def restore(self, folder: Path) -> None:
        """Go to where the checkpoint in `folder` stands.

        Raises ConfigError if the config differs from its, and resume.on_change does not say what then.
        """
        on_change = self.config.resume.on_change
        try:
            progress = checkpoint.read_progress(folder)
            if progress.step > self.horizon.total_steps:
                rule = f"must be >= {progress.step}, the updates done; got {self.horizon.total_steps}"
                raise ConfigError(f"train.total_steps: {rule}")
            now = {"data": self._data_position(), "config": lasting(self.config, self.optimizers, self.horizon)}
            with checkpoint.expected_content(folder / checkpoint.TRAINER):
                rows = changes(brought_up(progress.values, self.config), now)
            if on_change not in ("override", "rescale"):
                refuse(rows, on_change, progress.values, self.config)
            else:
                rows_told = table(rows) or "  nothing"
                self.say(f"resume.on_change={on_change}; what differs from the checkpoint:\n{rows_told}")
            restore_components(folder, self.components, self.optimizers, rows, on_change, self.say)
            with checkpoint.expected_content(folder):
                train_at_training_weights(self.optimizers.values())
            self.own.restore(folder, progress, [row[0] for row in rows], on_change, self.device)
            say_what_differs(progress.values["provenance"], self.provenance, self.data, self.config.seed, self.say)
            with checkpoint.expected_content(folder / checkpoint.TRAINER):
                self.learner.load_state_dict(progress.values["scaler"])
                self.saving.take_best(progress.values["best"])
                set_rng_state(checkpoint.read_rng(folder))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.step = progress.step

    def _build_optimizers(self) -> dict[str, Optimizer]:
        """Return one optimizer for each trainable component in model.component_optims."""
        optimizers = {}
        for name, optim in self.config.model.component_optims.items():
            component = self.components[name]
            if is_frozen(component):
                continue
            optimizers[name] = component_optimizer(name, optim, component, self.horizon)
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
        data, seed, accumulate = self.config.data, self.config.seed, self.config.train.accumulate
        rules = data.drop_last, accumulate, workers, pin_memory
        return ShuffledBatches(self.data.train, data.batch_size, seed, *rules)

    def _rehearse(self) -> None:
        samples = torch.arange(min(2, len(self.data.train)))
        with separate_rng(self.config.seed):
            outcome = rehearse(self.objective, self.components, on_device(self.data.train.batch(samples), self.device))
        evaluates, total = self.data.held_out is not None, self.horizon.total_steps
        check_monitors(self.config, self.optimizers, named_values(outcome), evaluates, total)
        if self.batches.smallest_batch == 1 and any(trainable_batch_norms(self.components)):
            raise ConfigError(
                "data: the last batch of an epoch has one sample, over which BatchNorm cannot normalise."
                " Set data.drop_last to true, or change data.batch_size."
            )

    def _stop(self, interruption: Interruption) -> NoReturn:
        assert interruption.signal is not None, "else the run would have gone on"
        self.saving.check_written(self.step)
        raise StoppedBySignal(f"{interruption.signal.name}: stopped after {self.step} updates; they are saved")

    def _draw(self) -> None:
        run_dir = self.config.train.run_dir
        with writing(run_dir):
            for path in draw_pictures(run_dir):
                self.say(f"drew {path}")

    def _write(self, metrics: MetricsFile, line: dict[str, Any]) -> None:
        try:
            metrics.write(line)
        except OSError as error:
            self.saving.failed(f"{metrics.path}: cannot be written: {error.strerror}", error)

    def _evaluated(self, metrics: MetricsFile, epoch: int) -> bool:
        """Evaluate, if there is held-out data, tell whom it concerns, and return whether it is the best so far."""
        if self.data.held_out is None:
            return False
        self.metrics = self.evaluate()
        report(self.optimizers.values(), self.metrics)
        self._write(metrics, {"split": "held_out", "step": self.step, "epoch": epoch, **self.metrics})
        self.say(evaluation_text(self.step, self.metrics))
        return self.saving.is_best(self.step, self.metrics)

    def _is_over(self) -> bool:
        return self.step == self.horizon.total_steps

    def _due(self, every: int | None) -> bool:
        return self._is_over() or (every is not None and self.step % every == 0)

    def _calibration_batches(self) -> Iterator[Batch]:
        batches = self._shuffled()
        for batch in islice(
            chain.from_iterable(map(batches.of_update, range(batches.steps_per_epoch))), CALIBRATION_BATCHES
        ):
            if len(next(iter(batch.values()))) > 1:  # one sample has no variance
                yield batch

    def _on_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (on_device(batch, self.device) for batch in batches)

    def _data_position(self) -> dict[str, int]:
        return {
            "samples": len(self.data.train),
            "steps_per_epoch": self.batches.steps_per_epoch,
            "epoch": self.step // self.batches.steps_per_epoch,
            "batch": self.step % self.batches.steps_per_epoch,
        }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device: no such device; got {name!r}. Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"train.device: this machine has no {name}. Use auto or cpu.")
    return device
