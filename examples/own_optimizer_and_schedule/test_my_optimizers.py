"""`check_factory` drives the optimizer with its schedule inside: saved and loaded states, skipped steps, hooks, copies.
Run it with `pytest test_my_optimizers.py`. The error lists the promises that the optimizer breaks."""

from my_optimizers import Cooldown  # which also registers the keys

from optimizer import OPTIMIZER_BUILDER_REGISTRY, check_factory


def test_lion_keeps_every_promise() -> None:
    check_factory("lion")


def test_lion_with_a_cooldown_keeps_every_promise() -> None:
    check_factory(OPTIMIZER_BUILDER_REGISTRY["lion"](lr=1e-3, schedule={"type": "cooldown", "total_steps": 20}))


def test_cooldown_falls_to_zero_and_stays_there() -> None:
    schedule = Cooldown(total_steps=100, share=0.2)
    assert [schedule.lr_at(update) for update in (0, 80, 85, 100, 1000)] == [1.0, 1.0, 0.5, 0.0, 0.0]
