"""The command `innerstep`, also as `python -m innerstep`: it runs the packages beside this file.

A `trainer.py` or `optimizer.py` in the working directory or in PYTHONPATH hides neither of them.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_OURS = ("optimizer", "trainer")
_EXIT_CODE = 2


def main() -> None:
    """Run the command line. A clash with another distribution ends it with a message and exit code 2."""
    try:
        packages = [_load(name) for name in _OURS]
        command = import_module("trainer.cli.main").main
    except (ImportError, OSError, AttributeError) as error:
        _explain_clash(error)
        raise
    if not all(hasattr(package, "_modules_of_names") for package in packages):
        _explain_clash(ImportError("a file of innerstep is another one"))
    command()


def _load(name: str) -> ModuleType:
    """Import the package `name` that lies beside this file."""
    folder = Path(__file__).parent / name
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None, "the loader of .py files makes it"
    assert spec.loader is not None, "the same"
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _explain_clash(error: Exception) -> None:
    """End the command if another distribution has files in innerstep's packages, which it may have overwritten."""
    if owners := sorted(set(_other_owners())):
        names = ", ".join(owners)
        sys.stderr.write(
            f"error: innerstep cannot start ({type(error).__name__}: {error}). {names} has a package of the same name"
            " as innerstep's `trainer` or `optimizer`, and in one environment each overwrites files of the other."
            " Install them in two environments; or remove the other one and repair this one:\n"
            f"  {sys.executable} -m pip uninstall {' '.join(owners)}\n"
            f"  {sys.executable} -m pip install --force-reinstall --no-deps innerstep\n"
        )
        sys.exit(_EXIT_CODE)


def _other_owners() -> Iterator[str]:
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name != "innerstep" and any(
            file.parts[0].removesuffix(".py") in _OURS for file in distribution.files or () if file.parts
        ):
            yield name


if __name__ == "__main__":
    main()
