"""`innerstep evaluate`: the episodes of a trained run's policy in an environment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimizer.config import log_imports

from .checkpoint.own_state import OwnState
from .config.evaluation import EvaluationConfig
from .config.placed import naming_places
from .config.schema import ExperimentConfig
from .errors import ConfigError, OutputError, user_code
from .interfaces.evaluation import Episode
from .loaded_run import LoadedRun, config_of_run, load_checkpoint
from .loop.policy_evaluation import PolicyEvaluation, mean_metrics
from .loop.rules import autocast
from .reporting.metrics_file import episodes_text
from .reporting.plot_files import require_plotting
from .reporting.tables import align_columns
from .run_layout import CONFIG
from .runtime.devices import device_named
from .simulation.rollout_pictures import FRAMES, PICTURED, draw_rollouts

_HEADER = ("seed", "success", "return", "steps")
_IN_LAST_LINE = ("success", "return", "episode_length")
"""Metrics of `episodes_text`."""


def evaluate_run(
    run: str | Path,
    checkpoint: str | Path,
    overrides: Mapping[str, object],
    out: Path | None,
    report: Callable[[str], None],
    allow_plugins: bool = False,
) -> None:
    """Evaluate the policy of a run by its `train.evaluation`, and report its episodes and their means.

    The data set is not needed, and nothing is written into the run. The values are those of the run's evaluation after
    the same update, unless that measured BatchNorm statistics for averaged weights, or `train.compile` is true.

    Args:
        run: The run's directory, or hf://ORG/NAME of a repository with a run.
        checkpoint: `latest`, `best`, or the folder of a checkpoint.
        overrides: Values of the config to change, by dotted key.
        out: A folder for rollouts.png, and for as many videos as `train.evaluation.video`; None: neither is made.
        report: Prints lines.
        allow_plugins: Whether a run on the hub may import the modules that its config names.

    Raises:
        ConfigError: There is no run or no checkpoint, the objective is not a policy, the run has no `train.evaluation`,
            or policy and environment do not fit together.
        UserCodeError: The environment or the policy fails.
        OutputError: A picture or a video cannot be written.
    """
    with log_imports(lambda module: report(f"{run}/{CONFIG} imports {module}")):
        config = config_of_run(run, overrides, allow_plugins)
    device = device_named(config.train.device, "train.device")
    loaded = load_checkpoint(config, checkpoint, device)
    policy = loaded.policy
    settings = _settings(config, bool({"train.evaluation", "train.evaluation.video"} & overrides.keys()), out)
    report(f"{loaded.checkpoint}:")
    with (
        user_code("the evaluation"),
        autocast(config.train.precision, device),
        PolicyEvaluation(settings, policy) as evaluation,
    ):
        _evaluate(evaluation, loaded, out, report)


def _evaluate(evaluation: PolicyEvaluation, loaded: LoadedRun, out: Path | None, report: Callable[[str], None]) -> None:
    components, seed, videos = loaded.components, loaded.config.seed, evaluation.config.video
    with OwnState(loaded.objective, None, components, 0, report).kept():
        evaluation.check(components, seed)
    if out is not None:
        with _writing(out):  # before the episodes, which may take long
            out.mkdir(parents=True, exist_ok=True)
    episodes = evaluation.episodes(components, seed)
    report("\n".join(_lines(episodes)))
    report(episodes_text(loaded.step, len(episodes), evaluation.environment.name, mean_metrics(episodes)))
    if out is not None:
        recorded = evaluation.recorded(components, seed, max(videos, PICTURED), FRAMES)
        with _writing(out):
            for line in draw_rollouts(out, recorded, picture=True, videos=videos):
                report(line)


@naming_places
def _settings(config: ExperimentConfig, asks_for_video: bool, out: Path | None) -> EvaluationConfig:
    """Return the run's `train.evaluation`; without `out`, without videos. Raises ConfigError."""
    settings = config.train.evaluation
    if settings is None:
        raise ConfigError(
            "train.evaluation: required, and this run has none. Name an environment, for example:"
            " --train.evaluation.type=gym --train.evaluation.params.id=ENVIRONMENT --train.evaluation.n_episodes=20"
        )
    if out is None:
        if asks_for_video and settings.video:
            raise ConfigError(f"train.evaluation.video: needs --out FOLDER, for the videos; got {settings.video}")
        return settings.model_copy(update={"video": 0})
    require_plotting("--out")
    return settings


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Run the body, which writes into `out`. Raises OutputError if the system refuses it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"--out: {out} cannot be written: {error}") from error


def _lines(episodes: Sequence[Episode]) -> Iterator[str]:
    """Yield the table of the episodes, and the means of the environment's own numbers."""
    outcomes = {None: "-", True: "yes", False: "no"}
    rows = [(str(one.seed), outcomes[one.success], f"{one.total_reward:.4g}", str(one.length)) for one in episodes]
    yield from align_columns([_HEADER, *rows], right=(0, 2, 3))
    others = {name: value for name, value in mean_metrics(episodes).items() if name not in _IN_LAST_LINE}
    if others:
        yield "means: " + "  ".join(f"{name} {value:.4g}" for name, value in others.items())
