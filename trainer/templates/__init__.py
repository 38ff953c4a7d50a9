"""New projects, from the files in this package."""

from .project import TEMPLATES as TEMPLATES
from .project import new_project as new_project
