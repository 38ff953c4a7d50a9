"""Real runs of two processes: FSDP2-sharded parameters, and Accelerate."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

WORKERS = ROOT / "tests" / "workers"


def two_processes(worker, *arguments):
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKERS / worker, *arguments]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


CASES = ("plain", "clipped", "cautious", "clipped and cautious", "schedule-free", "rules")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharded") / "reports.json"
    two_processes("sharded.py", path, *CASES, "naive")
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_sharded_it_trains_as_in_one_piece_and_distributed_checkpoint_restores_it(sharded, case):
    report = sharded[case]
    assert report["apart"] < 1e-6  # sums are taken in another order
    assert report["norms"][0] == pytest.approx(report["norms"][1], rel=1e-6)
    assert report["unmoved"]
    assert report["position"] == 5
    assert report["resumed"]
    assert len(set(report["lrs"])) == 1


def test_sharded_the_naive_pattern_loses_its_position(sharded):
    assert not sharded["naive"]["unmoved"]
    assert sharded["naive"]["position"] != 5
    assert not sharded["naive"]["resumed"]


def accelerated(folder, kind):
    pytest.importorskip("accelerate", reason="needs the extra `interop`")
    two_processes("accelerated.py", folder, kind)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_accelerate_ticks_once_an_update_on_both_processes_and_its_state_comes_back(tmp_path):
    for report in accelerated(tmp_path, "ours"):
        assert report["whole"]["lrs"] == pytest.approx([1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.7])
        assert report["whole"]["updates"] == report["resumed"]["updates"] == 4
        assert report["resumed"]["lrs"] == report["whole"]["lrs"][4:]
        assert report["resumed"]["weights"] == report["whole"]["weights"]


def test_accelerate_ticks_the_naive_pattern_more_than_once(tmp_path):
    for report in accelerated(tmp_path, "naive"):
        assert report["whole"]["updates"] != 4
