"""The updates at which a component is stepped."""

from dataclasses import dataclass

from optimizer import Horizon


@dataclass(frozen=True)
class Turns:
    """The updates of a component: from number `first` on, each whose number can be divided by `every`."""

    every: int = 1
    first: int = 0

    def include(self, update: int) -> bool:
        """Return whether the component is stepped in update number `update`."""
        return update >= self.first and update % self.every == 0

    def before(self, update: int) -> int:
        """Return the number of steps before update number `update`."""
        return max(0, -(-update // self.every) - -(-self.first // self.every))

    def horizon(self, run: Horizon) -> Horizon:
        """Return the length of a run in steps of the component."""
        per_epoch = run.steps_per_epoch
        return Horizon(
            max(1, self.before(run.total_steps)), None if per_epoch is None else max(1, round(per_epoch / self.every))
        )
