"""The prose of the project avoids the phrases of benchmarks/phrases.py: pages, docstrings, messages and comments."""

import importlib.util
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def phrases():
    """Return the script that finds the phrases, which is not in a package."""
    spec = importlib.util.spec_from_file_location("phrases", ROOT / "benchmarks/phrases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its NamedTuples look their annotations up there
    yield spec.loader.exec_module(module) or module
    del sys.modules[spec.name]


def listing(found):
    return "\n".join(f"{each.path}:{each.line}: {each.phrase} ({each.rule}; {each.kind})" for each in found)


def test_the_prose_has_no_phrase_that_the_rules_exclude(phrases):
    found = listing(phrases.phrases(ROOT))
    assert not found, f"phrases that the rules of CONTRIBUTING.md exclude:\n{found}"


def test_each_kind_of_text_is_searched(phrases, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text("# Title\n\nThe run goes on.\n")
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/module.py").write_text('"""What is none."""\n\nraise E(f"{x} is to be y")  # as told\n')
    assert listing(phrases.phrases(tmp_path)).splitlines() == [
        "docs/page.md:3: goes on (common words; markdown)",
        "optimizer/module.py:1: is none (say what a thing is; docstring)",
        "optimizer/module.py:1: What (name the thing; docstring)",
        "optimizer/module.py:3: is to be (must; message)",
        "optimizer/module.py:3: told (software reports, logs, raises; comment)",
    ]
