"""The command: all checks on a run, as text or JSON."""

import json
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from optimizer.config import counted

from ..errors import ConfigError
from ..runtime.hub import is_reference
from . import gradients, losses, rates, time, weights
from .evidence import Evidence, Finding

CHECKS = (*losses.CHECKS, *rates.CHECKS, *gradients.CHECKS, *weights.CHECKS, *time.CHECKS)
_WIDEST = 100


def examine(run: str) -> tuple[Evidence, list[Finding]]:
    """Return the evidence in the files of a run and the findings of all checks: findings first, then notes.

    Args:
        run: The run's directory. The run may be training, or killed.

    Raises:
        ConfigError: There is no run.
        UnreadableError: The system refuses to read a file.
    """
    if is_reference(run) or run.startswith("hf:/"):
        raise ConfigError(f"{run}: a run on the hub has no metrics to examine. Give the run's directory.")
    evidence = Evidence(Path(run))
    found = [finding for check in CHECKS for finding in check(evidence)]
    return evidence, sorted(found, key=lambda finding: finding.kind == "note")


def as_text(evidence: Evidence, found: Sequence[Finding]) -> str:
    """Return findings as text for the terminal."""
    width = max(30, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))
    total = "" if evidence.total is None else f" of {evidence.total}"
    saved = counted(len(evidence.checkpoints), "checkpoint")
    seen = f"{evidence.run_dir}: {counted(evidence.done, 'update')}{total}, {saved}"
    blocks = [seen, *(f"note: {note}" for note in evidence.facts.notes)]
    for finding in found:
        blocks += ["", f"{finding.kind}: {finding.check}"]
        for label, text in (("measured", finding.measured), ("meaning", finding.meaning), ("change", finding.remedy)):
            blocks += wrapped(text, width, f"  {label:<8}  ")
    problems = sum(finding.kind == "finding" for finding in found)
    notes = len(found) - problems
    ends = [
        counted(problems, "finding") if problems else "nothing wrong found",
        *([counted(notes, "note")] if notes else []),
    ]
    return "\n".join([*blocks, "", f"{', '.join(ends)}; {len(CHECKS)} checks"])


def wrapped(text: str, width: int, start: str) -> list[str]:
    """Return text as lines that begin with `start`, or as far to the right. Paths and overrides stay whole."""
    wrapper = textwrap.TextWrapper(width, start, " " * len(start), break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def as_json(evidence: Evidence, found: Sequence[Finding]) -> str:
    """Return findings as JSON: an object with the run, its updates and a list."""
    values = {
        "run": str(evidence.run_dir),
        "done": evidence.done,
        "total": evidence.total,
        "findings": [vars(finding) for finding in found],
    }
    return json.dumps(values, indent=1, ensure_ascii=False)
