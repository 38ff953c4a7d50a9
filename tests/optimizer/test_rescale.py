"""A schedule entered where its lr is what it was under another curve."""

import copy
import itertools
import json

import pytest
import torch
from sample_rescaled import FACTORIES, at_update, factory, lr_of, optimizer_of, resumed, trace
from sample_schedules import SCHEDULES
from torch import nn

from optimizer.scheduling.rescale import warp_to_lr

ANOTHER_CURVE = "ignore:the position is loaded, but the schedule is another:UserWarning"
pytestmark = pytest.mark.filterwarnings(ANOTHER_CURVE)


@pytest.fixture(params=FACTORIES)
def key(request):
    return request.param


def steepest(optimizer, steps):
    curve = optimizer.scheduler.schedule.bind()
    lrs = [curve.lr_at(update) * optimizer.scheduler._lr.ratios[0] for update in range(steps)]
    return lrs, max(abs(after - before) for before, after in itertools.pairwise(lrs))


@pytest.mark.parametrize("steps", [1200, 400, 6000])
def test_another_horizon_goes_on_at_the_lr_and_ends_when_it_would(key, steps):
    saved, lr = at_update(300, 600, key)
    pair = resumed(saved, optimizer_of(steps, key), rising=False)
    curve, step = steepest(pair[1], steps)
    assert lr_of(pair[1]) == pytest.approx(lr, abs=step)
    lrs = [lr_of(pair[1]), *trace(pair, steps - 300 + 5)]
    assert lrs[steps - 300 - 1] == curve[-1] != lrs[steps - 300 - 10]
    past_the_end = pair[1].scheduler.schedule.bind().lr_at(steps) * pair[1].scheduler._lr.ratios[0]
    assert lrs[steps - 300 :] == [past_the_end] * 6
    assert lrs == sorted(lrs, reverse=True), "down, and not up again"


def test_a_longer_horizon_is_entered_on_the_way_down_without_a_word_of_the_direction():
    """Also where a warm-up that is a share of the run would pass the lr nearer to where the run stands."""
    saved, lr = at_update(300, 600, warmup_steps="10%")
    pair = resumed(saved, optimizer_of(1200, warmup_steps="10%"))
    assert lr_of(pair[1]) == pytest.approx(lr, rel=0.01)
    assert trace(pair, 1)[0] < lr


def test_the_direction_tells_a_warm_up_from_a_decay():
    saved, lr = at_update(300, 600)
    ups = {}
    for rising in (True, False):
        pair = resumed(saved, optimizer_of(1200), rising=rising)
        assert lr_of(pair[1]) == pytest.approx(lr, rel=0.02)
        ups[rising] = max(trace(pair, 200)) > 1.1 * lr
    assert ups == {True: True, False: False}


def test_a_direction_that_the_curve_never_takes_is_no_hindrance():
    saved, lr = at_update(300, 600)
    pair = resumed(saved, optimizer_of(600, warmup_steps=0), rising=True)
    assert lr_of(pair[1]) == pytest.approx(lr, rel=0.01)


def test_another_peak_within_reach():
    saved, lr = at_update(400, 600)
    for peak_lr in (5e-4, 2e-3):
        pair = resumed(saved, optimizer_of(600, peak_lr=peak_lr))
        assert lr_of(pair[1]) == pytest.approx(lr, rel=0.01)
        lrs = trace(pair, 200)
        assert lrs[198] == 1e-5
        assert lrs[0] <= lr


def test_an_lr_out_of_reach_is_refused_and_changes_nothing():
    saved, lr = at_update(100, 600)
    _, optimizer = optimizer_of(600, peak_lr=5e-4)
    optimizer.load_state_dict(saved)
    before = copy.deepcopy(optimizer.state_dict()["scheduler"]), lr_of(optimizer)
    with pytest.raises(ValueError, match=rf"from 1e-05 to 0\.0005 and never comes within 1% of {lr:g}.* override"):
        optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups)
    assert (optimizer.state_dict()["scheduler"], lr_of(optimizer)) == before


@pytest.mark.parametrize("lr", [-1e-3, float("nan"), float("inf")])
def test_what_is_no_lr_is_refused(lr):
    _, optimizer = optimizer_of(600)
    with pytest.raises(ValueError, match="lr: must be a number >= 0"):
        optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups)


