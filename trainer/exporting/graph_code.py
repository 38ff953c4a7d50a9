"""Python code for a graph: one line for each operation of torch, under the names of its modules."""

import builtins
import keyword
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from optimizer.config import shown

from ..errors import ConfigError
from .tracing import Traced, place_of, place_text, tensor_names

INDENT = "    "
_OURS = {"aten", "batch", "device", "given", "math", "operator", "self", "torch", "w"}
_RESERVED = {*_OURS, *dir(builtins), *keyword.kwlist}
_NO_GRAD, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
"""Operators of which a block of code is an argument."""
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range", "_functional_assert")
_RARELY_RANDOM = ("scaled_dot_product", "lstm", "gru", "rnn")
"""Operators that draw random numbers for dropout only."""
_SAME = ("alias", "detach", "detach_")
_INPUTS, _BATCH = "inputs", "batch"
_DEPTH = 2
"""Below this depth of modules, values are kept until the module is done."""


@dataclass
class GraphCode:
    """The body of a function that computes a graph."""

    lines: list[str]
    inputs: dict[str, Tensor]
    """The inputs that are used, by name, with an example."""
    tensors: dict[str, Tensor]
    """The weights, buffers and constants that are used, by name."""
    is_random: bool
    """Whether random numbers are drawn."""


def graph_code(traced: Traced) -> GraphCode:
    """Return the code of a graph.

    Raises:
        ConfigError: It has an operator that is not torch's.
    """
    return _Writer(traced).written()


@dataclass
class _Statement:
    place: str
    lines: list[str]
    reads: set[str] = field(default_factory=set)
    makes: set[str] = field(default_factory=set)


