"""A run as one Python script, which needs torch alone, and one safetensors file."""

import runpy
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from optimizer.config import counted, shown
from optimizer.state import write_new, write_tensors

from ..errors import ConfigError, raised
from ..interfaces.dataset import Batch
from ..interfaces.features import Feature, FeatureType
from ..interfaces.objective import Objective, Predicts
from ..interfaces.policy import Policy
from ..policies.normalization import Normalization
from ..runtime.rng import separate_rng
from ..runtime.version import innerstep_version
from .graph_code import GraphCode, graph_code
from .script import script_text, shape_text
from .source import Source
from .standalone import EXAMPLE_INPUT, EXAMPLE_OUTPUT, largest_difference
from .tracing import Computation, Outputs, Whole, place_text, trace

FILES = ("policy.py", "policy.safetensors", "model.py", "model.safetensors", "__pycache__")
"""The files that a folder of this format may hold."""
_CHECKED_SIZES = (1, 3)
"""Numbers of samples for which the script is compared with the run before it gets its place."""
_NOT_READ = (FeatureType.ACTION, FeatureType.REWARD, FeatureType.LANGUAGE)


def write_torch_format(source: Source, folder: Path) -> list[str]:
    """Write a script and its weights into `folder`.

    Returns:
        Lines on the files.

    Raises:
        ConfigError: The computation cannot be written as a script.
        OSError: A file cannot be written.
    """
    stem = "policy" if isinstance(source.objective, Policy) else "model"
    compute = _computation(source)
    inputs = _inputs(source, 2)
    whole = Whole(source.components, source.objective, compute)
    buffers = {name: buffer.clone() for name, buffer in whole.named_buffers()}
    outputs = _outputs(compute, source.components, inputs)
    _refuse_memory(buffers, dict(whole.named_buffers()))
    code = graph_code(trace(whole, inputs))
    example = {EXAMPLE_INPUT + name: inputs[name] for name in code.inputs}
    example |= {EXAMPLE_OUTPUT + name: value for name, value in _by_name(outputs).items()}
    weights = folder / f"{stem}.safetensors"
    tensors = {name: tensor.clone().contiguous() for name, tensor in (code.tensors | example).items()}
    write_tensors(weights, tensors, {"format": "pt"})
    doc = _doc(source, stem, code, outputs)
    text = script_text(stem.capitalize(), weights.name, zlib.crc32(weights.read_bytes()), doc, code)
    write_new(folder / f"{stem}.py", text)
    values = sum(tensor.numel() for tensor in code.tensors.values())
    return [
        f"{stem}.py: {counted(len(text.splitlines()), 'line')}; {_compared(source, compute, folder / f'{stem}.py')}",
        f"{weights.name}: {counted(len(code.tensors), 'tensor')}, {counted(values, 'value', f'{values:,}')}: those"
        " that are read",
    ]


def _computation(source: Source) -> Computation:
    objective = source.objective
    if isinstance(objective, Policy):
        objective.actor(source.components)  # a policy may take its time steps from the components, to act
        return objective.actions
    if isinstance(objective, Predicts):
        return objective.predict
    raise ConfigError(
        f"train.objective.type: to export to torch it must be a policy, or have a method predict(components, batch);"
        f" got {source.config.train.objective.type!r}"
    )


def _inputs(source: Source, number: int) -> Batch:
    """Return an example of the inputs of `number` samples. Raises ConfigError if their shapes are unknown."""
    objective = source.objective
    if isinstance(objective, Policy) and objective.features:
        generator = torch.Generator().manual_seed(number)
        read = {name: feature for name, feature in objective.features.items() if feature.type not in _NOT_READ}
        sizes = (number, objective.n_obs_steps)
        return {name: _observation(objective, name, feature, sizes, generator) for name, feature in read.items()}
    if isinstance(objective, Policy):
        raise ConfigError(
            f"--to torch: {type(objective).__name__} has no `features`, by which the shapes of observations are known."
        )
    try:
        with separate_rng(source.config.seed):
            return dict(source.config.data.make("data").train.batch(torch.arange(number)))
    except Exception as error:
        raise ConfigError(
            f"data: the shapes of the inputs are those of the data set, which cannot be read: {raised(error)}"
        ) from error


