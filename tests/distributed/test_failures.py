"""One process of two fails: the run ends soon, with one message that names the process and the reason."""

import json
import socket
from functools import partial

import pytest
from commands import run_together, write_experiment

from trainer.checkpoint.directory import complete_checkpoints

HOST = socket.gethostname()


@pytest.fixture
def experiment(tmp_path):
    """Return a function that writes a config with the objective `FailsOnARank`, and returns its file."""

    return partial(write_experiment, tmp_path)


def steps_saved(run):
    return [path.name for path in complete_checkpoints(run / "checkpoints")]


def test_an_exception_of_one_process_is_named_by_main_which_saves_the_run(experiment, tmp_path):
    ended = run_together(2, "train", experiment("raise"))
    assert ended.codes == [3, 3]
    assert [f"stopped, as rank 1 ({HOST}) failed: update 6" in line for line in ended.messages()] == [True]
    assert "ValueError: a bad sample" in ended.messages()[0]
    assert "raise ValueError" in ended.outputs[0], "the line of the user's code"
    assert ended.outputs[1] == ""
    assert ended.seconds[1] < ended.seconds[0], "torchrun takes the earliest for the cause"
    assert steps_saved(tmp_path / "run") == ["step_00000006", "step_00000004"]


def test_a_process_that_was_killed_is_named_and_no_update_is_lost(experiment, tmp_path):
    ended = run_together(2, "train", experiment("kill"))
    assert ended.codes == [75, -9]
    assert ended.messages() == [f"error: stopped, as rank 1 ({HOST}) is gone"]
    assert steps_saved(tmp_path / "run")[0] == "step_00000006"


def test_a_sharded_component_cannot_be_saved_alone(experiment, tmp_path):
    ended = run_together(2, "train", experiment("kill", placement="shard"))
    assert ended.codes == [75, -9]
    assert "not saved, as other processes have parts of first. The newest finite checkpoint: after 4" in ended.output
    assert steps_saved(tmp_path / "run") == ["step_00000004"]


def test_another_process_prints_the_message_if_main_is_gone(experiment, tmp_path):
    ended = run_together(2, "train", experiment("kill", where=0))
    assert ended.codes == [-9, 75]
    assert ended.messages() == [f"error: stopped, as rank 0 ({HOST}) is gone"]
    assert "The newest finite checkpoint: after 4 updates. `innerstep resume" in ended.outputs[1]
    assert steps_saved(tmp_path / "run") == ["step_00000004"]


def test_a_process_that_hangs_is_named_with_its_place_and_ends(experiment):
    ended = run_together(2, "train", experiment("hang", timeout=2))
    assert ended.codes == [75, 75]
    (message,) = ended.messages()
    assert f"rank 1 ({HOST}) did not come for 2 seconds" in message
    assert "sample_rank_parts.py" in message


@pytest.mark.parametrize("where", [0, 1])
def test_processes_that_wait_for_each_other_are_named_with_their_places(experiment, where):
    """One asks for a mean that the other one does not ask for, which waits for the first one's gradients."""
    ended = run_together(2, "train", experiment("call alone", where=where, timeout=2))
    assert ended.codes == [75, 75]
    (message,) = ended.messages()
    assert "the processes waited for each other for 2 seconds (distributed.timeout_seconds): rank 0 in " in message
    places = [message.partition(f"rank {rank} in ")[2].split()[0] for rank in (0, 1)]
    assert [place.startswith("sample_rank_parts.py") for place in places] == [True, True], places
    assert places[0] != places[1]
    assert "of learner.step and learner.mean" in message


def test_a_failure_of_all_processes_is_printed_once_as_that_of_one(experiment, tmp_path):
    ended = run_together(2, "train", experiment("raise", where=-1))
    assert ended.codes == [3, 3]
    (message,) = ended.messages()
    assert message.startswith("error: update 6")
    assert ended.outputs[1] == ""
    assert steps_saved(tmp_path / "run")[0] == "step_00000006"


def test_an_interrupted_process_is_named(experiment):
    ended = run_together(2, "train", experiment("interrupt"))
    assert ended.codes == [130, 130]
    assert ended.messages() == [f"error: stopped, as rank 1 ({HOST}) was interrupted"]


def test_a_mistake_in_the_config_is_printed_once(experiment):
    ended = run_together(2, "train", experiment(), "--train.totl_steps=3")
    assert ended.codes == [2, 2]
    assert len(ended.messages()) == 1
    assert "totl_steps" in ended.outputs[0]
    assert "stopped, as" not in ended.output


@pytest.fixture
def experiment_with_plugin(experiment, tmp_path):
    """Return a function that writes an experiment whose plugin runs `code` on rank 1, and returns its file."""

    def write(code, **changed):
        (tmp_path / "fails_on_rank_1.py").write_text(f"import os\nif os.environ['RANK'] == '1':\n    {code}\n")
        path = experiment(**changed)
        made = json.loads(path.read_text())
        made["plugins"].append("fails_on_rank_1")
        path.write_text(json.dumps(made))
        return path

    return write


def test_a_mistake_that_one_process_meets_before_it_joins_is_named(experiment_with_plugin, tmp_path):
    ended = run_together(2, "train", experiment_with_plugin("raise OSError('no disk')"))
    assert ended.codes == [2, 2]
    (message,) = ended.messages()
    assert f"rank 1 ({HOST}) failed" in message
    assert "no disk" in message
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_join_is_named(experiment_with_plugin, tmp_path):
    ended = run_together(2, "train", experiment_with_plugin("os._exit(7)", timeout=2))
    assert ended.codes == [75, 7]
    assert ended.messages() == ["error: stopped, as rank 1 did not join the others"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [("plan",), ("export", "--to=torch", "out"), ("checkpoint", "list")])
def test_a_command_for_one_process_is_refused_once(experiment, tmp_path, command):
    ended = run_together(2, command[0], *command[1:], experiment())
    assert ended.codes == [2, 2]
    assert ended.messages() == [ended.output.splitlines()[0]]
    assert f"innerstep {command[0]}: runs in one process" in ended.output
