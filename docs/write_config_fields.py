"""Writes config_fields.md from the config's types, defaults and docstrings: python docs/write_config_fields.py"""

from pathlib import Path

from trainer.reporting.config_reference import CONFIG, ConfigField, Section, sections
from trainer.reporting.field_text import wrapped

PAGE = Path(__file__).parent / "config_fields.md"
WIDTH = 120
HEAD = """# Config fields

This page lists every field of a config with its type, its default and its meaning. `innerstep describe train` shows the
same in a terminal. [config.md](config.md) describes the file: how values, overrides and paths are written.

The page is generated from the docstrings of the config's classes. After a change there, run `make config-fields`.

- A path is written as on the command line: `--train.device=cpu` sets `train.device`. `NAME` stands for a component's
  name.
- A range stands after the type: `integer (>= 1)`. `|` separates alternatives.
- A field that is left out has its default. A required field must be given.
- `params` has the parameters of the class that `type` names. `innerstep list` lists the keys, `innerstep describe KEY`
  lists the parameters of one.
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *map(_section, sections())])


def _section(section: Section) -> str:
    title = "The whole config" if section.head.path == CONFIG else f"`{section.head.path}`"
    others = ", ".join(f"`{path}`" for path in section.also)
    meaning = section.head.meaning + (f" The same section: {others}." if others else "")
    return "\n".join([f"## {title}", "", *wrapped(meaning, WIDTH, 0), "", *map(_entry, section.fields), ""])


def _entry(field: ConfigField) -> str:
    name = field.path.rpartition(".")[2]
    link = f" Fields: [`{field.section}`](#{_anchor(field.section)})." if field.section else ""
    return "\n".join([f"- **`{name}`**: {field.form}.", *wrapped(field.meaning + link, WIDTH, 2)])


def _anchor(path: str) -> str:
    return path.replace(".", "").lower()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
