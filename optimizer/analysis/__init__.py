"""Values and warnings about a run before it begins."""

from .lint import schedule_warnings
from .preview import Preview, panels

__all__ = ["Preview", "panels", "schedule_warnings"]
