"""The schedule's position in a state dict of an optimizer."""

from collections.abc import Mapping

from ..types import CURVE_WARP, POSITION, JsonObject, StateDict
from .rescale import CurveWarp

NO_POSITION = (
    "the state dict has no position of the schedule: a plain optimizer saved it. Set"
    ' state_dict["scheduler"] = {{"last_epoch": UPDATES_DONE}}, where a torch scheduler\'s state_dict() is accepted as'
    " well, or load it with strict=False: the schedule then stays at update {here}."
)


def position_in(state_dict: StateDict) -> JsonObject | None:
    """Return the scheduler's state in `state_dict`, or one with the position that its groups mirror; else None.

    Args:
        state_dict: of an optimizer with or without a schedule inside.

    Raises:
        ValueError: for a position that is not a whole number >= 0, or an invalid warp of the curve.
    """
    saved = state_dict.get("scheduler")
    if isinstance(saved, Mapping) and "last_epoch" in saved:
        if type(saved["last_epoch"]) is not int or saved["last_epoch"] < 0:
            raise ValueError(f"scheduler.last_epoch: must be a whole number >= 0; got {saved['last_epoch']!r}")
        CurveWarp.from_state(saved.get("entry"))  # raises for an invalid one
        return dict(saved)
    groups = state_dict["param_groups"]
    positions = {int(group[POSITION]) for group in groups if POSITION in group}
    warp = next((group[CURVE_WARP] for group in groups if CURVE_WARP in group), None)
    CurveWarp.from_state(warp)
    return {"last_epoch": max(positions), "entry": warp} if positions else None
