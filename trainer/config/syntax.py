"""Mistakes in the form of a YAML or JSON text: where they are, and a rule in plain words."""

import json
import re

import yaml

_PROBLEMS = {
    r"found character '\\t' that cannot start any token": "a tab; indent with spaces, and write one after a colon",
    r"found character '(.)' that cannot start any token": "a value cannot begin with {0}; put it in quotes",
    "could not find expected ':'": "a key without a colon; write KEY: VALUE, one a line",
    r"expected ',' or '(.)'": "a comma is missing, or {0} at the end of the list or mapping",
    "expected <block end>, but found '-'": "a list item that is indented unlike those before it; indent all alike",
    "expected <block end>, but found '<block mapping start>'": "indented further than the lines before it, which are"
    " complete; indent all keys of a mapping alike",
    "expected <block end>": "does not fit what stands before it; indent all keys of a mapping alike, and put text with"
    " quotes inside into quotes as a whole",
    "expected the node content": "a value is missing here, or a bracket or comma is too many",
    "found unexpected end of stream": "the quote that begins here is not closed",
    "found unexpected document separator": "the quote that begins here is not closed",
    "found unknown escape character": "no escape begins with this character; in double quotes, write \\\\ for a"
    " backslash, or take single quotes",
    "expected escape sequence": "an escape lacks digits; in double quotes, write \\\\ for a backslash, or take single"
    " quotes",
    "(sequence entries|mapping keys) are not allowed here": "a list item or a key cannot begin here; put it on a"
    " separate line",
    "expected alphabetic or numeric character": "text that begins with * or & must be in quotes",
    "undefined tag handle|expected '!'|expected URI|expected ' '": "text that begins with ! must be in quotes",
    "indentation indicator|chomping": "after | or > only a digit, + or - may stand; put other text into quotes",
    "comment or a line break|directive|digit or": "does not belong here; put text that begins with | or > into quotes",
    "expected '<document start>'": "stands after the end of the config; a bracket or quote before it may be too many",
}
"""The rule by a pattern that PyYAML's description of the problem contains; the first that matches holds."""
_AT_BEGINNING = ("could not find expected ':'", "found unexpected end of stream", "found unexpected document separator")
"""Problems whose cause is where the key or quote begins."""
_JSON_PROBLEMS = {
    "Expecting property name": 'a key in double quotes must stand here, as in {"seed": 0}; no comma after the last one',
    "Illegal trailing comma": "no comma may follow the last entry",
    "Expecting ':'": "a colon must stand between key and value",
    "Expecting ','": "a comma is missing, or the bracket at the end",
    "Expecting value": "a value must stand here: text in double quotes, a number, true, false, null, [ or {",
    "Unterminated string": "the quote that begins here is not closed",
    "Invalid control character": "a line break or tab inside quotes; write \\n or \\t",
    "Invalid \\": "no escape begins so; write \\\\ for a backslash",
    "Extra data": "stands after the end of the config",
}
_NO_SPACE = re.compile(r"\s*(?:- +)?([\w.-]+):(?=[^\s/:])(?!.*: )")
"""The beginning of a line such as `seed:0`."""


class MalformedError(ValueError):
    """A text that is not well-formed, or holds a value that is not plain.

    Attributes:
        rule: The rule that is broken, and the remedy.
        line: From 1.
        column: From 1, in characters.
    """

    def __init__(self, rule: str, line: int, column: int) -> None:
        super().__init__(f"{rule} (line {line}, column {column})")
        self.rule, self.line, self.column = rule, line, column


def yaml_mistake(error: yaml.YAMLError, text: str) -> MalformedError:
    """Return PyYAML's `error` about `text` with its place, in plain words."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: int(error.position)]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return MalformedError(f"the character U+{error.character:04X} cannot stand in YAML", line, column)
    assert isinstance(error, yaml.MarkedYAMLError), "the scanner and the parser raise no others"
    problem = error.problem or ""
    mark = error.context_mark if problem.startswith(_AT_BEGINNING) and error.context_mark else error.problem_mark
    assert mark is not None, "the scanner and the parser know where they are"
    lines = text.splitlines() or [""]
    if problem == "mapping values are not allowed here":
        return _second_colon(lines, mark.line, mark.column)
    if error.context == "while scanning a directive":
        return MalformedError("text that begins with % must be in quotes", mark.line + 1, 1)
    return MalformedError(_rule(problem, _line(lines, mark.line)), mark.line + 1, mark.column + 1)


def json_mistake(error: json.JSONDecodeError) -> MalformedError:
    """Return json's `error` with its place, in plain words."""
    rules = (rule for problem, rule in _JSON_PROBLEMS.items() if error.msg.startswith(problem))
    return MalformedError(next(rules, "is not JSON from here on"), error.lineno, error.colno)


def _rule(problem: str, line: str) -> str:
    for pattern, rule in _PROBLEMS.items():
        if found := re.search(pattern, problem):
            in_flow = ". In brackets, put ${...} into quotes" if "${" in line and "expected ','" in problem else ""
            return rule.format(*found.groups()) + in_flow
    return "is not YAML from here on"


def _second_colon(lines: list[str], line: int, column: int) -> MalformedError:
    """Return the mistake of a line whose colon makes no key: a space is missing above, or it is inside text."""
    above = next((number for number in range(line - 1, -1, -1) if lines[number].strip()), None)
    if above is not None and (found := _NO_SPACE.match(lines[above])):
        return MalformedError(f"a space is missing after {found[1]}:", above + 1, found.end(1) + 1)
    if above is not None and re.fullmatch(r"\s*[\w.]+( [^:#'\"]*)?", lines[above]):
        start = len(lines[above]) - len(lines[above].lstrip()) + 1
        return MalformedError("a key without a colon; write KEY: VALUE, one a line", above + 1, start)
    if ": " in _line(lines, line)[:column]:
        return MalformedError("a second colon in one line; put text with a colon into quotes", line + 1, column + 1)
    rule = "a key cannot stand here: the line above has a value already, or this one is indented too far"
    text = _line(lines, line)
    return MalformedError(rule, line + 1, len(text) - len(text.lstrip()) + 1)


def _line(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""