@pytest.mark.parametrize("done", [3, 20, 45])
@pytest.mark.parametrize("changed", [{"end_lr": 1e-6}, {"peak_lr": 95e-5}, {"warmup_steps": 80}, {"warmup_steps": 30}])
def test_in_the_warm_up_it_is_the_warm_up_that_goes_on(done, changed):
    """The steps of a warm-up are wider than 1 %, and the decay passes the lr as well."""
    saved, lr = at_update(done, 600)
    pair = resumed(saved, optimizer_of(600, **changed))
    _, step = steepest(pair[1], 600)
    assert lr_of(pair[1]) == pytest.approx(lr, abs=step)
    assert trace(pair, 2)[1] > lr
    assert max(trace(pair, 100)) == pytest.approx(changed.get("peak_lr", 1e-3), rel=0.01)


def adamw(schedule, done=0, **changed):
    pair = optimizer_of(600, "adamw", schedule=schedule, option_schedules={}, **changed)
    trace(pair, done)
    return pair


class TestOtherCurves:
    def test_step_lr_keeps_its_own_pace(self):
        saved = adamw({"type": "StepLR", "step_size": 40, "gamma": 0.1}, 50)[1].state_dict()
        pair = resumed(saved, adamw({"type": "StepLR", "step_size": 10, "gamma": 0.1}))
        assert lr_of(pair[1]) == pytest.approx(1e-4)
        assert trace(pair, 11) == pytest.approx([1e-5] * 10 + [1e-6])  # at the end of the stretch, nearest to update 50

    def test_a_jump_is_not_passed_through(self):
        _, optimizer = adamw({"type": "StepLR", "step_size": 40, "gamma": 0.1}, 5)
        with pytest.raises(ValueError, match=r"never comes within 1% of 0\.0005"):
            optimizer.scheduler.resume_at_lr(5e-4, optimizer.param_groups)

    def test_a_constant_stays_where_it_is(self):
        saved = adamw({"type": "constant"}, 70)[1].state_dict()
        _, optimizer = resumed(saved, adamw({"type": "constant"}))
        entry = optimizer.state_dict()["scheduler"]["entry"]
        assert entry == {"at": 70, "position": 70, "rate": 1.0}
        with pytest.raises(ValueError, match="override"):
            optimizer.scheduler.resume_at_lr(2e-3, optimizer.param_groups)

    def test_without_a_length_it_goes_on_at_its_own_pace(self):
        saved = adamw({"type": "inverse_sqrt", "num_warmup_steps": 10}, 400)[1]
        pair = resumed(saved.state_dict(), adamw({"type": "inverse_sqrt", "num_warmup_steps": 20}))
        assert lr_of(pair[1]) == pytest.approx(lr_of(saved), rel=0.01)
        entry = pair[1].state_dict()["scheduler"]["entry"]
        assert (entry["at"], entry["position"], entry["rate"]) == (400, pytest.approx(800, abs=2), 1.0)

    def test_steps_of_an_epoch_are_entered_as_wide_as_they_are(self):
        schedule = {"type": "cosine", "interval": "epoch"}
        saved = adamw(schedule, 333)[1]
        pair = optimizer_of(1200, "adamw", schedule=schedule, option_schedules={})
        resumed(saved.state_dict(), pair)
        curve, step = steepest(pair[1], 1200)
        assert lr_of(pair[1]) == pytest.approx(lr_of(saved), abs=step)
        assert trace(pair, 1200 - 333 - 1)[-1] == curve[-1]
        entry = pair[1].state_dict()["scheduler"]["entry"]
        assert entry["position"] % 10 == 3, "as far into an epoch as the run is"

    def test_a_schedule_that_a_metric_moves_is_refused(self):
        schedule = {"type": "ReduceLROnPlateau", "monitor": "loss"}
        for options in ({"schedule": schedule}, {"option_schedules": {"weight_decay": schedule}}):
            _, optimizer = optimizer_of(600, "adamw", **{**FACTORIES["adamw"], **options})
            with pytest.raises(ValueError, match=r"moved by metrics \(loss\).*[Oo]verride"):
                optimizer.scheduler.resume_at_lr(1e-3, optimizer.param_groups)

    def test_after_the_end_of_a_shorter_run_the_lr_holds(self):
        saved, lr = at_update(595, 600)
        pair = resumed(saved, optimizer_of(400))
        assert lr_of(pair[1]) == pytest.approx(lr, rel=0.02)
        assert trace(pair, 30)[-1] == 1e-5

    @pytest.mark.parametrize("done", [4_000_000, 10_000, 9_999_990])
    def test_in_a_very_long_run_the_position_is_found_to_the_update(self, done):
        schedule = factory("adamw_warmup_cosine_decay", total_steps=10_000_000, warmup_steps=20_000).curve
        lr = schedule.lr_at(done)
        warp = warp_to_lr(schedule, 1.0, lr, done)
        assert schedule.lr_at(warp.position) == pytest.approx(lr, rel=1e-9)
        assert warp.position_at(9_999_999) == 9_999_999

    @pytest.mark.parametrize("key", SCHEDULES)
    def test_the_curve_that_it_was_is_entered_where_it_stands_or_at_the_same_lr(self, key):
        _, optimizer = saved = adamw({"type": key, **SCHEDULES[key]}, 17)
        lr = lr_of(optimizer)
        if optimizer.scheduler.monitors:
            with pytest.raises(ValueError, match="moved by metrics"):
                optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups)
            assert lr_of(optimizer) == lr
            return
        state = json.loads(json.dumps(optimizer.state_dict()["scheduler"]))
        optimizer.scheduler.resume_at_lr(lr, optimizer.param_groups)
        assert lr_of(optimizer) == pytest.approx(lr, rel=0.01, abs=1e-15)
        assert all(value >= 0.0 for value in trace(saved, 30))
        config = json.loads(json.dumps(optimizer.scheduler.schedule.config()))
        assert state["config"] == ({} if key == "constant" else config)


