"""The evaluations of a run: on the held-out samples, and by the policy's episodes in an environment."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self

from .checkpoint.save_errors import writing
from .distributed.agreement import Agreement
from .distributed.outcomes import by_main, failing_together
from .distributed.placement import gathered
from .errors import user_code
from .interfaces.objective import HELD_OUT_PREFIX, TRAIN_PREFIX, Outcome
from .loop.averaged_weights import averaged_weights, switches_weights
from .loop.batch_norm import calibration_batches
from .loop.evaluation import evaluate, evaluation_mode, named_values
from .loop.metric_monitors import MetricSource, check_monitors, monitored, observe
from .loop.policy_evaluation import EvaluationStoppedError, PolicyEvaluation, mean_metrics
from .reporting.metrics_file import HELD_OUT, episodes_text, evaluation_text
from .reporting.metrics_log import MetricsLog
from .run import Run
from .runtime.rng import separate_rng
from .simulation.rollout_pictures import FRAMES, PICTURED, draw_rollouts

EPISODES = "episodes"
"""The kind of evaluation beside HELD_OUT."""


class Evaluations:
    """Evaluates a run. Used as a context, it closes the environment at the end.

    Args:
        run: The run. Its parts are prepared.
        outcome: Losses and metrics of a batch.

    Raises:
        ConfigError: The policy and the environment do not fit together; or something waits for a metric that will
            never come.
    """

    def __init__(self, run: Run, outcome: Outcome) -> None:
        train = run.config.train
        self._run, self._policy = run, None
        self._sources: dict[str, MetricSource] = {}
        waiting = monitored(run.config, run.optimizers)
        trained = [TRAIN_PREFIX + name for name in named_values(outcome)]
        if run.data.held_out is not None:
            names = list(named_values(outcome))
            self._sources[HELD_OUT] = MetricSource(names, train.eval_every, "train.eval_every")
        if train.evaluation is not None:
            self._policy = PolicyEvaluation(train.evaluation, run.objective, run.world)
            known = {HELD_OUT_PREFIX + name for source in self._sources.values() for name in source.metrics}
            wanted = [name.removeprefix(HELD_OUT_PREFIX) for _, name in waiting if name not in known.union(trained)]
            with run.own_state.kept(), gathered(run.components.values()), failing_together(run.world):
                names = self._policy.check(run.components, run.config.seed, wanted)
            self._sources[EPISODES] = MetricSource(names, train.evaluation.every, "train.evaluation.every")
            if train.keep_best is not None and train.keep_best.metric in names:
                run.checkpoints.best.evaluation = train.evaluation.settings
            if train.early_stopping is not None and train.early_stopping.metric in names:
                run.early_stopping.evaluation = train.evaluation.settings
        check_monitors(waiting, list(self._sources.values()), trained, run.horizon.total_steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._policy is not None:
            self._policy.environment.close()

    def are_due(self) -> bool:
        """Return whether an evaluation comes after the present update."""
        return bool(self._due())

    def on_held_out(self) -> dict[str, float]:
        """Return losses and metrics on the held-out data. Training is not affected."""
        run = self._run
        assert run.data.held_out is not None, "there is nothing to evaluate on"
        with self._evaluating():
            split, batch_size = run.data.held_out, run.config.data.batch_size
            return evaluate(run.objective, run.components, split, batch_size, run.world)

    def in_environment(self, stops: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Return the metrics of the policy's episodes in the environment. Training is not affected.

        Args:
            stops: Whether the run was asked to stop.

        Raises:
            EvaluationStoppedError: It was.
        """
        run = self._run
        assert self._policy is not None, "there is no environment to evaluate in"
        with self._evaluating(), gathered(run.components.values()):
            return mean_metrics(self._policy.episodes(run.components, run.config.seed, stops))

    def evaluate_and_keep(
        self, metrics: MetricsLog, agreement: Agreement, written: Mapping[str, float] | None = None
    ) -> None:
        """Evaluate, report the metrics to the schedules that wait for them, and keep the best checkpoint.

        If a signal comes while the policy acts, the evaluation stays due.

        Args:
            metrics: Where the metrics go.
            agreement: Whether a signal has come.
            written: The metrics of this evaluation, if the run was stopped just after it.
        """
        run = self._run
        if written is None:
            try:
                found = self._evaluate_due(agreement.stop_requested)
            except EvaluationStoppedError:
                return
            run.metrics = _joined(found)
            epoch = (run.step - 1) // run.batches.steps_per_epoch
            if run.metrics:  # a resume may have taken away the evaluation that was due
                line = {"split": HELD_OUT, "step": run.step, "epoch": epoch, **run.metrics}
                by_main(run.world, lambda: metrics.write(line))
        else:
            run.metrics, found = dict(written), self._by_kind(written)
        trained = run.train_means.means()
        run.train_means.begin_again()
        monitored_values = {HELD_OUT_PREFIX + name: value for name, value in run.metrics.items()} | trained
        observe(run.updater.training_optimizers(run.step), monitored_values)
        measured = run.metrics | trained
        run.early_stopping.observe(run.step, measured)
        self._log(found)
        run.evaluation_is_due = False
        if run.checkpoints.best.observe(run.step, measured):
            if run.checkpoints.holds(run.step):
                run.checkpoints.keep_as_best()
            else:
                run.save()

    def draw(self) -> None:
        """Draw and record the episodes of the policy, as the config asks, when the run is done."""
        run, policy = self._run, self._policy
        picture, videos = run.config.train.pictures, 0 if policy is None else policy.config.video
        run_dir, count = run.config.train.run_dir, max(videos, PICTURED if picture else 0)
        if policy is None or count == 0:
            return
        with user_code("recording episodes"), self._evaluating(), gathered(run.components.values()), writing(run_dir):
            if not run.world.is_main:
                return  # it has helped to gather the weights
            episodes = policy.recorded(run.components, run.config.seed, count, FRAMES)
            for line in draw_rollouts(run_dir, episodes, picture, videos):
                run.log(line)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Run the body, an evaluation, at averaged weights; afterwards everything is as before."""
        run, optimizers = self._run, self._run.optimizers.values()
        averages = any(switches_weights(optimizer) for optimizer in optimizers)
        seed = run.world.evaluation_seed(run.config.seed)
        with separate_rng(seed), averaged_weights(optimizers, run.averages), run.own_state.kept():
            calibration = calibration_batches(run.config, run.data.train, run.world) if averages else None
            with evaluation_mode(run.objective, run.components, calibration, run.updater.autocast(), run.world):
                yield

    def _due(self) -> list[str]:
        """Return the kinds of evaluations that come after the present update."""
        step, is_over = self._run.step, self._run.step == self._run.horizon.total_steps
        return [
            kind
            for kind, source in self._sources.items()
            if is_over or (source.every is not None and step % source.every == 0)
        ]

    def _evaluate_due(self, stops: Callable[[], bool]) -> dict[str, dict[str, float]]:
        """Return the metrics of the evaluations that come after this update, by kind; all, if the run ends by them."""
        # The run may be resumed, with other cadences, between a checkpoint and the evaluation after it.
        found = self._evaluate(self._due() or self._sources, stops)
        if self._run.early_stopping.ends_with(self._run.step, _joined(found) | self._run.train_means.means()):
            found |= self._evaluate([kind for kind in self._sources if kind not in found], stops)
        return found

    def _evaluate(self, kinds: Iterable[str], stops: Callable[[], bool]) -> dict[str, dict[str, float]]:
        """Return the metrics of these kinds of evaluations, the same in all processes."""
        found = {}
        for kind in kinds:
            with user_code("the evaluation") if kind == HELD_OUT else nullcontext():
                found[kind] = self.on_held_out() if kind == HELD_OUT else self.in_environment(stops)
        same: dict[str, dict[str, float]] = self._run.world.from_main(found)  # a rule that compares needs the same bits
        return same

    def _by_kind(self, written: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return the metrics of an evaluation, as they were written, by kind."""
        if "return" not in written:
            return {HELD_OUT: dict(written)}
        names = self._sources[HELD_OUT].metrics if HELD_OUT in self._sources else ()
        return {
            HELD_OUT: {name: value for name, value in written.items() if name in names},
            EPISODES: {name: value for name, value in written.items() if name not in names},
        }

    def _log(self, found: Mapping[str, Mapping[str, float]]) -> None:
        run = self._run
        if held_out := found.get(HELD_OUT):
            run.log(evaluation_text(run.step, held_out))
        if (episodes := found.get(EPISODES)) and (policy := self._policy) is not None:
            run.log(episodes_text(run.step, policy.config.n_episodes, policy.environment.name, episodes))


def _joined(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: value for values in found.values() for name, value in values.items()}
