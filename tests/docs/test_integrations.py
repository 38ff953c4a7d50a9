"""The programs of docs/integrations.md run, and their schedules end where the page states."""

import pytest
import torch
from test_docs import blocks

WITHOUT = "needs the extra `interop`"
PAGE = "docs/integrations.md"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other libraries


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that runs the block of the page that holds a text, and returns its names."""
    monkeypatch.chdir(tmp_path)

    def run(text):
        (source,) = (block for block in blocks(PAGE, "python") if text in block)
        names = {"__name__": "program"}
        torch.manual_seed(0)
        exec(compile(source, PAGE, "exec"), names)
        return names

    return run


def test_lightning_resumes_in_the_middle_of_the_schedule(program):
    pytest.importorskip("lightning", reason=WITHOUT)
    names = program("LearningRateMonitor")
    assert names["stopped"].global_step == 40
    assert names["optimizer"].scheduler.last_epoch == 80
    assert names["optimizer"].scheduler.get_last_lr() == pytest.approx([0.0])


def test_lightning_with_two_optimizers_moves_the_plateau(program):
    pytest.importorskip("lightning", reason=WITHOUT)
    plateau, averaging = program("automatic_optimization")["trainer"].optimizers
    assert [optimizer.scheduler.last_epoch for optimizer in (plateau, averaging)] == [100, 100]
    assert plateau.scheduler.get_last_lr()[0] < 1e-2
    assert averaging.scheduler.get_last_lr() == [1e-2]
    assert averaging.param_groups[0]["train_mode"]


def test_accelerate_resumes_in_the_middle_of_the_schedule(program):
    pytest.importorskip("accelerate", reason=WITHOUT)
    scheduled = program("Accelerator(")["scheduled"]
    assert scheduled.scheduler.last_epoch == 40
    assert scheduled.scheduler.get_last_lr() == [0.0]


def test_the_hugging_face_trainer_resumes_in_the_middle_of_the_schedule(program):
    pytest.importorskip("transformers", reason=WITHOUT)
    optimizer = program("transformers.Trainer")["optimizer"]
    assert optimizer.scheduler.last_epoch == 80
    assert optimizer.scheduler.get_last_lr() == pytest.approx([0.0])


def test_every_program_of_the_page_is_run():
    assert len(blocks(PAGE, "python")) == 4
