"""Steps of every key on shards of FSDP2, against the same training in one piece, in float64."""

import pytest
from sample_sharded_steps import compared

from optimizer import OPTIMIZER_BUILDER_REGISTRY

REFUSED = {
    "adafactor": "rows and columns",
    "lbfgs": "dot products",
    "sparseadam": "sparse gradients",
}
NOT_CAUTIOUS = {"multi_adam", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"}
KEYS = sorted(set(OPTIMIZER_BUILDER_REGISTRY) - REFUSED.keys())
CAUTIOUS = [key for key in KEYS if key not in NOT_CAUTIOUS]
CLIPPED = {"grad_clip_norm": 0.03}
RULES = {**CLIPPED, "param_groups": [{"match": "0.*", "lr_multiplier": 0.3}]}
IMPLEMENTATIONS = [
    (key, implementation, cautious)
    for key in ("adamw", "sgd")
    for implementation in ("auto", "fused", "foreach", "single", "compiled")
    for cautious in (False, True)
    if (key, implementation, cautious) != ("sgd", "compiled", False)
]


def all_reports():
    """Return the reports of all cases, by their name."""
    cases = {key: (key, {}) for key in REFUSED} | {key: (key, RULES) for key in KEYS}
    cases["multi_adam"] = "multi_adam", CLIPPED  # it has no rules
    cases |= {f"{key} cautious": (key, {"use_cautious_optimizer": True, "grad_clip_norm": None}) for key in CAUTIOUS}
    cases |= {
        f"{key} {implementation} {cautious}": (
            key,
            {"implementation": implementation, "use_cautious_optimizer": cautious, "grad_clip_norm": None},
        )
        for key, implementation, cautious in IMPLEMENTATIONS
    }
    cases["schedule_free_radam compiled"] = "schedule_free_radam", {"implementation": "compiled"}
    return {name: compared(key, **params) for name, (key, params) in cases.items()}


def muon_of_all_matrices():
    return compared("muon", fallback_match=[])


@pytest.fixture(scope="module")
def of_two(two_workers):
    return two_workers.call(all_reports, timeout=240)


@pytest.fixture(scope="module")
def of_four(four_workers):
    """At four processes some shards have no rows."""
    return four_workers.call(all_reports, timeout=400)


@pytest.fixture(params=["of_two", pytest.param("of_four", marks=pytest.mark.slow)])
def reports(request):
    return request.getfixturevalue(request.param)


def check(of_ranks, name):
    for reports in of_ranks:
        report = reports[name]
        assert report["apart"] < 1e-12
        assert report["moved"] > 1e-5
        assert report["misplaced"] == []
        assert report["norms"][0] == pytest.approx(report["norms"][1], rel=1e-12)
    return of_ranks[0][name]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_trains_and_clips_shards_as_one_piece(reports, key):
    report = check(reports, key)
    assert min(report["norms"][0]) > CLIPPED["grad_clip_norm"]
    assert report.get("evaluated apart", 0.0) < 1e-12
    assert report.get("back", True)  # from the weights to evaluate, bit for bit


@pytest.mark.parametrize("key", CAUTIOUS)
def test_a_cautious_step_of_shards_takes_the_mean_over_the_whole_in_one_message(reports, key):
    sent = check(reports, f"{key} cautious")["sent"]
    assert sent == 1 or key == "muon"  # whose steps send messages themselves


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda case: f"{case}")
def test_an_implementation_steps_shards_as_one_piece(reports, implementation):
    key, name, cautious = implementation
    assert check(reports, f"{key} {name} {cautious}")["sent"] == int(cautious)


def test_the_compiled_schedule_free_step_of_shards_is_that_of_one_piece(reports):
    assert check(reports, "schedule_free_radam compiled")["sent"] == 0


@pytest.mark.slow
def test_muon_refuses_a_matrix_with_fewer_rows_than_processes(four_workers):
    report = four_workers.call(muon_of_all_matrices)[0]
    assert "'2.weight'" in report["refused"]
    assert "fallback_match" in report["refused"]


@pytest.mark.parametrize("key", REFUSED)
def test_a_class_that_needs_the_whole_is_refused_when_it_is_built(reports, key):
    for of_rank in reports:
        assert REFUSED[key] in of_rank[key]["refused"]
        assert "'0.weight'" in of_rank[key]["refused"]
