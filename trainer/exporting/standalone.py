"""The beginning of an exported script, word for word: reads the weights, checks inputs, and runs the stored example.

It needs torch alone. `script.py` adds the constants and the computation below it.
"""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""The names of types in a safetensors file."""
EXAMPLE_INPUT, EXAMPLE_OUTPUT = "example/input/", "example/output/"
"""How the names of the stored example begin."""

Inputs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Type and shape of each input by name, without the batch."""


class Exported(nn.Module):
    """A trained model as one fixed computation. Its parameters and buffers have the names that they had in the run.

    Args:
        tensors: The weights, buffers and statistics by name.
    """

    inputs: Inputs

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                inner = module._modules.get(part) or nn.Module()
                module._modules[part] = inner  # add_module refuses the names of methods
                module = inner
            if tensor.is_floating_point():
                module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
            else:
                module.register_buffer(last, tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, buffers and statistics by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())

    def check(self, given: Mapping[str, Tensor]) -> None:
        """Check the inputs, tensors (N, *shape) by name.

        Raises:
            ValueError: One is missing, or has another type or shape.
        """
        for name, (dtype, shape) in self.inputs.items():
            if name not in given:
                raise ValueError(f"the input {name!r} is missing; got {', '.join(given) or 'nothing'}")
            found = given[name]
            if found.dtype != dtype or tuple(found.shape[1:]) != shape or found.dim() == 0:
                expected = f"{dtype}, (N, {', '.join(map(str, shape))})"
                raise ValueError(f"the input {name!r} must be {expected}; got {found.dtype}, {tuple(found.shape)}")
        if len(sizes := {len(given[name]) for name in self.inputs}) != 1:
            raise ValueError(f"the inputs must have the same N; got {sorted(sizes)}")


def read_safetensors(path: Path, crc32: int) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file: the length of a header, the header in JSON, and the bytes.

    Args:
        path: The file.
        crc32: The checksum that it must have.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is damaged, or of another export.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"{path}: is damaged: a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
        file.seek(0)
        found = 0
        while chunk := file.read(1 << 20):
            found = zlib.crc32(chunk, found)
    if found != crc32:
        raise ValueError(f"{path}: is damaged, or of another export: its CRC32 is {found:#x}, and must be {crc32:#x}")
    header.pop("__metadata__", None)
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None or not 0 <= begin <= end <= len(content) or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path}: is damaged: {name!r} is {entry}")
        tensors[name] = content[begin:end].clone().view(dtype).reshape(shape)
    return tensors


def largest_difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference of two tensors, and the largest that rounding explains: 0.1 % of the values."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(f"expected {expected.dtype}, {tuple(expected.shape)}; got {found.dtype}, {tuple(found.shape)}")
    if not expected.numel():
        return 0.0, 0.0
    difference = (found.double() - expected.double()).abs().max().item()
    return difference, 1e-3 * max(expected.double().abs().max().item(), 1e-3)


def run_example(model: Exported, example: Mapping[str, Tensor]) -> str:
    """Run the stored example, with the random numbers that it was stored with, and return a line on the result.

    Raises:
        ValueError: The outputs differ by more than rounding explains.
    """
    inputs = {name: example[EXAMPLE_INPUT + name] for name in model.inputs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model(inputs)
    by_name = outputs if isinstance(outputs, dict) else {"": outputs}
    differences = [largest_difference(found, example[EXAMPLE_OUTPUT + name]) for name, found in by_name.items()]
    for difference, allowed in differences:
        if not difference <= allowed:
            raise ValueError(f"the stored example differs by {difference:.3g}; at most {allowed:.3g} is rounding")
    largest = max(difference for difference, _ in differences)
    return f"the stored example is reproduced {f'within {largest:.2g}' if largest else 'bit for bit'}"
