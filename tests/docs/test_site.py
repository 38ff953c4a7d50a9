"""The docs site shows every page and every public name."""

import re

import pytest
import yaml
from conftest import ROOT

import optimizer
import trainer


class NavLoader(yaml.SafeLoader):
    """Reads mkdocs.yml, in which tags name functions of the site's libraries."""


NavLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def listed(entries):
    """Return the pages of a `nav` and of the sections in it."""
    for entry in entries:
        for page in entry.values() if isinstance(entry, dict) else [entry]:
            yield from listed(page) if isinstance(page, list) else [page]


def test_every_page_is_in_the_navigation_once():
    pages = list(listed(yaml.load((ROOT / "mkdocs.yml").read_text(), NavLoader)["nav"]))
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {*docs, "README.md", "optimizer/README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(pages)
    assert len(pages) == len(set(pages))


@pytest.mark.parametrize("module", [optimizer, trainer], ids=lambda module: module.__name__)
def test_the_api_page_shows_every_public_name_once(module):
    page = (ROOT / f"docs/api/{module.__name__}.md").read_text()
    shown = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(f"{module.__name__}.{name}" for name in module.__all__)
