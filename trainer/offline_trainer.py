"""The story of a run, top to bottom: build everything, train, evaluate, save, draw."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from torch.optim import Optimizer

from .checkpoint.contents import Progress
from .checkpoint.dry_save import CheckedContents
from .checkpoint.fingerprint import run_fingerprint
from .checkpoint.init_from import init_optimizers
from .checkpoint.manager import CheckpointManager
from .checkpoint.own_state import OwnState
from .checkpoint.provenance import provenance
from .checkpoint.savable import check_lengths
from .checkpoint.save_errors import writing
from .config.placed import naming_places
from .config.schema import ExperimentConfig
from .distributed.agreement import Agreement
from .distributed.outcomes import by_main, failing_together
from .distributed.placement import is_sharded
from .distributed.world import World
from .errors import SaveError, UserCodeError, user_code
from .evaluations import Evaluations
from .interfaces.component import is_frozen, train_mode
from .interfaces.dataset import DataSet
from .interfaces.objective import Objective, Outcome
from .loop.averaged_weights import MovingAverages, averaged_weights, train_at_training_weights
from .loop.batches import shuffled_batches
from .loop.data_checks import check_means, check_pin_memory, check_splits
from .loop.early_stopping import EarlyStopping
from .loop.gradient_updates import GradientUpdater
from .loop.loop import training_loop
from .loop.metric_monitors import monitored
from .loop.nonfinite import check_weights
from .loop.rules import Rules
from .loop.step_counts import NOTICED_AFTER, step_count_notices
from .loop.train_means import TrainMeans
from .reporting.metrics_file import written_evaluation
from .reporting.metrics_log import MetricsLog, sink_classes
from .reporting.plan import Plan, plan_of
from .reporting.plan_table import plan_text
from .reporting.plot_files import require_plotting
from .reporting.progress_bar import RunProgress
from .reporting.run_plots import draw_pictures
from .reporting.run_status import RunStatus
from .reporting.run_summary import Ending, show_summary
from .reporting.tables import fit_lines
from .reporting.timeline import CHECKPOINT, EVALUATION, PICTURES, Timeline
from .reporting.training_lines import TrainingLines
from .rescue import early_end, rescuing, signal_error
from .resuming import restore_run, saved_values
from .run import Result
from .run_layout import METRICS, TIMELINE
from .runtime.rng import seed_all, separate_rng
from .runtime.signals import Interruption
from .runtime.terminal import log, on_terminal
from .same_run import check_same_data, check_same_run, check_same_state, check_same_steps
from .setup.components import build_components, compile_components
from .setup.dry_run import dry_run_smallest_batch, prepare_components
from .setup.initial_weights import Loaded
from .setup.optimizers import build_optimizer, check_each_trains
from .setup.placing import device_before, place_components
from .setup.policy import completed
from .setup.preset_groups import with_group_rules
from .setup.roles import check_roles


class OfflineTrainer:
    """Trains the components of a config on a fixed data set. Building it writes nothing.

    Args:
        config: The experiment.
        console: Where lines are printed.
        resumed: Whether `restore` comes next, so that no component needs to be initialised from elsewhere.
        world: The place of this process among those that train the run; left out, the only one.

    Raises:
        ConfigError: Something in the config cannot work.
    """

    @naming_places
    def __init__(
        self, config: ExperimentConfig, console: Console, resumed: bool = False, world: World | None = None
    ) -> None:
        self.config = config = config.in_place()
        self.world = (world or World()).on(config.train.device)
        self.timeline = Timeline(config.train.run_dir / TIMELINE if self.world.is_main else None)
        self.console = self.world.console(console)
        train = config.train
        check_lengths(train.run_dir, config.model.config_paths)
        if train.pictures:
            require_plotting("train.pictures")
        self.sinks = sink_classes(train.log)
        self.data: DataSet = config.data.make("data")
        check_splits(self.data)
        check_pin_memory(config.data, self.world.device)
        self.batches = shuffled_batches(config, self.data.train, self.world, ahead=True)
        self.horizon = train.horizon(self.batches.steps_per_epoch)
        self.config = config = completed(config, self.data, self.log)
        self.components, loaded = build_components(config.model, config.seed, not resumed, self.log)
        self.objective: Objective = train.objective.make("train.objective")
        check_means(self.objective, train.accumulate, self.data.held_out, config.data.batch_size, self.world.size)
        outcome = self._prepare(loaded)
        self.optimizers = self._build_optimizers()
        self.fingerprint = run_fingerprint(self.config, self.optimizers, self.horizon)
        self.averages = self._averages(resumed)
        trained, rules = (self.components, self.optimizers), self._rules()
        self.updater = GradientUpdater(*trained, self.world, rules, self.averages, self.log)
        self.contents = CheckedContents(*trained, self.averages, self.world)
        self.own_state = OwnState(self.objective, self.data, self.components, config.data.workers, self.log)
        self.checkpoints = CheckpointManager(train, self.log, self.world)
        self.early_stopping = EarlyStopping(train.early_stopping, self.log)
        self.train_means = TrainMeans(name for _, name in monitored(self.config, self.optimizers))
        self.evaluations = Evaluations(self, outcome)
        self.provenance = provenance(self.world.device, self.optimizers, self.data, config.seed)
        check_same_data(self.world, self.data, self.provenance["data"], config.seed)
        if train.compile:
            compile_components(self.components)
        self.step = self.begun = 0
        self.metrics: dict[str, float] = {}
        self.evaluation_is_due = False

    def plan(self) -> Plan:
        """Return the plan of the run."""
        return plan_of(self)

    def run(self) -> Result:
        """Train from the present step to the end; write metrics, checkpoints and pictures.

        The first signal that asks for it ends the run after the update and its checkpoint. The message of each
        exception names the checkpoint that is there.

        Raises:
            StoppedBySignal: A signal ended the run early.
            SaveError: Something cannot be written, unless train.on_save_error is "continue".
            UserCodeError: The user's code fails.
            KeyboardInterrupt: The user's code raised one, or a second signal came.
            NonFiniteError: A value is not finite, by train.on_nonfinite.
        """
        if self._is_over():  # no update comes: the files stay as they are
            self.timeline = Timeline(None)
        about = {
            "total_steps": self.horizon.total_steps,
            "plan": plan_text(self.plan()),
            "processes": self.world.size,
            **{name: self.provenance[name] for name in ("innerstep", "torch", "device")},
        }
        with self.timeline.recording(lambda: self.step, about):
            return self._run()

    def _run(self) -> Result:
        config, run_dir = self.config, self.config.train.run_dir
        if self.step == 0:
            seed_all(config.seed)
        train_mode(self.components)
        sinks = self.sinks if self.world.is_main else {}
        interruption = Interruption(self.world.is_alone)
        clock, checks = self.checkpoints.due_by_clock, (self.updater.check_met, self.updater.check_steps)
        with (
            MetricsLog(sinks, run_dir, self.step, self.checkpoints.failed) as metrics,
            self._progress() as progress,
            interruption,
            self.checkpoints,
            rescuing(self, interruption),
            TrainingLines(self.world, metrics, progress, self.train_means.observe) as lines,
            self.batches,
            self.evaluations,
        ):
            delivery = (lines.write, lambda: lines.need_all)
            agreement = Agreement(self.world, interruption, clock, self.step, *checks, *delivery)
            self._train(metrics, lines, progress, agreement)
        is_done = self._is_over() or self.early_stopping.is_over
        if agreement.signal is not None and (self.evaluation_is_due or not is_done):
            error = signal_error(self, agreement.signal)
            self._summarize(progress, f"stopped by {agreement.signal.name}", resumes=True)
            raise error
        self._finish(progress)
        return Result(run_dir, self.step, self.metrics)

    def _train(self, metrics: MetricsLog, lines: TrainingLines, progress: RunProgress, agreement: Agreement) -> None:
        """Run the updates. What is due after one comes in this order: metrics, checkpoint, evaluation.

        All processes of the run take each branch, or none does.
        """
        train, world = self.config.train, self.world
        self.begun = self.step
        self._evaluate_first(metrics, progress, agreement)
        if self.evaluation_is_due or self.early_stopping.is_over:
            return
        steps = range(self.step, self.horizon.total_steps)
        parts = (self.objective, self.components, self.batches, self.updater)
        every = 1 if self.train_means.are_waited_for else train.log_every
        for update in training_loop(*parts, steps, every, world, self.config.seed):
            self.step = update.step + 1
            self.evaluation_is_due = self.evaluations.are_due()
            if self.step == self.begun + 1:  # before there is much to lose: the optimizers have their state now
                self.updater.check_steps()
                self.contents.check(self.step)
                check_same_state(self, saved_values(self))
            if update.logged:
                lines.add(update, update.step % train.log_every == 0 or self._is_over())
            if lines:
                with agreement.failing_later():
                    lines.write_arrived()
            agreement.after_update(self.step)
            saves = self._is_over() or self.checkpoints.due(self.step) or agreement.save_is_due
            if saves or self.evaluation_is_due:
                self._save_and_evaluate(saves, metrics, progress, agreement)
            if self.step == self.begun + NOTICED_AFTER:
                for notice in self._step_count_notices():
                    self.log(notice)
            if agreement.signal is not None:  # one that comes later than this is for the next update
                self._save_last()
                agreement.exchange()  # one process alone may have failed to write the last lines
                break
            if self.early_stopping.is_over:
                break

    def _evaluate_first(self, metrics: MetricsLog, progress: RunProgress, agreement: Agreement) -> None:
        """Evaluate, if the checkpoint that the run resumes from was written before its evaluation."""
        if self.evaluation_is_due:
            path = self.config.train.run_dir / METRICS
            written = by_main(self.world, lambda: written_evaluation(path, self.step))
            self._evaluate(metrics, progress, agreement, written)
        if self.evaluation_is_due:  # a signal has stopped it
            agreement.exchange()

    def _save_and_evaluate(self, saves: bool, metrics: MetricsLog, progress: RunProgress, agreement: Agreement) -> None:
        """Save and evaluate after an update, each if it is due. A signal that came meanwhile is known afterwards."""
        if saves:
            agreement.catch_up()
            self.save(is_last=self._is_over())
            if self._is_over():
                self.checkpoints.wait()  # the last checkpoint is there before an evaluation can fail
        agreement.exchange()
        if self.evaluation_is_due and agreement.signal is None:
            self._evaluate(metrics, progress, agreement)
            if self.early_stopping.is_over:
                agreement.catch_up()
                self._save_last()
            agreement.exchange()

    def _evaluate(
        self,
        metrics: MetricsLog,
        progress: RunProgress,
        agreement: Agreement,
        written: Mapping[str, float] | None = None,
    ) -> None:
        """Evaluate, unless a signal comes meanwhile. written: the metrics, if it was done before a resume."""
        progress.catch_up()
        with self.timeline.timing(EVALUATION, self.step):
            self.evaluations.evaluate_and_keep(metrics, agreement, written)
        if not self.evaluation_is_due:
            progress.evaluated(self.step, self.metrics, self.checkpoints.best.record)

    def _progress(self) -> RunProgress:
        """Return the progress of the run from the present step on, which learns of each checkpoint."""
        samples = (self.batches.batches_per_epoch - 1) * self.config.data.batch_size + self.batches.smallest_batch
        status = RunStatus(self.step, self.horizon, samples)
        status.take_best(self.checkpoints.best.record)
        progress = RunProgress(self.console, status, self.world.device)
        self.checkpoints.on_saved = progress.saved
        return progress

    def _summarize(self, progress: RunProgress, reason: str, resumes: bool = False) -> None:
        if self.world.is_main:
            progress.status.step = self.step
            ending = Ending(reason, resumes, self.checkpoints.latest, self.checkpoints.best.folder)
            show_summary(self.console, ending, progress.status, self.config)

    def _finish(self, progress: RunProgress) -> None:
        """End a run that is done: notices, pictures, and the summary."""
        for line in [*self._step_count_notices(), *self.checkpoints.best.missing(), *early_end(self)]:
            self.log(line)
        with self.timeline.timing(PICTURES, self.step):
            self._draw()
        self._summarize(progress, "done" if self._is_over() else "ended early")

    def _draw(self) -> None:
        """Draw the metrics and the policy's episodes, as the config asks."""
        run_dir = self.config.train.run_dir
        try:
            if self.config.train.pictures and self.world.is_main:
                with user_code(f"drawing {run_dir / METRICS}"), writing(run_dir):
                    for path in draw_pictures(run_dir):
                        self.log(f"drew {path}")
            self.evaluations.draw()
        except (SaveError, UserCodeError) as error:
            raise type(error)(f"the run is done and saved; {error}") from error.__cause__

    def log(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        log(self.console, fit_lines(line, self.console.width if on_terminal(self.console) else None))

    def save(self, is_last: bool = False) -> None:
        """Write a checkpoint of this moment, or start a thread that writes it.

        Args:
            is_last: Whether it is the last one of the run.

        Raises:
            SaveError: It cannot be written.
            UnsavableError: The run holds something that a checkpoint cannot hold.
            NonFiniteError: A weight is not finite, by train.on_nonfinite.
        """
        if self.config.train.on_nonfinite == "stop":
            with failing_together(self.world):  # a sharded weight is not finite in one process only
                check_weights(self.components, self.averages.named_tensors())
        with self.timeline.timing(CHECKPOINT, self.step), averaged_weights(self.optimizers.values()):
            progress = Progress(self.step, saved_values(self))
            check_same_state(self, progress.values)
            files = {**self.contents.make(progress), **self.own_state.files()}
            self.checkpoints.save(self.step, files, is_last)

    def _save_last(self) -> None:
        """Write the last checkpoint of a run that ends early, unless it is written; one that failed, again."""
        self.checkpoints.wait()
        if not self.checkpoints.holds(self.step):
            self.save(is_last=True)

    @property
    def sharded(self) -> list[str]:
        """The components whose state is spread over the processes."""
        return [name for name, component in self.components.items() if is_sharded(component)]

    def continue_alone(self) -> None:
        """Let this process save without the others, which may be gone: components that are not sharded are whole."""
        self.world = self.contents.world = self.world.alone()
        self.checkpoints.continue_alone()

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint in `folder`.

        Raises:
            ConfigError: The config differs from the checkpoint's, and resume.on_change does not name the way.
        """
        restore_run(self, folder)

    def _prepare(self, loaded: Mapping[str, Loaded]) -> Outcome:
        """Bring the components into the form and to the place in which they train; return the outcome of a batch.

        Args:
            loaded: The parameters that each `init_from` loaded.
        """
        config, device = self.config, device_before(self.config.model, self.world)
        with separate_rng(config.seed):
            given = (self.objective, self.components, self.data, config.model, loaded)
            outcome = prepare_components(*given, device)
        check_same_run(self.world, config, self.data, self.components)
        with separate_rng(config.seed):
            smallest = (self.data.train, self.batches.smallest_batch)
            dry_run_smallest_batch(self.objective, self.components, *smallest, device, self.world)
        check_roles(self.objective, config.model)
        self.config = config = with_group_rules(config, self.components)
        with separate_rng(config.seed):
            place_components(self.objective, self.components, self.data, config.model, self.world)
        return outcome

    def _build_optimizers(self) -> dict[str, Optimizer]:
        """Return one optimizer for each trainable component in model.component_optims."""
        turns = self.config.model.turns
        optimizers = {
            name: build_optimizer(name, optim, self.components[name], turns(name, self.horizon).horizon(self.horizon))
            for name, optim in self.config.model.component_optims.items()
            if not is_frozen(self.components[name])
        }
        check_each_trains(self.components, optimizers)
        check_same_steps(self.world, optimizers)
        return optimizers

    def _rules(self) -> Rules:
        return Rules.from_config(self.config, self.optimizers, self.horizon)

    def _averages(self, resumed: bool) -> MovingAverages:
        """Return the moving averages, which start at the weights that training starts at."""
        if not resumed:
            init_optimizers(self.config.model, self.optimizers, self.log)
        train_at_training_weights(self.optimizers.values())
        return MovingAverages(self.config, self.components, self.optimizers)

    def _step_count_notices(self) -> list[str]:
        return step_count_notices(self.updater, range(self.begun, self.step))

    def _is_over(self) -> bool:
        return self.step == self.horizon.total_steps
