"""What the site needs beyond mkdocs.yml: pages with the repository's own paths, and the meaning of exported names."""

from pathlib import Path
from typing import Any

from griffe import Alias, Extension, Module
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
PACKAGES = tuple(f"{package}/**/README.md" for package in ("benchmarks", "examples", "optimizer", "trainer"))
LINKED = ("docs/site.css", "docs/figures/*", "configs/*.yaml", "examples/**/*.py", "examples/**/*.yaml")
"""Files that pages use, show or link to. They are copied as they are."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir` by the published ones, each under its path in the repository.

    A link between pages is then the same on the site and on GitHub.
    """
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({path for pattern in PAGES + PACKAGES + LINKED for path in ROOT.glob(pattern)})
    published = [path.relative_to(ROOT).as_posix() for path in paths]
    return Files(
        [*of_theme, *(File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in published)]
    )


class ExportedNames(Extension):
    """Griffe extension: a name that a package exports is what `__init__` imports, also beside a module of that name."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Point each exported name that Griffe takes for a module at the object that Python would give."""
        for name in map(str, pkg.exports or ()):
            if pkg.members[name].is_module and name in pkg.imports:
                found = pkg[pkg.imports[name].removeprefix(f"{pkg.path}.")]
                pkg.set_member(name, Alias(name, found.final_target if found.is_alias else found, parent=pkg))
