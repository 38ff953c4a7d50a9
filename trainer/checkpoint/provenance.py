"""What a run was made with: versions, machine and data. A resume says what differs."""

import copy
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import torch
import xxhash
from torch import Tensor
from torch.optim import Optimizer

from optimizer.kernels import implementation_of
from optimizer.state import torch_name

from ..errors import ConfigError, raised
from ..interfaces.dataset import DataSet, Split
from ..runtime.rng import separate_rng
from ..runtime.version import innerstep_version

SAMPLES = {"train": 16, "held_out": 8}
"""How many samples of each part, evenly spread from the first to the last, make the fingerprint of the data."""

TOLERANCE = 1e-5
"""How far, as a share of the norm of the values, a sketch may be off by rounding."""

_MKL = ("MKL_CBWR", "MKL_DYNAMIC", "MKL_NUM_THREADS")
_NOT_A_SETTING = ("data",)


def provenance(device: torch.device, optimizers: Mapping[str, Optimizer], data: DataSet, seed: int) -> dict[str, Any]:
    """Return plain values that say with what software, on what machine and on what data a run trains.

    Nothing changes by it: random numbers and the data set's state are afterwards what they were before.
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
        "implementations": {name: implementation_of(optimizer) for name, optimizer in optimizers.items()},
        "data": data_fingerprint(data, seed),
    }


def say_what_differs(
    saved: Mapping[str, Any], now: Mapping[str, Any], data: DataSet, seed: int, log: Callable[[str], None]
) -> None:
    """Print one line on software and machine and one on the data, each only where something differs.

    saved, now: the provenance of the checkpoint, empty if it is from before there was one, and that of the run.
    """
    for line in (settings_that_differ(saved, now), data_that_differs(saved, now, data, seed)):
        if line is not None:
            log(line)


def settings_that_differ(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return a line on what of the software and the machine differs from the checkpoint's; None if nothing does.

    What only one of the two knows is left out: another version may save more, or less.
    """
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in [name for name in now if name in saved and name not in _NOT_A_SETTING]:
        before, after = saved[name], now[name]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            keys = sorted({*before, *after} if name == "mkl" else before.keys() & after.keys())
            pairs |= {key if name == "mkl" else f"steps of {key}": (before.get(key), after.get(key)) for key in keys}
        else:
            pairs[name] = before, after
    differing = [f"{name} {before} -> {after}" for name, (before, after) in pairs.items() if before != after]
    if not differing:
        return None
    listed = ", ".join(differing)
    return f"resumed on another machine setting: {listed}: the run continues, but not bit for bit"


def data_that_differs(saved: Mapping[str, Any], now: Mapping[str, Any], data: DataSet, seed: int) -> str | None:
    """Return a line on a content of the data that differs from the checkpoint's; None if none is known to."""
    before, after = saved.get("data"), now.get("data")
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return None
    parts = [part for part in after if part in before and not _alike(before[part], after[part])]
    if not parts or not _alike(data_fingerprint(data, seed), after):  # the data draw random numbers of their own
        return None
    what = ", ".join(_part_that_differs(part, before[part], after[part]) for part in parts)
    return (
        f"data: its content is not what the checkpoint was trained on ({what}). The run continues on the present data;"
        " if that is not meant, stop it and put the old data back."
    )


def data_fingerprint(data: DataSet, seed: int) -> dict[str, Any]:
    """Return what tells the content of `data`: its own `fingerprint`, or else of both parts the length, the names,
    shapes and types of a batch, and of a few samples a checksum and, of floating-point values, a sketch: two numbers
    that the rounding of another machine leaves nearly as they are.

    A part whose samples cannot be read here has no checksum. Raises ConfigError where `fingerprint` fails.
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
        found = {name: _of_part(part, SAMPLES[name]) for name, part in parts.items() if part is not None}
    if state:
        data.load_state_dict(state)
    return found


def _of_part(part: Split, samples: int) -> dict[str, Any]:
    length = len(part)
    indices = torch.linspace(0, length - 1, min(samples, length), dtype=torch.float64).round().long()
    try:
        batch = part.batch(indices)
        shapes = {name: [torch_name(tensor.dtype), *tensor.shape[1:]] for name, tensor in batch.items()}
        floats = {name: tensor for name, tensor in batch.items() if tensor.is_floating_point() or tensor.is_complex()}
        exact = {name: tensor for name, tensor in batch.items() if name not in floats}
        sketches = {name: _sketch(tensor) for name, tensor in floats.items()}
        return {"samples": length, "batch": shapes, "checksum": _checksum(exact), "sketch": sketches}
    except KeyboardInterrupt:
        raise
    except BaseException:  # likewise; the run meets the error where it needs these samples, and names the batch
        return {"samples": length}


def _checksum(batch: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(batch.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sketch(tensor: Tensor) -> list[float]:
    """Return a weighted sum of the values, which their order matters for, and their norm."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = real.detach().cpu().to(torch.float64).flatten().nan_to_num()
    weights = torch.arange(values.numel(), dtype=torch.float64).cos()
    return [float(values @ weights), float(values.norm())]


def _alike(before: Any, after: Any) -> bool:
    """Return whether two fingerprints are the same, but for rounding in their sketches."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(_alike(before[name], after[name]) for name in after)
    if _is_sketch(before) and _is_sketch(after):
        return all(abs(one - other) <= TOLERANCE * after[1] for one, other in zip(before, after, strict=True))
    return bool(before == after)


def _is_sketch(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is float for number in value)


def _part_that_differs(part: str, before: Any, after: Any) -> str:
    if part == "fingerprint":
        return f"its fingerprint was {str(before)[:80]} and is {str(after)[:80]}"
    for key, meaning in (("samples", "number of samples"), ("batch", "names, types or shapes")):
        if isinstance(before, Mapping) and before.get(key) != after.get(key):
            return f"another {meaning} in {part}"
    return f"other values in {part}"
