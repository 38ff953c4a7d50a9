"""The versions, machine and data that a run was made with. A resume logs the differences."""

import copy
import os
import platform
from collections.abc import Callable, Mapping
from typing import TypeGuard

import numpy
import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizer.kernels import IMPLEMENTATIONS, implementation_of
from optimizer.state import torch_name
from optimizer.types import JsonObject

from ..errors import ConfigError, raised
from ..interfaces.dataset import DataSet, Split
from ..runtime.files import checksum_of_tensors
from ..runtime.rng import separate_rng
from ..runtime.version import innerstep_version

SAMPLES = {"train": 16, "held_out": 8}
"""Samples of each split, evenly spread from the first to the last, in the fingerprint of the data."""

TOLERANCE = 1e-5
"""The rounding error of a sketch, as a fraction of the norm of the values."""

_MKL = ("MKL_CBWR", "MKL_DYNAMIC", "MKL_NUM_THREADS")
STEPS = "implementations"
"""The entry with the implementation that takes the steps of each component."""

_NOT_A_SETTING = ("data", STEPS)


def provenance(device: torch.device, optimizers: Mapping[str, Optimizer], data: DataSet, seed: int) -> JsonObject:
    """Return plain values that identify the software, the machine and the data of a run.

    Random numbers and the data set's state are afterwards as they were before.

    Args:
        device: The run's.
        optimizers: By component.
        data: The run's data set.
        seed: The run's.

    Raises:
        ConfigError: The data set's `fingerprint` fails.
    """
    return {
        "innerstep": innerstep_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "mkl": {name: os.environ[name] for name in _MKL if name in os.environ},
        STEPS: implementations(optimizers),
        "data": data_fingerprint(data, seed),
    }


def implementations(optimizers: Mapping[str, Optimizer]) -> dict[str, str]:
    """Return how each optimizer takes its steps now, by component."""
    return {name: implementation_of(optimizer) for name, optimizer in optimizers.items()}


def log_differences(saved: JsonObject, now: JsonObject, data: DataSet, seed: int, log: Callable[[str], None]) -> None:
    """Log one line on software and machine, one on the steps and one on the data, each only if something differs.

    Args:
        saved: The provenance in the checkpoint; empty if an older version wrote it.
        now: The run's provenance.
        data: The run's data set.
        seed: The run's.
        log: Prints a line.
    """
    lines = settings_difference(saved, now), steps_difference(saved, now), data_difference(saved, now, data, seed)
    for line in lines:
        if line is not None:
            log(line)


def settings_difference(saved: JsonObject, now: JsonObject) -> str | None:
    """Return a line on the differences in software and machine from the checkpoint; None if there are none.

    Values that only one of the two has are left out: another version may save more, or less.
    """
    pairs: dict[str, tuple[object, object]] = {}
    for name in [name for name in now if name in saved and name not in _NOT_A_SETTING]:
        before, after = saved[name], now[name]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            pairs |= {key: (before.get(key), after.get(key)) for key in sorted({*before, *after})}
        else:
            pairs[name] = before, after
    differing = [f"{name} {before} -> {after}" for name, (before, after) in pairs.items() if before != after]
    if not differing:
        return None
    listed = ", ".join(differing)
    return f"resumed on another machine setting: {listed}: the run continues, but not bit for bit"


def steps_difference(saved: JsonObject, now: JsonObject) -> str | None:
    """Return a line on the components whose steps another implementation took until now; None if there are none."""
    before, after = saved.get(STEPS), now.get(STEPS)
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return None
    differing = [name for name in after if name in before and before[name] != after[name]]
    if not differing:
        return None
    listed = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in differing)
    line = f"resumed with other implementations of the steps: {listed}: the run continues, but its last bits differ"
    pinned = [f"model.component_optims.{name}.params.implementation={before[name]}" for name in differing]
    if any(before[name] not in IMPLEMENTATIONS for name in differing):
        return line
    return f"{line}. To keep the former: {' '.join(f'--{option}' for option in pinned)}"


