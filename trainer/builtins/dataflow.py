"""The path of a batch through the components, written as lines like `code = encoder(patches, info)`."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from optimizer.config import nearest

from ..errors import ConfigError
from ..interfaces.dataset import Batch

_LINE = re.compile(r"\s*(\w+)\s*=\s*([\w-]+)\s*\(([^()]*)\)\s*$")


@dataclass(frozen=True)
class _Call:
    result: str
    component: str
    arguments: list[str]


class Dataflow:
    """Calls of components, one after another.

    Args:
        lines: `result = component(name, …)`. A name is an entry of the batch or an earlier result.

    Raises:
        ValueError: A line has another form.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._calls = [_parse(line) for line in lines]

    @classmethod
    def chain(cls, components: Sequence[str], start: str) -> "Dataflow":
        """Return the dataflow that passes the batch's entry `start` through `components` one after another."""
        names = [start, *components]
        return cls([f"{name} = {name}({before})" for before, name in zip(names, components, strict=False)])

    @property
    def result(self) -> str:
        """The name of the last result."""
        return self._calls[-1].result

    @property
    def components(self) -> list[str]:
        """The components that are called, in this order."""
        return [call.component for call in self._calls]

    @property
    def inputs(self) -> list[str]:
        """The arguments that are not results of earlier lines: entries of the batch, each once."""
        results: set[str] = set()
        found: dict[str, None] = {}
        for call in self._calls:
            found |= dict.fromkeys(name for name in call.arguments if name not in results)
            results.add(call.result)
        return list(found)

    def check(self, components: Sequence[str], batch_entries: Sequence[str], path: str) -> None:
        """Raise ConfigError at `path` if a name does not exist or a component is not used."""
        known = list(batch_entries)
        for call in self._calls:
            if call.component not in components:
                raise ConfigError(f"{path}: no component {call.component!r}{nearest(call.component, components)}")
            for argument in call.arguments:
                if argument not in known:
                    raise ConfigError(
                        f"{path}: {argument!r} is neither an entry of the batch nor an earlier result"
                        f"{nearest(argument, known)} Known here: {', '.join(known)}"
                    )
            known.append(call.result)
        if unused := sorted(set(components) - {call.component for call in self._calls}):
            raise ConfigError(f"{path}: component {unused[0]!r} is not used. Wire it in, or take it out of the model.")

    def run(self, components: nn.ModuleDict, batch: Batch) -> Tensor:
        """Return the last result."""
        return self.results(components, batch)[self.result]

    def results(self, components: nn.ModuleDict, batch: Batch) -> Batch:
        """Return the batch with the result of each line."""
        values = dict(batch)
        for call in self._calls:
            values[call.result] = components[call.component](*(values[name] for name in call.arguments))
        return values

    def split(self, entries: Collection[str]) -> "tuple[Dataflow, Dataflow]":
        """Return the lines that do not depend on these entries of the batch, and those that do.

        The second part, run on the results of the first, has the results of the whole.
        """
        without, dependent = Dataflow([]), Dataflow([])
        changing, used = set(entries), set(entries)
        for call in self._calls:
            # A name may have several lines. One that a dependent line has used must not change before that line.
            if changing.isdisjoint(call.arguments) and call.result not in used:
                without._calls.append(call)
            else:
                dependent._calls.append(call)
                changing.add(call.result)
                used.update([*call.arguments, call.result])
        return without, dependent


def _parse(line: str) -> _Call:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"wiring: must be lines like 'code = encoder(patches, info)'; got {line!r}")
    result, component, arguments = match.groups()
    return _Call(result, component, [name.strip() for name in arguments.split(",") if name.strip()])
