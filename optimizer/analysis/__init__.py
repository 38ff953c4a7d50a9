"""Values and warnings about a run before it begins."""

from .lint import FIRST_AT_ZERO, schedule_warnings
from .preview import Preview, panels

__all__ = ["FIRST_AT_ZERO", "Preview", "panels", "schedule_warnings"]