class _Writer:
    def __init__(self, traced: Traced) -> None:
        self._program, self._example = traced.program, traced.inputs
        self._names = tensor_names(traced.whole)
        self._texts: dict[Node, str] = {}
        self._several: dict[Node, list[str]] = {}
        """The texts of the results of an operator that has several."""
        self._inputs: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}
        self._statements: list[_Statement] = []
        self._taken = set(_RESERVED)
        self._is_random = self._uses_device = self._uses_batch = False

    def written(self) -> GraphCode:
        """Return the code."""
        graph = self._program.graph_module
        first = self._take_placeholders()
        self._write(graph, 0, self._statements)
        (output,) = (node for node in graph.graph.nodes if node.op == "output")
        results = [self._text(value) for value in output.args[0]]
        returned = _structure(self._program.call_spec.out_spec, results)
        known = [("device", f"{first}.device", self._uses_device), (_BATCH, f"{first}.shape[0]", self._uses_batch)]
        lines = [f"{name} = {text}" for name, text, is_used in known if is_used]
        self._statements.insert(len(self._inputs), _Statement(_INPUTS, lines))
        lines = [*_with_dels(self._statements, set(results)), *returned]
        return GraphCode(lines, self._inputs, self._tensors, self._is_random)

    def _take_placeholders(self) -> str:
        """Give the inputs and tensors their texts; return the text of the first input."""
        signature = self._program.graph_signature
        owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = signature.inputs_to_lifted_tensor_constants
        values = {**self._program.state_dict, **self._program.constants}
        needed, given = _needed(self._program.graph_module), list[Node]()
        for node in self._program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in owned or node.name in constants:
                target = owned.get(node.name) or constants[node.name]
                name = self._names[target] if node.name in owned else f"constant.{_identifier(target)}"
                self._texts[node] = f"w[{name!r}]"
                if needed.intersection(node.users):
                    self._tensors[name] = values[target].detach()
                continue
            given.append(node)
        used = [node for node in given if any(user in needed and not _is_batch(user) for user in node.users)]
        for node, name in zip(given, self._example, strict=True):
            if node in (used or given[:1]):
                self._texts[node] = self._fresh(_identifier(name))
                self._inputs[name] = self._example[name]
                self._statements.append(_Statement(_INPUTS, [f"{self._texts[node]} = given[{name!r}]"]))
        return self._texts[(used or given)[0]]

    def _write(self, module: GraphModule, indent: int, into: list[_Statement]) -> None:
        needed = _needed(module)
        for node in module.graph.nodes:
            if node.op == "call_function" and node in needed:
                self._write_call(module, node, indent, into)

    def _write_call(self, module: GraphModule, node: Node, indent: int, into: list[_Statement]) -> None:
        name = getattr(node.target, "__name__", str(node.target))
        if name in (_NO_GRAD, _AUTOCAST) and not isinstance(node.target, torch._ops.OpOverload):
            self._write_block(module, node, name == _AUTOCAST, indent, into)
        elif node.target is operator.getitem and (several := self._several.get(node.args[0])):  # type: ignore[arg-type]
            self._texts[node] = several[int(node.args[1])]  # type: ignore[arg-type]  # a number there
        elif (same := _same_value(node)) is not None:
            self._texts[node] = self._text(same)
        elif _is_batch(node):
            self._texts[node], self._uses_batch = _BATCH, True
        else:
            call, text = self._call(node), self._fresh(_identifier(node.name))
            self._texts[node] = text
            into.append(_Statement(place_of(node), [f"{INDENT * indent}{text} = {call}"], self._read(node), {text}))

    def _write_block(
        self, module: GraphModule, node: Node, is_autocast: bool, indent: int, into: list[_Statement]
    ) -> None:
        """Write the code of an argument of `node` in place of it, with mixed precision if it asks for that."""
        at = next(place for place, value in enumerate(node.args) if isinstance(value, Node) and value.op == "get_attr")
        block = getattr(module, str(node.args[at].target))  # type: ignore[union-attr]  # a Node, by the line above
        options, given = node.args[:at], node.args[at + 1 :]
        inner = [found for found in block.graph.nodes if found.op == "placeholder"]
        for found, value in zip(inner, given, strict=True):
            self._texts[found] = self._text(value)
        mixed = is_autocast and (bool(options[2]) or indent > 0)
        statements: list[_Statement] = []
        self._write(block, indent + mixed, statements)
        (output,) = (found for found in block.graph.nodes if found.op == "output")
        results = output.args[0] if isinstance(output.args[0], list | tuple) else [output.args[0]]
        self._several[node] = [self._text(value) for value in results]
        if mixed:
            self._uses_device = True
            head = f"with torch.autocast(device.type, {options[1]!r}, {options[2]!r}):"
            statements.insert(0, _Statement(statements[0].place, [f"{INDENT * indent}{head}"]))
            self._merge(statements, into)
        else:
            into.extend(statements)

    @staticmethod
    def _merge(statements: Sequence[_Statement], into: list[_Statement]) -> None:
        made = set().union(*(one.makes for one in statements))
        reads = set().union(*(one.reads for one in statements)) - made
        into.append(_Statement(statements[0].place, [line for one in statements for line in one.lines], reads, made))

    def _call(self, node: Node) -> str:
        """Return the expression that `node` computes. Raises ConfigError if torch alone cannot."""
        target, function = node.target, self._function(node)
        arguments = list(self._arguments(node))
        if target is operator.getitem:
            return f"{arguments[0]}[{arguments[1]}]"
        if target is torch.ops.aten.sym_size.int:
            return f"{arguments[0]}.shape[{arguments[1]}]"
        if target is operator.mul:
            return " * ".join(arguments)
        tags, name = getattr(target, "tags", ()), str(target)
        self._is_random |= torch.Tag.nondeterministic_seeded in tags and not any(one in name for one in _RARELY_RANDOM)
        return f"{function}({', '.join(arguments)})"

    def _function(self, node: Node) -> str:
        """Return the text of the function that `node` calls. Raises ConfigError if it is not torch's."""
        target = node.target
        if target is torch.ops.aten.view.default:  # strides differ by device and version, and view refuses some
            return "aten.reshape.default"
        if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
            return str(target)
        module, name = getattr(target, "__module__", ""), getattr(target, "__name__", str(target))
        if module in ("_operator", "math", "torch"):
            return f"{module.lstrip('_')}.{name}"
        raise ConfigError(
            f"--to torch: {place_text(place_of(node))} uses the operator {target}, which is not one of torch's own for"
            " tensors: a script that needs torch alone cannot have it."
        )

    def _arguments(self, node: Node) -> Iterator[str]:
        yield from (self._text(value) for value in node.args)
        yield from (f"{name}={self._text(value)}" for name, value in node.kwargs.items())

    def _read(self, node: Node) -> set[str]:
        return {self._texts[used] for used in node.all_input_nodes if used in self._texts}

    def _text(self, value: object) -> str:
        """Return `value` as Python writes it."""
        match value:
            case Node():
                return self._texts[value]
            case list() | tuple():
                return f"[{', '.join(self._text(one) for one in value)}]"
            case dict():
                return f"{{{', '.join(f'{key!r}: {self._text(one)}' for key, one in value.items())}}}"
            case slice():
                return f"slice({self._text(value.start)}, {self._text(value.stop)}, {self._text(value.step)})"
            case float() if not math.isfinite(value):
                return f'float("{value}")'
            case torch.device():
                self._uses_device = True
                return "device"
        return repr(value)

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _needed(module: GraphModule) -> set[Node]:
    """Return the nodes on which the results depend, and those that change a tensor in place."""
    needed: set[Node] = set()
    for node in reversed(module.graph.nodes):
        if any(check in str(node.target) for check in _CHECKS):
            continue
        if node.op == "output" or _is_change(node) or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def _is_batch(node: Node) -> bool:
    """Return whether a node is the number of samples, by the shape of an input."""
    source = node.args[0] if node.args else None
    if node.target is not torch.ops.aten.sym_size.int or node.args[1] != 0:
        return False
    return isinstance(source, Node) and source.op == "placeholder" and isinstance(node.meta["val"], SymInt)


