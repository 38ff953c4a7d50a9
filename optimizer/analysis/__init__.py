"""Values and warnings about a run that has not begun."""

from .lint import warnings_about
from .preview import Preview, panels

__all__ = ["Preview", "panels", "warnings_about"]
