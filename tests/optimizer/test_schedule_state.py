"""A schedule bound to an optimizer's lr: which fields it takes over, how it counts, and what metrics leave behind."""

import pytest
from sample_schedules import SCHEDULES

from optimizer import SCHEDULE_REGISTRY, Horizon, Schedule

PLATEAU = SCHEDULE_REGISTRY["ReduceLROnPlateau"]
TAKES_LR = [key for key in SCHEDULES if SCHEDULE_REGISTRY[key].base_lr_field]


def resolved(key, **changes):
    return SCHEDULE_REGISTRY[key](**{**SCHEDULES[key], **changes}).resolved(Horizon(30, 10))


@pytest.mark.parametrize("key", TAKES_LR)
def test_bind_fills_in_the_lr_that_is_omitted(key):
    schedule = resolved(key, **{SCHEDULE_REGISTRY[key].base_lr_field: None})
    bound = schedule.bind(0.25).schedule
    assert getattr(bound, schedule.base_lr_field) == 0.25
    assert getattr(schedule, schedule.base_lr_field) is None


@pytest.mark.parametrize("key", TAKES_LR)
def test_bind_keeps_an_lr_that_is_given(key):
    schedule = resolved(key, **{SCHEDULE_REGISTRY[key].base_lr_field: 0.25})
    assert getattr(schedule.bind(0.5).schedule, schedule.base_lr_field) == 0.25


@pytest.mark.parametrize("key", SCHEDULES)
def test_bound_schedule_binds_again_to_the_same_values(key):
    first = resolved(key).bind(0.25)
    again = first.schedule.bind()
    assert again.schedule == first.schedule
    assert [again.lr_at(k) for k in range(30)] == [first.lr_at(k) for k in range(30)]


def test_state_counts_updates_where_the_schedule_counts_its_steps():
    class Rising(Schedule):
        absolute = False

        def lr_at(self, update):
            return float(update)

        def momentum_at(self, update):
            return update / 100

    schedule = Rising(interval="epoch", frequency=2, steps_per_epoch=5)
    state = schedule.bind(0.1)
    assert [schedule.lr_at(k) for k in (0, 9, 10, 25)] == [0.0, 9.0, 10.0, 25.0]
    assert [state.lr_at(k) for k in (0, 9, 10, 25)] == [0.0, 0.0, 1.0, 2.0]
    assert state.momentum_at(25) == 0.02


def test_only_the_first_report_in_a_step_counts():
    every_report, first_in_three = (PLATEAU(factor=0.5, patience=0, frequency=n).bind(1.0) for n in (1, 3))
    for update in range(1, 10):
        every_report.report("val_loss", 1.0, update)
        first_in_three.report("val_loss", 1.0, update)
    assert every_report.lr_at(9) == 0.5**8
    assert first_in_three.lr_at(9) == 0.5**3


@pytest.mark.parametrize("frequency", [1, 3])
def test_metric_state_continues_where_it_was_saved(frequency):
    whole, first, second = (PLATEAU(factor=0.5, patience=1, frequency=frequency).bind(1.0) for _ in range(3))
    for update in range(1, 20):
        if update == 8:
            second.load_metric_state(first.metric_state())
        for state in (whole, first if update < 8 else second):
            state.report("val_loss", 1.0, update)
    assert second.lr_at(20) == whole.lr_at(20) < 1.0


@pytest.mark.parametrize("frequency", [1, 3])
def test_metric_state_of_another_kind_of_schedule_raises(frequency):
    saved = PLATEAU(frequency=frequency).bind(1.0).metric_state()
    with pytest.raises(KeyError):
        resolved("cosine", frequency=frequency).bind(1.0).load_metric_state(saved)
    with pytest.raises(KeyError):
        PLATEAU(frequency=frequency).bind(1.0).load_metric_state({})


def test_schedule_that_no_metric_moves_ignores_reports():
    state = resolved("cosine").bind(1.0)
    before = state.lr_at(7)
    state.report("val_loss", 1.0, 5)
    assert state.monitors() == set()
    assert state.metric_state() == {}
    assert state.lr_at(7) == before
