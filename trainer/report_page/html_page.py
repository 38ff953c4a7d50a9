"""The page of plain values: one HTML file with its style and script inside, and nothing else to load or run."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from optimizer.config import visible

SCRIPTS = ("elements.js", "lines.js", "charts.js", "sections.js", "page.js")
"""The parts of the script, in the order in which they use each other."""


def html_page(values: Mapping[str, Any]) -> str:
    """Return the page that shows plain values.

    The values stand in it as JSON without `<`, `>` and `&`, which the script turns into text and never into markup.
    The content security policy of the page allows this style and this script, by their hashes, and nothing else.
    """
    style = _part("page.css")
    script = "'use strict';\n" + "\n".join(map(_part, SCRIPTS))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash_of(style)}'",
            f"script-src '{_hash_of(script)}'",
            "img-src data:",
            "media-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    names = ", ".join(str(run["name"]) for run in values["runs"])
    parts = {"policy": policy, "style": style, "script": script, "values": as_script_data(values)}
    parts["title"] = html.escape(visible(f"{names} · innerstep report").replace("\n", " "))
    return re.sub(r"\{\{([a-z]+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def as_script_data(values: Mapping[str, Any]) -> str:
    """Return plain values as JSON that cannot end the element it stands in. Invisible characters become escapes."""
    text = json.dumps(_visible(values), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(value: Any) -> Any:
    """Return plain values whose texts have no control characters and none that change the direction of writing."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(name)): _visible(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple) and not all(isinstance(one, int | float) for one in value):
        return [_visible(inner) for inner in value]
    return value


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash_of(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
