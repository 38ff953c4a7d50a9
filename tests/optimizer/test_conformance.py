"""The public check of factories: it passes for every key, and names what the naive pattern breaks."""

import os
import subprocess
import sys
from functools import partial

import pytest
from conftest import ROOT
from sample_naive import NaiveFactory
from sample_optimizers import KEYS, PARAMS, registered, trainable

from optimizer import ConformanceError, check_factory
from optimizer.testing.checks import CHECKS

pytestmark = pytest.mark.filterwarnings("ignore:Learning rate changed between steps:UserWarning")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_conforms(key):
    factory = registered(key)(**PARAMS.get(key, {}))
    if key == "heavyball.AdamW":  # its own cannot be pickled either, and its functions hold it and so the model
        expected = r"^copies .* PicklingError: .*heavyball.*\nno model is kept alive: .*holds it$"
        with pytest.raises(ConformanceError, match=expected):
            check_factory(factory, partial(trainable, key))
    else:
        check_factory(factory, partial(trainable, key))


def test_a_key_will_do():
    check_factory("adamw")


UNBROKEN = {
    "builds an optimizer with a scheduler inside",
    "an update counts once",
    "closures are taken",
    "saving leaves no trace",
    "an lr set by hand holds for one update",
}
"""What the naive pattern does right as well."""


@pytest.mark.filterwarnings("ignore")
def test_what_the_naive_pattern_breaks_is_named():
    with pytest.raises(ConformanceError) as refused:
        check_factory(NaiveFactory(fused=True))
    broken = {line.split(":")[0] for line in str(refused.value).splitlines()}
    assert broken == {check.__name__.replace("_", " ") for check in CHECKS} - UNBROKEN


def suite(*names):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "optimizer.conformance_suite", "-p", "no:cacheprovider"],
        env={**os.environ, "INNERSTEP_FACTORIES": " ".join(names), "PYTHONPATH": str(ROOT / "tests" / "support")},
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.slow
def test_the_promises_run_as_tests_of_their_own():
    assert f"{2 * len(CHECKS)} passed" in suite("adamw", "optimizer.factories.schedule_free.SGDScheduleFreeFactory")
    failed = suite("sample_naive.NaiveFactory")
    assert f"{len(CHECKS) - len(UNBROKEN) - 1} failed" in failed  # not being fused it can be skipped
    assert "test_check[sample_naive.NaiveFactory-a_second_scheduler_is_refused]" in failed
