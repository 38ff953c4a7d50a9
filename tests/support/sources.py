"""The source files of the two packages, by module."""

from conftest import ROOT


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for package in ("optimizer", "trainer") for path in (ROOT / package).rglob("*.py")}
