"""What an optimizer follows: values by the number of the update, and for some a metric that moves them."""

from typing import Any


class Curve:
    """The values that updates run at. A pure curve needs `lr_at` alone; the rest is for those with a state."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate (or the factor) that update `step` runs at."""
        raise NotImplementedError

    def momentum_at(self, step: int) -> float | None:
        """Return the momentum (beta1) that update `step` runs at; None leaves it alone."""
        return None

    def monitors(self) -> set[str]:
        """Return the names of the metrics that move this curve."""
        return set()

    def report(self, name: str, value: float, step: int) -> None:
        """Take a metric that was measured when `step` updates were done."""

    def curve_state(self) -> dict[str, Any]:
        """Return what the metrics so far left behind, as plain values; empty for a pure curve."""
        return {}

    def load_curve_state(self, state: dict[str, Any]) -> None:
        """Restore what `curve_state` returned. Raises KeyError if another kind of curve returned it."""
        if state:
            raise KeyError(next(iter(state)))


class PacedCurve(Curve):
    """A curve of which one step takes several updates; of each metric it takes the first in each step.

    pace: updates a step.
    """

    def __init__(self, curve: Curve, pace: int) -> None:
        self._curve = curve
        self._pace = pace
        self._reported: dict[str, int] = {}

    def lr_at(self, step: int) -> float:
        return self._curve.lr_at(step // self._pace)

    def momentum_at(self, step: int) -> float | None:
        return self._curve.momentum_at(step // self._pace)

    def monitors(self) -> set[str]:
        return self._curve.monitors()

    def report(self, name: str, value: float, step: int) -> None:
        if step // self._pace > self._reported.get(name, -1):
            self._reported[name] = step // self._pace
            self._curve.report(name, value, step // self._pace)

    def curve_state(self) -> dict[str, Any]:
        state = self._curve.curve_state()
        return {"reported": dict(self._reported), "curve": state} if state else {}

    def load_curve_state(self, state: dict[str, Any]) -> None:
        self._curve.load_curve_state(state["curve"] if state else {})
        self._reported = dict(state["reported"]) if state else {}