def _observation(
    objective: Objective, name: str, feature: Feature, sizes: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    shape = (*sizes, *feature.shape)
    if feature.type is FeatureType.VISUAL:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    value = 2 * torch.rand(shape, generator=generator) - 1
    normalization = getattr(objective, "normalization", None)
    return normalization.unnormalize(name, value) if isinstance(normalization, Normalization) else value


def _outputs(compute: Computation, components: nn.ModuleDict, inputs: Batch) -> Outputs:
    """Return the outputs of the run, with the random numbers of seed 0.

    Raises:
        ConfigError: It fails, or does not return tensors with the samples in dimension 0.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            outputs = compute(components, {name: value.clone() for name, value in inputs.items()})
        except Exception as error:  # the user's code, which may raise anything
            raise ConfigError(f"train.objective: fails on an example of its inputs: {raised(error)}") from error
    number = len(next(iter(inputs.values())))
    for value in outputs.values() if isinstance(outputs, Mapping) else [outputs]:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != number:
            raise ConfigError(
                f"train.objective: must return a tensor (N, …), or tensors by name, to be exported; got"
                f" {list(value.shape) if isinstance(value, Tensor) else type(value).__name__} for {number} samples"
            )
    return outputs


def _refuse_memory(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if a call has changed one of these buffers."""
    for name, buffer in before.items():
        now = after[name]
        if buffer.shape != now.shape or not torch.isclose(buffer, now, rtol=0, atol=0, equal_nan=True).all():
            raise ConfigError(
                f"--to torch: {place_text(name)} is changed by each call. A fixed computation has no memory."
            )


def _compared(source: Source, compute: Computation, script: Path) -> str:
    """Return a line on how the script's outputs differ from the run's.

    Raises:
        ConfigError: They differ by more than rounding.
    """
    model = _loaded(script)
    largest = 0.0
    for number in _CHECKED_SIZES:
        inputs = _inputs(source, number)
        expected = _by_name(_outputs(compute, source.components, inputs))
        found = _by_name(_outputs(model, source.components, inputs))
        for name, value in expected.items():
            difference, allowed = largest_difference(found[name], value)
            if not difference <= allowed:
                raise ConfigError(
                    f"--to torch: the script's outputs for {counted(number, 'sample')} differ by {difference:.3g} from"
                    " the run's. It computes something else for other inputs, as a policy with a memory does."
                )
            largest = max(largest, difference)
    return f"its outputs are the run's {f'within {largest:.2g}' if largest else 'bit for bit'}"


def _loaded(script: Path) -> Computation:
    """Return the computation of a script. Raises ConfigError if it cannot be loaded."""
    try:
        model = runpy.run_path(str(script), run_name="exported")["load"]()
    except Exception as error:  # code that was written from the user's, and weights of any type
        raise ConfigError(f"--to torch: the script of this run cannot be loaded: {raised(error)}") from error
    return lambda _, inputs: model(inputs)


def _by_name(outputs: Outputs) -> dict[str, Tensor]:
    return dict(outputs) if isinstance(outputs, Mapping) else {"": outputs}


def _doc(source: Source, stem: str, code: GraphCode, outputs: Outputs) -> str:
    """Return the script's docstring."""
    result = "actions" if stem == "policy" else "outputs"
    inputs = [f"    {shape_text(name, value)}" for name, value in code.inputs.items()]
    found = [f"    {shape_text(name or result, value)}" for name, value in _by_name(outputs).items()]
    chunk = (
        ["Each prediction is a chunk: the actions of T time steps from now on (N, T, …)."] if stem == "policy" else []
    )
    random = ["Random numbers come from torch's generator: torch.manual_seed repeats them."] if code.is_random else []
    run = shown(source.config.train.run_dir.name)
    lines = [
        f"The {stem} of the run {run} after {counted(source.step, 'update')}, exported by innerstep"
        f" {innerstep_version()}.",
        "",
        "This file and the weights beside it need torch alone:",
        "",
        f"    from {stem} import load",
        "",
        "    model = load()  # or load('cuda')",
        f"    {result} = model({{name: tensor, …}})",
        "",
        "Inputs, for any number N of samples, in the units of the data:",
        *inputs,
        "",
        "Outputs, in the units of the data:" if stem == "policy" else "Outputs:",
        *found,
        "",
        *chunk,
        *random,
    ]
    return "\n".join(lines).rstrip() + "\n"
