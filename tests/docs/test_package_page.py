"""The page that a package index shows stands alone, and names the extras that there are."""

import re
import tomllib

from conftest import ROOT, needs

from trainer.templates import TEMPLATES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / PROJECT["readme"]).read_text()
OF_DEVELOPERS = {"interop", "test", "check", "docs", "dev", "bench"}


@needs("markdown_it")
def test_the_page_of_the_package_has_no_link_or_picture_that_an_index_cannot_show():
    from markdown_it import MarkdownIt

    tokens = list(MarkdownIt().parse(PAGE))
    inner = [child for token in tokens for child in token.children or ()]
    assert not [token.type for token in [*tokens, *inner] if token.type.startswith("html")]
    targets = [token.attrs.get("href", token.attrs.get("src", "")) for token in inner if token.type != "text"]
    assert not [target for target in targets if target and not str(target).startswith("https://")]


def test_the_example_of_the_page_runs():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    assert names["optimizer"].scheduler.last_epoch == 200


def test_page_and_docs_name_every_extra_and_every_template():
    install = (ROOT / "docs/install.md").read_text()
    for extra in PROJECT["optional-dependencies"].keys() - OF_DEVELOPERS:
        assert f"`{extra}`" in PAGE
        assert re.search(rf"^\| .*`{extra}`.* \|", install, re.MULTILINE)
    for template in TEMPLATES:
        assert f"- `{template}` " in install
