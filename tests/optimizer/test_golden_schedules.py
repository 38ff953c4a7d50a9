"""Schedules against traces that their peers wrote (tests/golden/make_*.py): transformers, LeRobot, timm and others."""

import json

import pytest
import torch
from conftest import ROOT

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon

GOLDEN = {
    name: json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text())
    for name in ("transformers", "lerobot", "timm")
}
CASES = [
    pytest.param(
        golden["lr"], golden.get("metrics"), case["case"], case["trace"], id=f"{name}-{index}-{case['case']['type']}"
    )
    for name, golden in GOLDEN.items()
    for index, case in enumerate(golden["cases"])
]


@pytest.mark.parametrize(("lr", "metrics", "case", "golden"), CASES)
def test_equals_the_peers_trace(lr, metrics, case, golden):
    factory = OPTIMIZER_BUILDER_REGISTRY["adamw"](lr=lr, schedule=case)
    optimizer = factory.build([torch.nn.Parameter(torch.zeros(2))], horizon=Horizon(300))
    lrs = []
    for k in range(300):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if metrics:
            optimizer.report_metric("val_loss", metrics[k])
    known = [k for k in range(300) if golden[k] is not None]
    assert len(known) > 290
    expected = [golden[k] for k in known]
    # Near its end a cosine's factor is a difference of nearly equal numbers: the last bit of another libm's shows.
    assert [lrs[k] for k in known] == pytest.approx(expected, rel=1e-12, abs=1e-15 * max(expected))


def test_the_cases_are_transformers_twelve():
    named = {case["case"]["type"] for case in GOLDEN["transformers"]["cases"]}
    assert len(named) == 12
