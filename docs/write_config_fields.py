"""Writes config_fields.md, and the names that a shell completes, from the code: python docs/write_config_fields.py"""

from pathlib import Path

from trainer.cli.completion import FIELD, NAMES
from trainer.reporting.config_reference import CONFIG, NAME, ConfigField, Section, sections
from trainer.reporting.field_text import wrapped
from trainer.reporting.registry_listing import key_summaries

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


def names() -> str:
    """Return a line for each key and each field: kind, name and the first sentence of its meaning."""
    fields = [field for section in sections() for field in section.fields if NAME not in field.path.split(".")]
    rows = [*key_summaries(), *((FIELD, field.path, field.meaning) for field in fields)]
    return "".join(f"{kind}\t{name}\t{_first_sentence(meaning)}\n" for kind, name, meaning in rows)


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


if __name__ == "__main__":
    NAMES.write_text(names(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
