"""Converts checkpoints from and to the files of LeRobot and plain PyTorch."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from optimizer.config import counted, listed, nearest
from optimizer.state import flush, private_folder, without_sharing, write_json, write_tensors

from ...config.init_from import InitConfig
from ...config.load import load_config
from ...config.schema import ExperimentConfig
from ...errors import ConfigError
from ...run_layout import OPTIMIZER_TENSORS, OPTIMIZER_VALUES, WEIGHTS
from ...runtime.files import stat_of
from ...setup.components import build_components
from ..directory import checkpoint_at, verify
from ..init_from import find_source
from ..names import is_folder
from .external_formats import (
    PositionalState,
    lerobot_folder,
    read_lerobot,
    read_torch,
    torch_names,
    write_lerobot,
    write_torch,
)
from .positional_state import by_position, name_by_model

INNERSTEP, LEROBOT, TORCH = FORMATS = ("innerstep", "lerobot", "torch")


def convert(source: Path, out: Path, to: str, config: Path | None = None, component: str | None = None) -> list[str]:
    """Convert the components in `source` to another format, and write them into the new folder `out`.

    Args:
        source: A run, a checkpoint or a component's folder of innerstep; a checkpoint or optimizer state of LeRobot; or
            a folder of torch's files.
        out: The folder to write; it may exist if it is empty.
        to: The format to write, one of `FORMATS`.
        config: A config whose component names the parameters that `source` has by position only.
        component: The component to convert; None: all of them. For LeRobot's files, its name here.

    Returns:
        A line for each component.

    Raises:
        ValueError: The source is missing, damaged or does not fit. Nothing is written.
        OSError: A file cannot be written.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to: must be {', '.join(FORMATS)}; got {to!r}{nearest(to, FORMATS)}")
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already. Choose another folder, or remove it.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no directory {out.parent}. Make it first.")
    source_format = _detect_format(source)
    targets = " or ".join(_targets(source_format))
    if source_format == to or INNERSTEP not in (source_format, to):
        raise ConfigError(f"--to: {source} is of {source_format}; it can be converted to {targets}, not {to}")
    with private_folder(out.parent) as private:
        aside = private / out.name
        aside.mkdir()
        if source_format == INNERSTEP:
            lines = _from_innerstep(source, aside, to, component)
        else:
            lines = _to_innerstep(source, aside, source_format, load_config(config) if config else None, component)
        for path in [*aside.rglob("*"), aside]:
            flush(path)
        aside.replace(out)
    flush(out.parent)
    return [f"{out / file}: {rest}" for file, rest in lines]


def _detect_format(source: Path) -> str:
    if lerobot_folder(source) is not None:
        return LEROBOT
    if torch_names(source):
        return TORCH
    if checkpoint_at(source) is not None or (source / WEIGHTS).is_file() or any(source.glob(f"*/{WEIGHTS}")):
        return INNERSTEP
    there = stat_of(source, NotADirectoryError)
    problem = "is missing" if there is None else "holds nothing to convert" if is_folder(source) else "is not a folder"
    raise ConfigError(
        f"{source}: {problem}. Give a run, a checkpoint or a component's folder of innerstep; a"
        " checkpoint of LeRobot or its training_state; or a folder with NAME.pt and NAME_opt.pt."
    )


def _targets(source_format: str) -> list[str]:
    return [LEROBOT, TORCH] if source_format == INNERSTEP else [INNERSTEP]


def _from_innerstep(source: Path, out: Path, to: str, only: str | None) -> list[tuple[str, str]]:
    lines = []
    for name, folder in _pick_components(_component_folders(source), only, source).items():
        found = by_position(folder)
        if to == TORCH:
            write_torch(out, name, found)
        else:
            write_lerobot(out / name, found)
        lines.append((f"{name}.pt" if to == TORCH else name, _summary_line(found)))
    return lines


def _to_innerstep(
    source: Path, out: Path, source_format: str, config: ExperimentConfig | None, only: str | None
) -> list[tuple[str, str]]:
    lines = []
    for name, found in _read_components(source, source_format, config, only).items():
        state = name_by_model(found, None if config is None else _build_component(config, name))
        folder = out / name
        folder.mkdir()
        write_tensors(folder / WEIGHTS, without_sharing(found.weights))
        if state is not None:
            write_tensors(folder / OPTIMIZER_TENSORS, without_sharing(state.tensors))
            try:
                write_json(folder / OPTIMIZER_VALUES, state.values)
            except TypeError as error:
                raise ValueError(f"{found.source}: an option of its groups cannot be saved: {error}") from error
        lines.append((name, _summary_line(found)))
    return lines


def _read_components(
    source: Path, source_format: str, config: ExperimentConfig | None, only: str | None
) -> Mapping[str, PositionalState]:
    """Return the components in `source` by name."""
    if source_format == TORCH:
        names = _pick_components(dict.fromkeys(torch_names(source), source), only, source)
        return {name: read_torch(source, name) for name in names}
    folder = lerobot_folder(source)
    assert folder is not None, "the source is LeRobot's because of this folder"
    known = [] if config is None else list(config.model.entries)
    if only is None and len(known) != 1:
        which = f" The config has {', '.join(known)}." if known else ""
        raise ConfigError(f"--component: must name the component.{which}")
    return {only or known[0]: read_lerobot(folder)}


def _build_component(config: ExperimentConfig, name: str) -> nn.Module:
    """Return a component as the config builds it, with its own initial weights."""
    entries = config.model.entries
    if name not in entries:
        raise ConfigError(
            f"--config: has no component {name!r}{nearest(name, list(entries))} It has {listed(list(entries))}."
        )
    components, _ = build_components(config.model, config.seed, load_initial_weights=False, log=lambda _: None)
    return components[name]


def _component_folders(source: Path) -> dict[str, Path]:
    """Return the folders of components by name, after checking them if there are checksums."""
    checkpoint = checkpoint_at(source)
    if checkpoint is not None:
        files = verify(checkpoint)["files"]
        names = [name.removesuffix(f"/{WEIGHTS}") for name in files if name.endswith(f"/{WEIGHTS}")]
        return {name: checkpoint / name for name in names}
    if (source / WEIGHTS).is_file():
        name = source.resolve().name
        found = find_source(InitConfig(path=str(source)), name).folder
        assert found is not None, "it is a folder"
        return {name: found}
    return {path.parent.name: path.parent for path in sorted(source.glob(f"*/{WEIGHTS}"))}


def _pick_components(there: dict[str, Path], only: str | None, source: Path) -> dict[str, Path]:
    if only is None:
        return there
    if only not in there:
        rule = f"{source} has no component {only!r}{nearest(only, list(there))}"
        raise ConfigError(f"--component: {rule} It has {', '.join(there)}.")
    return {only: there[only]}


def _summary_line(found: PositionalState) -> str:
    parts = [counted(len(found.weights), "tensor")]
    if found.optimizer is not None:
        parts.append(f"the optimizer's state of {counted(len(found.optimizer['state']), 'parameter')}")
        scheduler = found.optimizer.get("scheduler")
        parts.append(
            f"after {counted(scheduler['last_epoch'], 'update')}" if scheduler else "at no position of a schedule"
        )
    return ", ".join(parts)
