"""`train --or-resume`: one command starts a run, continues it after each kill, and leaves it alone when it is done."""

import fcntl
import os
import threading

import pytest
from sample_runs import ADAMW, MLPS, config, drop, weights

from trainer import ConfigError, resume, train

OPTIMS = {"first": ADAMW, "second": ADAMW}


def made(run, **changed):
    return config(run, MLPS, OPTIMS, **{"save_every": 4, **changed})


def start_and_drop(run, newest):
    """Train a run, and remove its checkpoints after `newest` updates, as if it had been killed there."""
    train(made(run))
    for folder in (run / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > newest:
            drop(folder)


def test_one_command_starts_continues_and_ends_a_run(tmp_path, capsys):
    train(made(tmp_path / "whole"))
    start_and_drop(tmp_path / "run", 8)
    capsys.readouterr()
    assert train(made(tmp_path / "run"), or_resume=True).step == 12
    assert "resuming after 8 of 12 updates" in capsys.readouterr().out
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert train(made(tmp_path / "run"), or_resume=True).step == 12
    assert "resuming after 12 of 12 updates: the run is done" in capsys.readouterr().out
    train(made(tmp_path / "new"), or_resume=True)
    assert weights(tmp_path / "new") == weights(tmp_path / "whole")


def test_a_run_without_a_checkpoint_begins_again(tmp_path):
    train(made(tmp_path / "whole"))
    start_and_drop(tmp_path / "run", 0)
    assert train(made(tmp_path / "run"), or_resume=True).step == 12
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    start_and_drop(tmp_path / "run", 8)
    other = made(tmp_path / "run")
    other["model"]["component_optims"]["first"]["params"]["lr"] = 0.5
    with pytest.raises(ConfigError, match=r"component_optims\.first.*lr"):
        train(other, or_resume=True)
    other["resume"] = {"on_change": "override"}
    assert train(other, or_resume=True).step == 12


def test_a_field_that_may_change_is_taken_from_the_config(tmp_path):
    start_and_drop(tmp_path / "run", 8)
    train(made(tmp_path / "run", save_every=1), or_resume=True)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")} >= {
        f"step_{step:08}" for step in (9, 10, 11, 12)
    }


def test_a_directory_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a run"):
        train(made(tmp_path), or_resume=True)


def test_overwrite_and_or_resume_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="use one of the two"):
        train(made(tmp_path / "run"), overwrite=True, or_resume=True)
    assert not (tmp_path / "run").exists()


def test_a_restart_waits_for_the_process_before_it(tmp_path):
    start_and_drop(tmp_path / "run", 8)
    before = os.open(tmp_path / "run" / ".lock", os.O_RDWR)
    fcntl.flock(before, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match=r"is training this run. Stop it \(or its torchrun\) first"):
        resume(tmp_path / "run")
    end = threading.Timer(0.5, os.close, [before])
    end.start()
    assert train(made(tmp_path / "run"), or_resume=True).step == 12
    end.join()