def test_momentum_and_other_options_go_along(key):
    saved, _ = at_update(300, 600, key)
    _, optimizer = resumed(saved, optimizer_of(1200, key))
    position = optimizer.state_dict()["scheduler"]["entry"]["position"]
    assert position > 400
    schedule = optimizer.scheduler.schedule
    beta1 = schedule.bind().momentum_at(position) if schedule.moves_momentum() else 0.9
    assert optimizer.param_groups[0]["betas"][0] == beta1
    for option, other in optimizer.scheduler.option_schedules.items():
        assert optimizer.param_groups[0][option] == pytest.approx(other.lr_at(position) * optimizer.defaults[option])


def test_twice_the_second_entry_replaces_the_first(key):
    saved, _ = at_update(300, 600, key)
    second = resumed(saved, optimizer_of(1200, key), rising=False)
    trace(second, 200)
    lr = lr_of(second[1])
    third = resumed(second[1].state_dict(), optimizer_of(900, key), rising=False)
    assert third[1].scheduler.last_epoch == 500
    curve, step = steepest(third[1], 900)
    assert lr_of(third[1]) == pytest.approx(lr, abs=step)
    assert trace(third, 399)[-1] == curve[-1]


def test_groups_keep_their_shares_and_a_late_one_joins():
    _, optimizer = pair = optimizer_of(1200)
    saved, _ = at_update(300, 600)
    resumed(saved, pair)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "param_names": ["late"], "lr": 1e-4})
    for _ in range(3):
        lrs = [group["lr"] for group in optimizer.param_groups]
        assert lrs[1] == pytest.approx(lrs[0] / 10)
        assert optimizer.scheduler.get_last_lr() == lrs
        trace(pair, 1)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["schedule_entry"] == saved["param_groups"][1]["schedule_entry"]


def test_a_tensor_lr_is_entered_in_place():
    saved, lr = at_update(300, 600)
    _, optimizer = optimizer_of(1200, "adamw", lr=1e-3, capturable=False)
    optimizer.load_state_dict(saved)
    tensor = optimizer.param_groups[0]["lr"] = torch.tensor(lr)
    optimizer.scheduler.resume_at_lr(tensor, optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert float(tensor) == pytest.approx(lr, rel=0.01)