def _is_change(node: Node) -> bool:
    """Return whether a node changes a tensor in place."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _same_value(node: Node) -> Node | None:
    """Return the argument of a node that returns it as it is; None if it does not."""
    name = str(node.target)
    (first, *rest) = node.args or (None,)
    if not name.startswith("aten.") or not isinstance(first, Node):
        return None
    operation = name.split(".")[1]
    if operation in _SAME or ("dropout" in operation and rest[1:] == [False]):
        return first
    if operation == "to" and "copy" not in node.kwargs and True not in rest[2:]:
        before, after = first.meta.get("val"), node.meta.get("val")
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            same = (before.dtype, before.device, before.layout) == (after.dtype, after.device, after.layout)
            return first if same else None
    return None


def _with_dels(statements: Sequence[_Statement], kept: set[str]) -> Iterator[str]:
    """Yield the lines under comments that name their modules; delete values when a layer has read them last."""
    last = {name: number for number, one in enumerate(statements) for name in one.reads | one.makes}
    pending: set[str] = set()
    place = ""
    for number, one in enumerate(statements):
        if one.place not in ("", place):
            if _layer(one.place) != _layer(place):
                done = sorted(name for name in pending if last[name] < number)
                pending.difference_update(done)
                if done:
                    yield f"del {', '.join(done)}"
            place = one.place
            yield f"# {shown(place)}"
        yield from one.lines
        pending |= one.makes - kept


def _layer(place: str) -> list[str]:
    return place.split(".")[: _DEPTH + 1]


def _structure(spec: object, results: Sequence[str]) -> list[str]:
    """Return the line that returns the results: one, or a dict of them."""
    if len(results) == 1 and spec.is_leaf():  # type: ignore[attr-defined]  # torch's TreeSpec has no public type
        return [f"return {results[0]}"]
    names: Mapping[str, str] = torch.utils._pytree.tree_unflatten(results, spec)  # type: ignore[arg-type]
    return [f"return {{{', '.join(f'{name!r}: {text}' for name, text in names.items())}}}"]


def _identifier(name: str) -> str:
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "value"
    return f"_{text}" if text[0].isdigit() else text
