"""Whether the objective steps each component as often as the config plans."""

from optimizer.config import counted

from .gradient_updates import GradientUpdater

NOTICED_AFTER = 100
"""Updates after which a component that is not stepped as planned is reported; again at the end."""


def step_count_notices(updater: GradientUpdater, updates: range) -> list[str]:
    """Return a line for each component that was not stepped in `updates` as often as planned, or skipped some."""
    lines = []
    for name in updater.optimizers:
        planned_at, turns = updater.rules.turns[name], updater.turns.get(name, 0)
        planned = planned_at.before(updates.stop) - planned_at.before(updates.start)
        if turns == 0 and planned > 0:
            lines.append(f"{name}: the objective did not step its optimizer in {counted(len(updates), 'update')}")
        elif abs(turns - planned) > (planned_at.every > 1):  # an objective may take the other of two updates
            remedy = f"Set model.component_optims.{name}.every to the updates between two steps."
            if turns > len(updates):
                remedy = "Give the schedule the length of the run in steps, where it has one."
            lines.append(
                f"{name}: was stepped {counted(turns, 'time')} in {counted(len(updates), 'update')}, and"
                f" planned were {planned}: its schedule is off the plan. {remedy}"
            )
        if skipped := updater.skipped.get(name):
            lines.append(f"{name}: skipped {counted(skipped, 'update')}, as values were not finite")
    return lines
