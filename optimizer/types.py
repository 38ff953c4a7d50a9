"""The vocabulary that all of the library shares: the types of groups and state, and the keys that a group records."""

from typing import Any, Protocol, runtime_checkable

ParamGroup = dict[str, Any]
"""A parameter group of torch's: `params`, and the options of the class by name."""

Options = dict[str, Any]
"""Options of an optimizer class, by the names of its arguments."""

StateDict = dict[str, Any]
"""The return type of an optimizer's `state_dict()`."""

POSITION = "schedule_position"
"""The key under which every parameter group mirrors the position, for tools that keep only groups."""

CURVE_WARP = "schedule_entry"
"""The key under which every group mirrors the `CurveWarp` of a schedule that was resumed at an lr."""

INITIAL = "initial_"
"""The prefix of an option's name under which a group holds the group's own value of it, as `initial_lr` in
torch.optim.lr_scheduler."""

StateTable = dict[Any, Any]
"""The `state` of an optimizer by parameter (or its id), or the entries of one parameter by name."""

JsonObject = dict[str, Any]
"""Plain values by name, as JSON holds them."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The names of Adam's two moments in the state of a parameter."""


@runtime_checkable
class HasSchedule(Protocol):
    """An optimizer that carries its schedule inside."""

    @property
    def scheduler(self) -> Any:
        """The position, and the values that it writes into the groups; an `EmbeddedScheduler` in this library."""
        ...

    def report_metric(self, name: str, value: float) -> None:
        """Report a metric to the schedule inside."""
        ...


@runtime_checkable
class SwitchesWeights(Protocol):
    """An optimizer that trains at other weights than those to evaluate, and switches between the two."""

    def train(self) -> None:
        """Switch to the weights to train."""
        ...

    def eval(self) -> None:
        """Switch to the weights to evaluate and save."""
        ...
