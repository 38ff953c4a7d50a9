"""Measures the structure of the project: files, functions, imports between packages, `Any`, calls, phrases.

Usage: `python benchmarks/structure.py [--root DIR] [--phrases]`. DIR is the root of a checkout (default: this one).
With `--phrases`, each phrase that the prose rules exclude is listed with file and line.

- A package is a folder below `optimizer/` or `trainer/`; the files at the top form the package of that name.
- A function's length is from `def` to its last line. Nested functions count in the outer one and by themselves.
- `Any` is counted as a name in code and annotations, and as a word in the whole text, imports and comments
  included (`grep -ow Any`). Both are divided by all lines of the files.
- Calls are counted by `benchmarks/walks.py`: comprehensions, resumed generators and imports are not calls.
"""

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from phrases import Found, phrases

TOPS = ("optimizer", "trainer")
LONG = 40


@dataclass(frozen=True)
class Module:
    """A Python file. name: dotted, with `.__init__` for that of a package. package: its folder, with slashes."""

    name: str
    package: str
    path: Path
    tree: ast.Module
    lines: int


class Import(NamedTuple):
    """An import of one module by another. kind: "file" (level), "type" (checking) or "inner" (of a function)."""

    source: str
    target: str
    kind: str
    statement: int
    """Number of the statement in its file."""


