"""The workers and launches that the other tests here use: their results, and their reports of failures."""

import os
import subprocess
import sys
import time

import pytest
import torch
from processes import ROOT, SUPPORT, WorkerError, launched, torchrun
from torch import distributed

from trainer.runtime.signals import Interruption


def summed(numbers):
    total = numbers + distributed.get_rank()
    distributed.all_reduce(total)
    return {"rank": distributed.get_rank(), "total": total, "threads": torch.get_num_threads()}


def failing_on_rank_1(message):
    distributed.barrier()  # rank 0 has begun
    if distributed.get_rank() == 1:
        raise ValueError(message)
    distributed.barrier()


def failing_everywhere():
    raise ValueError(f"of rank {distributed.get_rank()}")


def hanging_on_rank_1():
    with Interruption():  # as a run that the worker has trained before, which takes signals and restores them
        pass
    while distributed.get_rank() == 1:
        time.sleep(0.05)


def ending_on_rank_0():
    if distributed.get_rank() == 0:
        os._exit(7)
    distributed.barrier()


def own_pid():
    return os.getpid()


def test_a_call_returns_the_results_of_all_ranks(two_workers):
    results = two_workers.call(summed, torch.tensor([1.0, 2.0]))
    assert [result["rank"] for result in results] == [0, 1]
    assert all(torch.equal(result["total"], torch.tensor([3.0, 5.0])) for result in results)
    assert [result["threads"] for result in results] == [1, 1]


def test_workers_live_on_from_call_to_call(two_workers):
    assert two_workers.call(own_pid) == two_workers.call(own_pid)


def test_a_failing_rank_is_reported_by_name_and_the_next_call_works(two_workers):
    with pytest.raises(WorkerError, match=r"rank 1 of 2: Traceback[^~]*ValueError: no such thing") as error:
        two_workers.call(failing_on_rank_1, "no such thing")
    assert list(error.value.failures) == [1, 0]  # the other one waits in the barrier
    assert "barrier" in error.value.failures[0]
    assert len(two_workers.call(own_pid)) == 2


def test_failures_of_all_ranks_are_reported(two_workers):
    with pytest.raises(WorkerError) as error:
        two_workers.call(failing_everywhere)
    assert ["of rank 0" in error.value.failures[0], "of rank 1" in error.value.failures[1]] == [True, True]


def test_a_hanging_call_times_out_and_says_where_it_hangs(two_workers):
    with pytest.raises(WorkerError, match=r"rank 1 of 2: no answer[^~]*hanging_on_rank_1") as error:
        two_workers.call(hanging_on_rank_1, timeout=1)
    assert list(error.value.failures) == [1]


def test_a_rank_that_ends_is_reported_with_its_exit_code(two_workers):
    with pytest.raises(WorkerError, match="rank 0 of 2: the process ended with 7"):
        two_workers.call(ending_on_rank_0)


KILLED = """
import os, signal, sys
from processes import Workers
from test_processes import own_pid
if __name__ == "__main__":
    print(*Workers(1).call(own_pid), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join(map(str, (SUPPORT, ROOT, ROOT / "tests" / "distributed")))
    environment = {**os.environ, "PYTHONPATH": paths}
    with (tmp_path / "output.txt").open("w") as output:
        subprocess.run([sys.executable, str(script)], env=environment, timeout=120, stdout=output, check=False)
    pid = int((tmp_path / "output.txt").read_text())
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline, f"the worker {pid} lives on"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_launch_returns_exit_code_and_output_of_all_processes():
    code, output = torchrun(2, "--help")
    assert code == 0
    assert output.count("Usage:") == 2


@pytest.mark.slow
def test_the_end_of_a_launch_kills_all_its_processes():
    with launched(2, "--help") as launch:
        deadline = time.monotonic() + 60
        while not launch.pids(rank=1):
            assert time.monotonic() < deadline, launch.output()
            time.sleep(0.01)
        launch.torchrun.kill()
        launch.torchrun.wait()
        assert launch.torchrun.pid not in launch.pids()
    assert launch.pids() == []
