"""`innerstep init`: a new project from a template."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from optimizer.config import listed, nearest

from ..errors import ConfigError

_CONFIG, _SCHEMA, _README, _IGNORED = "config.yaml", "config.schema.json", "README.md", ".gitignore"
_KEPT = (_README, _IGNORED)
"""Files that a project may have before."""
_SUFFIX = "-tpl"


@dataclass(frozen=True)
class _Kind:
    """A template: its folders in this package, and its part of the README."""

    title: str
    about: str
    folders: Sequence[str]
    files: Sequence[tuple[str, str]]
    """Each file with its content in words."""
    described: tuple[str, str]
    """A key of a plugin, and the parameter of an optimizer that an example changes."""
    evaluate: str
    use: str


_REACH_FILES = [("my_parts.py", "the component"), ("my_world.py", "the environment that the policy is evaluated in")]
_ACT = """import torch
from trainer import load_run

actor = load_run("{run}", "best").actor()
places = {{"observation.state": torch.zeros(1, 2), "observation.environment_state": torch.ones(1, 2)}}
print(actor.act(places))  # the action for now, (1, 2)"""
_EVALUATE = "innerstep evaluate {run} --checkpoint best   # episodes in the environment"

TEMPLATES = {
    "digits": _Kind(
        "Handwritten digits",
        "A backbone and a head learn to classify digits, with a custom objective, schedule and optimizer.",
        ["digits"],
        [("my_data.py", "the data set"), ("my_parts.py", "a component, the objective, a schedule and an optimizer")],
        ("my_head", "head.params.lr"),
        "innerstep export {run} exported --to torch      # a script that needs torch alone",
        """import torch
from trainer import load_run

run = load_run("{run}", "best")
scores = run.components["head"](run.components["backbone"](torch.zeros(1, 8, 8)))""",
    ),
    "policy": _Kind(
        "A policy that moves a point to a goal",
        "It learns from demonstrations, and is evaluated in an environment of this project.",
        ["policy", "reach"],
        [("my_data.py", "the demonstrations"), *_REACH_FILES],
        ("my_encoder", "head.params.lr"),
        _EVALUATE,
        _ACT,
    ),
    "actor-critic": _Kind(
        "An actor and a critic that move a point to a goal",
        "They learn from recorded transitions, with three optimizers, two losses and target networks.",
        ["actor-critic", "reach"],
        [("my_data.py", "the transitions"), ("my_parts.py", "a component and the objective"), _REACH_FILES[1]],
        ("my_encoder", "critic.params.lr"),
        _EVALUATE,
        _ACT,
    ),
}
"""The templates by name."""


def new_project(directory: Path, template: str, schema_of: Callable[[Path], str]) -> list[str]:
    """Write the files of a template into `directory`, which is made if it is missing.

    A README.md that is there stays, and a .gitignore gets a line for the runs.

    Args:
        directory: The project's folder.
        template: A key of TEMPLATES.
        schema_of: Returns the JSON Schema of a config, by which editors complete and check it.

    Returns:
        Lines that name the files and the next commands.

    Raises:
        ConfigError: There is no such template, a file is there already, or the folder cannot be written. Nothing is
            changed then, except that the folder may exist.
    """
    if template not in TEMPLATES:
        known = list(TEMPLATES)
        raise ConfigError(f"--template: must be one of {listed(known)}; got {template!r}{nearest(template, known)}")
    texts = dict(sorted(_texts(template)))
    there = [name for name in (*texts, _SCHEMA) if os.path.lexists(directory / name)]
    if taken := [name for name in there if name not in _KEPT]:
        raise ConfigError(
            f"{directory}: has {listed(taken)} already, and nothing is overwritten. Choose another folder:"
            " innerstep init DIRECTORY"
        )
    try:
        lines = list(_write(directory, texts, there))
        lines += _write(directory, {_SCHEMA: schema_of(directory / _CONFIG)}, there)
        return [*lines, "", *_next_commands(directory, template)]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{directory}: cannot be written: {reason}") from error


def _texts(template: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a project's files and their texts."""
    for folder in ("common", *TEMPLATES[template].folders):
        for file in files(__package__).joinpath(folder).iterdir():
            name = file.name.removesuffix(_SUFFIX)
            text = file.read_text(encoding="utf-8")
            yield name, _readme(text, template) if name == _README else text


def _readme(text: str, template: str) -> str:
    kind, run = TEMPLATES[template], f"runs/{template}"
    rows = [(_CONFIG, "components, their optimizers and schedules, and the training"), *kind.files]
    rows.append((_SCHEMA, "what an editor completes and checks config.yaml by"))
    component, changed = kind.described
    return Template(text).substitute(
        title=kind.title,
        about=kind.about,
        files="".join(f"| {name} | {content} |\n" for name, content in rows),
        run=run,
        evaluate=kind.evaluate.format(run=run),
        component=component,
        changed=changed,
        use=kind.use.format(run=run),
    )


def _write(directory: Path, texts: dict[str, str], there: Sequence[str]) -> Iterator[str]:
    """Write the files that are not there, and yield a line for each."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = directory / name
        if name not in there:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            yield f"wrote {path}"
        elif name == _IGNORED and text.strip() not in path.read_text(encoding="utf-8").split():
            before = path.read_text(encoding="utf-8")
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text if before.endswith("\n") or not before else f"\n{text}")
            yield f"added {text.strip()} to {path}"
        else:
            yield f"kept {path}, which was there"


def _next_commands(directory: Path, template: str) -> Iterator[str]:
    """Yield the commands that come next."""
    yield "Next:"
    if directory.resolve() != Path.cwd():
        yield f"  cd {shlex.quote(str(directory))}"
    yield f"  innerstep plan {_CONFIG}"
    yield f"  innerstep train {_CONFIG}"
    yield f"  innerstep resume runs/{template}    # after Ctrl-C or a kill"
