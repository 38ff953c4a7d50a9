"""The examples in docstrings run, and every schedule documents its formula, its source and an example."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import optimizer
import trainer
from optimizer import SCHEDULE_REGISTRY

KEYS = [key for key, cls in SCHEDULE_REGISTRY.items() if cls.__module__.startswith("optimizer.")]


def modules_with_examples():
    for package in (optimizer, trainer):
        folder = Path(package.__file__).parent
        for path in sorted(folder.rglob("*.py")):
            if re.search(r"(?m)^\s*>>> ", path.read_text()):
                parts = path.relative_to(folder.parent).with_suffix("").parts
                yield ".".join(part for part in parts if part != "__init__")


def failures(test):
    printed = []
    doctest.DocTestRunner(verbose=False).run(test, out=printed.append, clear_globs=False)
    return "".join(printed)


@pytest.mark.parametrize("name", [*modules_with_examples()])
def test_the_examples_of_a_module_run(name):
    tests = [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]
    assert tests, "its examples are not in docstrings where doctest finds them"
    for test in tests:
        assert not failures(test)


@pytest.mark.parametrize("key", KEYS)
def test_every_schedule_documents_its_formula_and_source(key):
    text = inspect.cleandoc(SCHEDULE_REGISTRY[key].__doc__)
    first, second, *_ = text.splitlines()
    assert first.endswith(".")
    assert not second
    formula = re.search(r"^Formula:\n((?: {4}.*\n)+)", text, re.MULTILINE)
    assert formula
    assert re.search(r"\(k\) = .|lr <- .", formula[1])
    assert re.search(r"^Source: .", text, re.MULTILINE)


@pytest.mark.parametrize("key", KEYS)
def test_the_example_of_a_schedule_builds_it_from_its_key(key):
    cls = SCHEDULE_REGISTRY[key]
    # Without the names of the module, as the reader of `help()` has none of them.
    test = doctest.DocTestParser().get_doctest(inspect.cleandoc(cls.__doc__), {}, key, None, None)
    assert test.examples
    assert not failures(test)
    assert any(f'"{key}"' in example.source for example in test.examples)
    assert re.fullmatch(r"\[.*,.*\]\n", test.examples[-1].want)  # values at several updates
    built = test.globs["optimizer"].scheduler.schedule if "optimizer" in test.globs else test.globs["schedule"]
    assert type(built) is cls


@pytest.mark.parametrize(
    "name",
    [
        "AdamWWithOneCycleFactory",
        "AdamWWithWarmupCosineFactory",
        "Horizon",
        "RAdamScheduleFreeFactory",
        "ReadOnlyScheduler",
        "Schedule",
        "scheduled",
        "torch_factory",
    ],
)
def test_what_users_start_with_has_an_example(name):
    assert re.search(r"^ *Examples:\n(.*\n)*? *>>> ", getattr(optimizer, name).__doc__, re.MULTILINE)


def test_describe_shows_the_formula_without_the_example(cli):
    for key in KEYS:
        code, printed = cli("describe", key)
        assert code == 0, printed
        assert "\n  Formula:\n      " in printed, key
        assert "Examples:" not in printed, key
        assert ">>>" not in printed, key
