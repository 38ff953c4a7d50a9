"""Finds phrases that the prose rules exclude, in Markdown, docstrings, messages and comments.

Usage: `python benchmarks/structure.py --phrases`; a test can call `phrases` on a folder.
"""

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NOUN = "say what a thing is"
WHAT = "name the thing"
REPORTS = "software reports, logs, raises"
COMMON = "common words"
MUST = "must"
OWN = "no chains of 'of its own'"
AGENT = "agent first"
LISTED = "parameters in a list"
TERMS = "the field's terms"
HEADING = "headings name the subject"
WIDTH = "one line width"

PATTERNS = [
    (NOUN, r"(?<!there )(?<!here )\b(?:is|are|was|were|be) none\b"),
    (NOUN, r"(?<!there )(?<!here )\b(?:is|are|was|were|be) no (?!longer\b|more than\b|less than\b)[\w{`]+"),
    (
        WHAT,
        r"\b(?:of|for|from|with|by|over|to|at|than|after|before|but|besides|in|into|on|upon|without|like|as) what\b",
    ),
    (WHAT, r"\breturns? what\b"),
    (WHAT, r"(?<=\w: )what\b"),
    (REPORTS, r"\b(?:tell|tells|told|telling)\b"),
    (REPORTS, r"\b(?:says|said|saying)\b|\bsay\b(?![(:`_])"),
    (REPORTS, r"\b(?:hears?|heard)\b"),
    (COMMON, r"\b(?:anew|afresh|besides|likewise|nowhere)\b"),
    (COMMON, r"\b(?:go|goes|going|gone|went) on\b"),
    (COMMON, r"\bto the bit\b"),
    (COMMON, r"\b(?:take|takes|taken|taking|took) (?:\w+ ){0,3}up again\b"),
    (MUST, r"\b(?:is|are|was|were) (?:not )?to be\b"),
    (MUST, r"\b(?:is|are) to (?:stay|have|hold|give|go|come)\b"),
    (OWN, r"\bof (?:its|their|one's|your|our|his|her|my) own\b"),
    (OWN, r"\b(?:somebody|someone|anybody)(?: else)?'s\b"),
    (AGENT, r"(?<![\w-] )\bOf (?:several|such|these|those|two|all)\b"),
    (TERMS, r"\b(?:take|takes|taken|took) (?:\w+ ){1,5}to be\b"),
    (TERMS, r"\b(?:lie|lies|lay|lying) (?:\w+ ){0,3}in memory\b"),
    (TERMS, r"\bper cent\b"),
    (TERMS, r"\b(?:put|puts) up with\b"),
    (TERMS, r"\bwithout a word\b"),
    (TERMS, r"\b(?:go|goes|going|went|gone) astray\b"),
    (TERMS, r"\b(?:at|of|by) chance\b"),
]
"""Rule, and pattern of a phrase in one space between words. Only the first letter's case is ignored."""

DOCSTRING_PATTERNS = [(WHAT, r"^What\b")]
PUBLIC_DOCSTRING_PATTERNS = [(LISTED, r"(?<![\w-] )\bRaises (?=[A-Z`])")]
HEADING_PATTERNS = [
    (HEADING, r"^(?:Two doors|Seen|Where to go on|Coming from|One step of almost nothing|Parts of your own)\b"),
    (HEADING, r"^What\b(?!.*\?$)"),
]
WIDEST, WIDEST_ROW = 120, 240


class Found(NamedTuple):
    """A phrase in a file. kind: "markdown", "docstring", "message" or "comment"."""

    path: Path
    line: int
    kind: str
    rule: str
    phrase: str


class Text(NamedTuple):
    """A text of a file, and the number of its first line."""

    kind: str
    line: int
    text: str
    is_public: bool = False


def phrases(root: Path) -> list[Found]:
    """Return the phrases in the Markdown files of the project in `root`, and in its code without the tests."""
    found: list[Found] = []
    folders = [root / name for name in ("docs", "optimizer", "trainer", "examples")]
    pages = [*root.glob("*.md"), *(root / "tests").glob("*.md")]
    markdown = [*pages, *(path for folder in folders for path in folder.rglob("*.md"))]
    python = [path for folder in folders for path in folder.rglob("*.py")]
    for path in sorted(markdown):
        found += _in_markdown(path)
    for path in sorted(python):
        found += [each for text in texts_of(path.read_text()) for each in _in_text(path, text)]
    return [each._replace(path=each.path.relative_to(root)) for each in found]


def texts_of(source: str) -> Iterator[Text]:
    """Yield the docstrings, other string literals and comments of Python code.

    A string is a docstring where it is a statement. The braces of an f-string become `{}`.
    """
    tree = ast.parse(source)
    yield from _strings(tree, True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text("comment", token.start[0], token.string.lstrip("# "))


def _strings(node: ast.AST, is_public: bool) -> Iterator[Text]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        is_public = is_public and (not node.name.startswith("_") or node.name.startswith("__"))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant | ast.JoinedStr):
            yield from (Text("docstring", line, text, is_public) for line, text in _literal(child.value))
        elif isinstance(child, ast.Constant | ast.JoinedStr):
            yield from (Text("message", line, text) for line, text in _literal(child))
        else:
            yield from _strings(child, is_public)


def _literal(node: ast.Constant | ast.JoinedStr) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
        return
    yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            for text in _strings(part, False):
                yield text.line, text.text


def _in_text(path: Path, text: Text) -> Iterator[Found]:
    """Yield the phrases of a text, each with the line on which it begins."""
    patterns = list(PATTERNS)
    if text.kind == "docstring":
        patterns += DOCSTRING_PATTERNS + (PUBLIC_DOCSTRING_PATTERNS if text.is_public else [])
    words = list(re.finditer(r"\S+", text.text))
    flat = " ".join(word[0] for word in words)
    begins, position = [], 0
    for word in words:
        begins.append(position)
        position += len(word[0]) + 1
    for rule, pattern in patterns:
        for match in re.finditer(_any_case(pattern), flat):
            word = words[bisect_right(begins, match.start()) - 1]
            line = text.line + text.text.count("\n", 0, word.start())
            yield Found(path, line, text.kind, rule, match[0])


def _any_case(pattern: str) -> str:
    return pattern if re.search(r"[A-Z]", pattern) else f"(?i:{pattern})"


def _in_markdown(path: Path) -> Iterator[Found]:
    lines = path.read_text().splitlines()
    yield from _in_text(path, Text("markdown", 1, "\n".join(lines)))
    is_code = False
    for number, line in enumerate(lines, 1):
        is_code ^= line.lstrip().startswith("```")
        if is_code:
            continue
        if heading := re.match(r"#+ (.*)", line):
            for rule, pattern in HEADING_PATTERNS:
                if match := re.search(pattern, heading[1]):
                    yield Found(path, number, "markdown", rule, match[0])
        if len(line) > (WIDEST_ROW if line.startswith("|") else WIDEST):
            yield Found(path, number, "markdown", WIDTH, f"{len(line)} characters")
