"""The commands that train runs, and that use trained ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .arguments import OverridesCommand
from .completion import runs
from .contexts import importing, importing_by, interruptible, without_collection
from .options import (
    OVERRIDES,
    OVERRIDES_OF_RUN,
    TAKES_OVERRIDES,
    AnyRun,
    Checkpoint,
    Configs,
    NoPlugins,
    Plugins,
    closing,
    typed_overrides,
)

running_app = typer.Typer()


@running_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("train config.yaml --train.device=cuda", OVERRIDES),
)
def train(
    context: typer.Context,
    config: Configs,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the run directory.")
    ] = False,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Continue the run that is in the run directory, if there is one.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """Train an experiment from the start, or from where its run is."""
    from ..config.load import load_config

    overrides = typed_overrides(context)
    with importing_by(config, plugins), interruptible():
        with without_collection():
            loaded = load_config(config, overrides, allow_plugins=plugins is True)
            from ..runs import train as start
        start(
            loaded,
            overwrite=overwrite,
            or_resume=or_resume,
            source=None if "train.run_dir" in overrides else next(map(Path, _files(config)), None),
        )


@running_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("resume runs/digits", OVERRIDES_OF_RUN),
)
def resume(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            autocompletion=runs,
            metavar="RUN",
            help="A run's directory, or one of its checkpoints, or its checkpoints/best.",
        ),
    ],
    no_plugins: NoPlugins = False,
) -> None:
    """Continue a run from its newest checkpoint, or from the given one."""
    with without_collection():
        from ..runs import resume as continue_run
    with importing(no_plugins), interruptible():
        continue_run(run, typed_overrides(context))


@running_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("evaluate runs/button_press --checkpoint best", OVERRIDES_OF_RUN),
)
def evaluate(
    context: typer.Context,
    run: AnyRun,
    checkpoint: Checkpoint = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Where to draw rollouts.png, and to write train.evaluation.video videos."
        ),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Run a policy's episodes in its environment, by train.evaluation; write nothing into the run."""
    with without_collection():
        from ..run_evaluation import evaluate_run
    from ..runtime.terminal import output

    with importing_by(run, plugins), interruptible():
        evaluate_run(run, checkpoint, typed_overrides(context), out, output, plugins is True)


@running_app.command(
    cls=OverridesCommand,
    context_settings=TAKES_OVERRIDES,
    epilog=closing("export runs/digits exported --to torch", OVERRIDES_OF_RUN),
)
def export(
    context: typer.Context,
    run: AnyRun,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="torch: a script that needs torch alone; lerobot: a folder that LeRobot loads.",
        ),
    ],
    checkpoint: Checkpoint = "latest",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that is in OUT.")] = False,
    plugins: Plugins = None,
) -> None:
    """Write a trained run as files that need no innerstep."""
    from ..export_run import export_run
    from ..runtime.terminal import report

    with importing_by(run, plugins), interruptible():
        export_run(run, to, out, checkpoint, overwrite, typed_overrides(context), report, plugins is True)


@running_app.command(epilog=closing("push runs/digits my-name/digits --private"))
def push(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A run's directory, a config's file, or LeRobot's policy folder.")
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository. It is created if need be.")],
    checkpoint: Checkpoint = "latest",
    component: Annotated[
        str | None, typer.Option("--component", metavar="NAME", help="Push only this component of the run.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="The branch. It is created if need be.")
    ] = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Push a run with one checkpoint, a component of it, a config or a policy to the Hugging Face Hub."""
    from ..push import push as push_files
    from ..runtime.terminal import report

    with importing(no_plugins), interruptible():
        reference, lines = push_files(source, repository, checkpoint, component, private or None, revision)
    report("\n".join([*lines, f"pushed: {reference}"]))


def _files(configs: Sequence[str]) -> list[str]:
    """Return those of the configs that are files, with one of a run at the front."""
    from ..run_layout import CONFIG
    from ..runtime.hub import is_reference

    return sorted((one for one in configs if not is_reference(one)), key=lambda one: Path(one).name != CONFIG)