def modules_of(root: Path) -> dict[str, Module]:
    """Return the modules in `optimizer/` and `trainer/` by name."""
    found = {}
    for path in sorted(path for top in TOPS for path in (root / top).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        text = path.read_text()
        name = ".".join(parts)
        found[name] = Module(name, "/".join(parts[:-1]), path, ast.parse(text), len(text.splitlines()))
    return found


def imports_of(module: Module, known: Mapping[str, Module]) -> Iterator[Import]:
    """Yield the imports of the project's own modules, one a statement and target."""
    for number, (statement, kind) in enumerate(_import_statements(module.tree, "file")):
        for target in sorted(_targets(statement, module, known)):
            yield Import(module.name, target, kind, number)


def _import_statements(node: ast.AST, kind: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, kind
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _import_statements(child, "inner")
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _import_statements(child, "type")
        else:
            yield from _import_statements(child, kind)


def _targets(statement: ast.Import | ast.ImportFrom, module: Module, known: Mapping[str, Module]) -> set[str]:
    if isinstance(statement, ast.Import):
        return {found for alias in statement.names if (found := _module(alias.name, known))}
    base = statement.module or ""
    if statement.level:
        folder = module.name.split(".")[: -statement.level]
        base = ".".join([*folder, *filter(None, [statement.module])])
    submodules = {_module(f"{base}.{alias.name}", known) for alias in statement.names}
    return {found for found in submodules if found} or {found for found in [_module(base, known)] if found}


def _module(name: str, known: Mapping[str, Module]) -> str | None:
    return next((each for each in (name, f"{name}.__init__") if each in known), None)


def cycle_in(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Return the nodes of a cycle among `arrows`; empty if there is none."""
    graph: dict[str, list[str]] = {}
    for source, target in sorted(arrows):  # so that it is always the same one
        if source != target:
            graph.setdefault(source, []).append(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as columns of text, numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if text[:1].isdigit() else text.ljust(width)
            for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in texts
    )


def sizes(modules: Mapping[str, Module]) -> str:
    """Return files, lines and functions by package."""
    rows: list[list[object]] = [["package", "files", "lines", "median", "longest", "", "functions", f"> {LONG}"]]
    groups = {package: [m for m in modules.values() if m.package == package] for package in _packages(modules)}
    groups |= {f"all of {top}": [m for m in modules.values() if m.name.startswith(f"{top}.")] for top in TOPS}
    groups["total"] = list(modules.values())
    for package, members in groups.items():
        lengths = [member.lines for member in members]
        longest = max(members, key=lambda member: member.lines)
        functions = [length for member in members for length, _ in functions_of(member)]
        too_long = sum(length > LONG for length in functions)
        median = f"{statistics.median(lengths):.0f}"
        rows.append(
            [package, len(members), sum(lengths), median, longest.lines, longest.path.name, len(functions), too_long]
        )
    length, name = max(found for module in modules.values() for found in functions_of(module))
    return f"{table(rows)}\nlongest function: {length} lines, {name}"


def functions_of(module: Module) -> list[tuple[int, str]]:
    """Return length and name of each function."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{module.name}.{node.name}")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def any_density(modules: Mapping[str, Module]) -> str:
    """Return how often the name `Any` stands in each package, also for each thousand lines."""
    rows: list[list[object]] = [["package", "Any", "a 1000 lines", "as a word", "a 1000 lines", "most in"]]
    groups = {package: [m for m in modules.values() if m.package == package] for package in _packages(modules)}
    groups["total"] = list(modules.values())
    for package, members in groups.items():
        counts = Counter({member.path.name: any_names(member) for member in members})
        lines = sum(member.lines for member in members)
        most = ", ".join(f"{name} {count}" for name, count in counts.most_common(4) if count)
        words = sum(len(re.findall(r"\bAny\b", member.path.read_text())) for member in members)
        densities = [f"{1000 * count / max(lines, 1):.1f}" for count in (counts.total(), words)]
        rows.append([package, counts.total(), densities[0], words, densities[1], most])
    return table(rows)


def any_names(module: Module) -> int:
    """Return how often the name `Any` stands in the code of a module, imports left out."""
    names = (node.id if isinstance(node, ast.Name) else getattr(node, "attr", "") for node in ast.walk(module.tree))
    return sum(name == "Any" for name in names)


def dependencies(modules: Mapping[str, Module]) -> str:
    """Return the imports between packages, and whether files and packages are free of cycles."""
    imports = [each for module in modules.values() for each in imports_of(module, modules)]
    package = {name: module.package for name, module in modules.items()}
    between: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for each in imports:
        if package[each.source] != package[each.target]:
            pair = package[each.source], package[each.target]
            between.setdefault(pair, set()).add((each.source, each.statement))
    rows: list[list[object]] = [
        ["from", "to", "import statements"],
        *([*pair, len(who)] for pair, who in sorted(between.items())),
    ]
    arrows = {(each.source, each.target) for each in imports}
    at_files = {(each.source, each.target) for each in imports if each.kind == "file"}
    lines = [
        table(rows),
        f"package arrows: {len(between)}; import statements between packages: "
        f"{sum(map(len, between.values()))}; file arrows: {len(arrows)}",
    ]
    kinds = Counter(each.kind for each in imports)
    lines.append(f"by kind: {kinds['file']} at file level, {kinds['inner']} in functions, {kinds['type']} for types")
    lines.append(_cycles("files, imports at file level", at_files))
    lines.append(_cycles("files, all imports", arrows))
    lines.append(_cycles("packages, all imports", set(between)))
    apart = {tuple(package[name] if "/" in package[name] else name for name in pair) for pair in arrows}
    lines.append(_cycles("packages, with each file at the top as a package", {(pair[0], pair[1]) for pair in apart}))
    return "\n".join([*lines, *faces(imports)])


def faces(imports: Iterable[Import]) -> list[str]:
    """Return how many imports of `trainer` are from the packages of `optimizer`, and how many from inner modules."""
    statements: dict[tuple[str, int], str] = {
        (each.source, each.statement): each.target
        for each in imports
        if each.source.startswith("trainer.") and each.target.startswith("optimizer.")
    }
    exported = Counter(target for target in statements.values() if target.endswith(".__init__"))
    inner = Counter(target for target in statements.values() if not target.endswith(".__init__"))
    most = ", ".join(f"{name.removeprefix('optimizer.')} {count}" for name, count in inner.most_common(8))
    return [
        f"import statements of trainer from optimizer: {exported.total()} from what a package exports"
        f" ({exported['optimizer.__init__']} from optimizer), {inner.total()} from {len(inner)} inner modules",
        f"  most: {most}",
    ]


def _cycles(what: str, arrows: Iterable[tuple[str, str]]) -> str:
    cycle = cycle_in(arrows)
    return f"cycle among {what}: {' -> '.join(cycle) if cycle else 'none'}"


def _packages(modules: Mapping[str, Module]) -> list[str]:
    return sorted({module.package for module in modules.values()})


def calls(root: Path) -> str:
    """Return the numbers of the walks, which run in a process with `root` first on its path."""
    script = Path(__file__).with_name("walks.py")
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(root)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"the walks failed:\n{done.stderr.strip()}"
    walks: dict[str, Any] = json.loads(done.stdout)
    rows = {
        "load_config": walks["load"],
        "YAML to the end of the first step": walks["to_first_step"],
        "one save": walks["save"],
        **{f"one step of {name}": numbers for name, numbers in walks["steps"].items()},
    }
    lines = [["walk", "begins in", "calls", "files", "changes of file"]]
    lines += [[name, *(each[key] for key in ("begins", "calls", "files", "changes"))] for name, each in rows.items()]
    most = [
        f"most calls, {name}: " + ", ".join(f"{place} {count}" for place, count in rows[name]["most"])
        for name in ("YAML to the end of the first step", "one save")
    ]
    made = [
        f"instances of {name} before the first step: {count} validated, {walks['copied'].get(name, 0)} copied"
        for name, count in sorted(walks["made"].items())
    ]
    return "\n".join([table(lines), *most, *made])


def phrase_counts(found: Iterable[Found]) -> str:
    """Return how often each rule is broken, by kind of text."""
    counts = Counter((each.rule, each.kind) for each in found)
    kinds = ["markdown", "docstring", "message", "comment"]
    rules = sorted({rule for rule, _ in counts})
    rows = [["rule", *kinds, "all"]]
    for rule in rules:
        each = [counts[rule, kind] for kind in kinds]
        rows.append([rule, *map(str, each), str(sum(each))])
    sums = [sum(counts[rule, kind] for rule in rules) for kind in kinds]
    return table([*rows, ["total", *map(str, sums), str(sum(sums))]])


def listing(found: Iterable[Found]) -> str:
    """Return the phrases by file, with their lines."""
    by_file: dict[Path, list[Found]] = {}
    for each in found:
        by_file.setdefault(each.path, []).append(each)
    blocks = []
    for path, members in by_file.items():
        members.sort(key=lambda each: each.line)
        blocks.append(f"{path}: {len(members)}")
        blocks += [f"  {each.line}: {each.phrase}  ({each.rule}; {each.kind})" for each in members]
    return "\n".join(blocks)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description="Measure the structure of the project.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--phrases", action="store_true", help="list each phrase that the prose rules exclude")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    found = phrases(root)
    if arguments.phrases:
        print(listing(found), "", phrase_counts(found), sep="\n")
        return
    modules = modules_of(root)
    sections = {
        "Files and functions": sizes(modules),
        "Imports": dependencies(modules),
        "Any": any_density(modules),
        "Calls": calls(root),
        "Phrases": phrase_counts(found),
    }
    print("\n\n".join(f"== {title}\n{text}" for title, text in sections.items()))


if __name__ == "__main__":
    main()
