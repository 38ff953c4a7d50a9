"""The site's pages have the paths that they have in the repository."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
PACKAGES = tuple(f"{package}/**/README.md" for package in ("benchmarks", "examples", "optimizer", "trainer"))
LINKED = (
    "docs/site.css",
    "docs/figures/*",
    "configs/**/*.yaml",
    "configs/**/*.py",
    "examples/**/*.py",
    "examples/**/*.yaml",
    "trainer/offline_rl/*.py",
)
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