def data_difference(saved: JsonObject, now: JsonObject, data: DataSet, seed: int) -> str | None:
    """Return a line if the content of the data differs from the checkpoint's; None if no difference is known.

    Args:
        saved: The provenance in the checkpoint.
        now: The run's provenance.
        data: The run's data set.
        seed: The run's.
    """
    before, after = saved.get("data"), now.get("data")
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return None
    parts = [part for part in after if part in before and not is_alike(before[part], after[part])]
    if not parts or not is_alike(data_fingerprint(data, seed), after):  # the data draw other random numbers each time
        return None
    differing = ", ".join(_split_difference(part, before[part], after[part]) for part in parts)
    return (
        f"data: its content is not what the checkpoint was trained on ({differing}). The run continues on the present"
        " data; if that is not meant, stop it and put the old data back."
    )


def is_alike(before: object, after: object) -> bool:
    """Return whether two fingerprints are the same, but for rounding in their sketches."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(is_alike(before[name], after[name]) for name in after)
    if _is_sketch(before) and _is_sketch(after):
        return all(abs(one - other) <= TOLERANCE * after[1] for one, other in zip(before, after, strict=True))
    return bool(before == after)


def data_fingerprint(data: DataSet, seed: int) -> JsonObject:
    """Return plain values that identify the content of `data`.

    They are its own `fingerprint`, if it has one. If not, they are by split: the length; names, shapes and types of a
    batch; and, of a few samples, a checksum and the sketches of floating-point values. A sketch is two numbers that
    the rounding of another machine hardly changes. A split whose samples cannot be read now has its length only.

    Args:
        data: The data set. Its state is afterwards as it was before.
        seed: For random numbers drawn meanwhile.

    Raises:
        ConfigError: `fingerprint` fails.
    """
    try:
        own = data.fingerprint()
        state = copy.deepcopy(data.state_dict())  # it may be the data set's own objects
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the data set is the user's code, which may raise anything
        raise ConfigError(f"data: {type(data).__name__}.fingerprint fails: {raised(error)}") from error
    if own is not None:
        return {"fingerprint": str(own)}
    with separate_rng(seed):
        parts = {name: getattr(data, name, None) for name in SAMPLES}
        found = {name: _split_fingerprint(part, SAMPLES[name]) for name, part in parts.items() if part is not None}
    if state:
        data.load_state_dict(state)
    return found


def unread_splits(fingerprint: Mapping[str, object]) -> list[str]:
    """Return the splits of which `data_fingerprint` could read no samples."""
    return [name for name, found in fingerprint.items() if isinstance(found, Mapping) and "checksum" not in found]


def _split_fingerprint(part: Split, samples: int) -> JsonObject:
    length = len(part)
    indices = torch.linspace(0, length - 1, min(samples, length), dtype=torch.float64).round().long()
    try:
        batch = part.batch(indices)
        shapes = {name: [torch_name(tensor.dtype), *tensor.shape[1:]] for name, tensor in batch.items()}
        floats = {name: tensor for name, tensor in batch.items() if tensor.is_floating_point() or tensor.is_complex()}
        exact = {name: tensor for name, tensor in batch.items() if name not in floats}
        sketches = {name: _sketch(tensor) for name, tensor in floats.items()}
        return {"samples": length, "batch": shapes, "checksum": checksum_of_tensors(exact), "sketch": sketches}
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's code; the run meets the error when it needs these samples, and names the batch
        return {"samples": length}


def _sketch(tensor: Tensor) -> list[float]:
    """Return a weighted sum of the values, which depends on their order, and their norm."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = real.detach().cpu().to(torch.float64).flatten().nan_to_num()
    weights = torch.arange(values.numel(), dtype=torch.float64).cos()
    return [float(values @ weights), float(values.norm())]


def _is_sketch(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is float for number in value)


def _split_difference(part: str, before: object, after: object) -> str:
    if part == "fingerprint":
        return f"its fingerprint was {str(before)[:80]} and is {str(after)[:80]}"
    for key, meaning in (("samples", "number of samples"), ("batch", "names, types or shapes")):
        if isinstance(before, Mapping) and isinstance(after, Mapping) and before.get(key) != after.get(key):
            return f"another {meaning} in {part}"
    return f"other values in {part}"
