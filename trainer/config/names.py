"""Names of components: those that a folder, nn.ModuleDict and the config can have."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping

from optimizer.config import nearest, refusal

from ..interfaces.component import Components
from .init_from import NAME

_NAME_BYTES = 255
"""Limit of file systems. A component's folder has its name."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³")}
"""Names that no folder on Windows can have, in any case of letters."""


def check_names(names: Iterable[str], taken: Mapping[str, str]) -> None:
    """Check the names of components.

    Args:
        names: To check.
        taken: Names of other components, and what has them.

    Raises:
        ValidationError: One cannot be a component's name, or is taken. The path is the name.
    """
    folders = {_folder(name): (name, f", which {owner} has") for name, owner in taken.items()}
    instance = Components({}, {})  # an instance has more names than its class
    for name in names:
        if not re.fullmatch(NAME, name) or hasattr(instance, name):
            rule = "cannot be a component's name: use letters, digits, _ and -, and no name that nn.ModuleDict has"
            raise refusal(rule, (name,), name)
        if len(name.encode()) > _NAME_BYTES:
            raise refusal(f"a component's name must have at most {_NAME_BYTES} bytes", (name,), name)
        if name.casefold() in _DEVICES:
            raise refusal("cannot be a component's name: Windows has no folder of this name", (name,), name)
        other, owner = folders.setdefault(_folder(name), (name, ""))
        if owner and other == name:
            raise refusal(f"must differ from {other!r}{owner}", (name,), name)
        if other != name:
            rule = f"must differ from {other!r}{owner} in more than case: on some file systems both are one folder"
            raise refusal(rule, (name,), name)


def check_there(names: Iterable[str], components: Collection[str]) -> None:
    """Check that there is a component of each name.

    Raises:
        ValidationError: There is none of one. The path is the name.
    """
    for name in names:
        if name not in components:
            rule = f"there is no component of this name{nearest(str(name), list(components))}"
            raise refusal(f"{rule} Components: {', '.join(components)}", (name,), name)


def _folder(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
