"""An exported script: the text of `standalone.py`, constants, and the computation."""

import inspect

from torch import Tensor

from optimizer.config import shown

from . import standalone
from .graph_code import INDENT, GraphCode

_END = '''
def load(device: str = "cpu") -> {name}:
    """Return the model at its trained weights on a device.

    Raises:
        OSError: {weights} is missing or cannot be read.
        ValueError: It is damaged.
    """
    tensors = read_safetensors(Path(__file__).with_name(WEIGHTS), CRC32)
    model = {name}({{name: tensor for name, tensor in tensors.items() if not name.startswith("example/")}})
    return model.to(device).eval()


def main() -> None:
    """Print the inputs and outputs, and check the stored example."""
    print((__doc__ or "").strip())
    try:
        print(run_example(load(), read_safetensors(Path(__file__).with_name(WEIGHTS), CRC32)))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {{error}}") from error


if __name__ == "__main__":
    main()
'''


def script_text(name: str, weights: str, crc32: int, doc: str, code: GraphCode) -> str:
    """Return the script.

    Args:
        name: The class of the model.
        weights: The name of the file with the tensors, which lies beside the script.
        crc32: The checksum of that file.
        doc: The script's docstring.
        code: The computation.
    """
    beginning = inspect.getsource(standalone).partition('"""\n\n')[2]
    inputs = "".join(
        f"{INDENT * 2}{key!r}: ({value.dtype}, {tuple(value.shape[1:])}),\n" for key, value in code.inputs.items()
    )
    body = "".join(f"{INDENT * 2}{line}\n" for line in code.lines)
    return (
        f'"""{_in_quotes(doc)}"""\n\n{_with_operator(beginning, code)}\n\nWEIGHTS, CRC32 = "{weights}", {crc32:#x}\n'
        f"aten = torch.ops.aten\n\n\nclass {name}(Exported):\n"
        f"{INDENT}inputs: Inputs = {{\n{inputs}{INDENT}}}\n\n"
        f"{INDENT}@torch.no_grad()\n"
        f"{INDENT}def forward(self, given: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:\n"
        f"{INDENT * 2}self.check(given)\n{INDENT * 2}w = self.tensors()\n{body}\n"
        f"{_END.format(name=name, weights=weights)}"
    )


def shape_text(name: str, tensor: Tensor) -> str:
    """Return a line on a tensor of a batch: its name, its type, and its shape with N for the batch."""
    shape = ", ".join(["N", *map(str, tensor.shape[1:])])
    return f"{shown(name)}  {str(tensor.dtype).removeprefix('torch.')} ({shape})"


def _in_quotes(doc: str) -> str:
    """Return a docstring as code has it. The names in it may be any text, and must not end it."""
    return doc.replace("\\", r"\\").replace('"', r"\"")


def _with_operator(beginning: str, code: GraphCode) -> str:
    """Return the beginning with the import of `operator`, if the computation needs it."""
    needs = any("operator." in line for line in code.lines)
    return beginning.replace("import math\n", "import math\nimport operator\n", 1) if needs else beginning
