"""The only imports by name: of modules that a config names, and of the entry points of installed distributions."""

import importlib
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from threading import Lock
from types import ModuleType

from .messages import listed, message_of, nearest, shown, shown_value


class NotImportedError(ValueError):
    """A module that a config names cannot or must not be imported. The message has reason, line and remedy."""


class PluginWarning(UserWarning):
    """An entry point of an installed distribution is left out, or a module is not the one beside the config."""


OURS = ("optimizer", "trainer")

_FOLDERS: ContextVar[Sequence[Path]] = ContextVar("folders", default=())
_ANNOUNCE: ContextVar[Callable[[str], None] | None] = ContextVar("announce", default=None)
_FOUND: dict[str, Sequence[Path]] = {}
_LOCK = Lock()
_RULE = "--no-plugins, or no_plugins() in Python, allows only keys that are built in"
_refusals: list[str] = []  # for all threads: one that is started meanwhile must not import either


@contextmanager
def no_plugins(rule: str = _RULE) -> Iterator[None]:
    """Allow configs only keys that are registered, so that an untrusted config imports no code.

    Plugin modules and dotted paths are errors, and entry points of installed distributions are not loaded.

    Args:
        rule: The beginning of the message of such an error.
    """
    with _LOCK:
        _refusals.append(rule)
    try:
        yield
    finally:
        with _LOCK:
            _refusals.remove(rule)


@contextmanager
def search_in(folders: Sequence[Path]) -> Iterator[None]:
    """Also look for the modules that a config names in `folders`, in order, after everything that is installed."""
    token = _FOLDERS.set(folders)
    try:
        yield
    finally:
        _FOLDERS.reset(token)


@contextmanager
def log_imports(log: Callable[[str], None]) -> Iterator[None]:
    """Call `log` with "MODULE (FILE)" before each module that is imported and does not belong to innerstep."""
    token = _ANNOUNCE.set(log)
    try:
        yield
    finally:
        _ANNOUNCE.reset(token)


def refuse_under_no_plugins(*modules: str) -> None:
    """Refuse to import `modules` inside `no_plugins()`.

    Raises:
        NotImportedError: Nothing may be imported. The message names the modules.
    """
    if _refusals and modules:
        raise NotImportedError(f"{_refusals[-1]}; not imported: {listed(modules)}")


def load_module(name: str) -> ModuleType:
    """Return the module called `name`, imported.

    Raises:
        NotImportedError: It must not be imported, or importing it failed.
    """
    refuse_under_no_plugins(name)
    _check_form(name)
    top = name.partition(".")[0]
    beside = _spec_beside(top)
    if beside is not None:
        # At the end: the standard library, installed packages and innerstep are found first. The folders stay there, as
        # the module's code may import more when it runs, also in worker processes.
        sys.path += [str(folder) for folder in _FOLDERS.get() if str(folder) not in sys.path]
    if name not in sys.modules:
        importlib.invalidate_caches()
        _announce(name, top)
    try:
        module = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the code of users and libraries may raise anything, or exit
        raise NotImportedError(f"{shown(name)} cannot be imported: {_reason(name, error)}") from error
    _note_place(top, beside)
    return module


def object_at(path: str) -> object:
    """Return the object at a dotted path, my_pkg.module.name.

    Raises:
        NotImportedError: The module cannot be imported, or has no such name.
    """
    module_name, _, name = path.rpartition(".")
    module = load_module(module_name)
    try:
        found: object = getattr(module, name)
    except AttributeError:
        names = [name for name in dir(module) if not name.startswith("_")]
        raise NotImportedError(f"{shown(module_name)} has no {shown(name)}{nearest(name, names)}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module's own __getattr__
        raise NotImportedError(f"{shown(path)} cannot be imported: {_describe(error)}") from error
    return found


def load_installed(group: str, register: Callable[[str, object], None]) -> bool:
    """Call `register` with the name and the object of each entry point that installed distributions have in `group`.

    An entry point that fails is left out with a warning.

    Returns:
        True; False, and nothing is loaded, inside `no_plugins()`.
    """
    if _refusals:
        return False
    from importlib.metadata import entry_points  # slow, and needed only by a miss or a listing

    try:
        found = list(entry_points(group=group))
    except Exception as error:  # a distribution whose metadata are damaged
        _warn(f"the entry points of installed distributions cannot be read: {_describe(error)}")
        return True
    for entry in found:
        try:
            register(entry.name, entry.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            owner = f"of {entry.dist.name} {entry.dist.version} " if entry.dist else ""
            _warn(
                f"the entry point {entry.name} = {entry.value} {owner}in {group} is left out: {_describe(error)}."
                " Repair or uninstall the distribution."
            )
    return True


def folders_of_modules(names: Iterator[str]) -> list[Path]:
    """Return the folders that the modules in `names` were found in.

    Args:
        names: Names of modules, dotted paths, `module:name`, and any other text, which is ignored.
    """
    tops = {name.partition(":")[0].partition(".")[0] for name in names}
    return list(dict.fromkeys(folder for top, folders in _FOUND.items() if top in tops for folder in folders))


def _check_form(name: str) -> None:
    stem = name.removesuffix(".py").strip("./\\ ").replace("/", ".").replace("\\", ".")
    if name.endswith(".py") or any(not part.strip() or set(part) & set("/\\\0") for part in name.split(".")):
        remedy = f"write {shown(stem)}" if stem else "write my_parts for my_parts.py"
        raise NotImportedError(f"{shown_value(name)} is not the name of a module: {remedy}")


def _spec_beside(top: str) -> ModuleSpec | None:
    """Return the spec of the module or package called `top` in the first of the folders that has it."""
    specs = (PathFinder.find_spec(top, [str(folder)]) for folder in _FOLDERS.get() if top not in OURS)
    return next((spec for spec in specs if spec is not None), None)


def _announce(name: str, top: str) -> None:
    log = _ANNOUNCE.get()
    if log is None or top in OURS:
        return
    try:
        spec = sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        log(f"{name} ({spec.origin or ', '.join(spec.submodule_search_locations or ())})")


def _note_place(top: str, beside: ModuleSpec | None) -> None:
    """Remember which folders have been used, and warn if a module is not the one beside the config."""
    if top not in sys.modules or beside is None:
        return
    place, folders = _folder_of(sys.modules[top]), [(folder, str(folder)) for folder in _FOLDERS.get()]
    if place is not None and any(_is_same(place, text) for _, text in folders):
        used = {_folder_of(module) for name, module in [*sys.modules.items()] if "." not in name}  # also by the module
        _FOUND[top] = [folder for folder, text in folders if text in used or _is_same(place, text)]
    if beside.origin is None:  # a folder without __init__.py, or one of data
        return
    expected = os.path.dirname(next(iter(beside.submodule_search_locations or ()), beside.origin))
    if place is None or not _is_same(place, expected):
        source = f"from {place}" if place else "from Python itself"
        _warn(f"{top} is imported {source}, not from {beside.origin}: installed modules come first. Rename yours.")


def _folder_of(module: ModuleType) -> str | None:
    """Return the folder of a top-level module or package; None if it is built in, or made by hand."""
    attributes = getattr(module, "__dict__", {})
    place = next(iter(attributes.get("__path__") or ()), attributes.get("__file__"))
    return os.path.dirname(place) if isinstance(place, str) else None


def _is_same(folder: str, other: str) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _reason(name: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not missing or not f"{name}.".startswith(f"{missing}.") or _line(error):
        return _describe(error)
    folders = _FOLDERS.get()
    known = [] if "." in missing else [module.name for module in iter_modules([str(folder) for folder in folders])]
    then = "".join(f", then in {folder}" for folder in folders)
    return (
        f"there is no module {shown_value(missing)}{nearest(missing, known)}"
        f" Modules are looked for where Python finds installed packages{then}."
    )


def _describe(error: BaseException) -> str:
    """Return the type and the message of `error`, and the line of the user's code that raised it."""
    text = error.msg if isinstance(error, SyntaxError) else message_of(error)
    line = _line(error)
    return f"{type(error).__name__}: {text}" + (f" ({line})" if line else "")


def _line(error: BaseException) -> str | None:
    """Return FILE:LINE of the last frame outside of Python and of libraries, or else outside of Python's importing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = Path(__file__).parents[1]
    ours = [package, package.with_name("trainer")]
    python, libraries = Path(importlib.__file__).parent, [Path(path) for path in sysconfig.get_paths().values()]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", "<string")) and not _is_below(frame.filename, [python, *ours])
    ]
    own = [frame for frame in frames if not _is_below(frame.filename, libraries)]
    last = next(reversed(own or frames), None)
    return None if last is None else f"{last.filename}:{last.lineno}"


def _is_below(file: str, folders: Sequence[Path]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _warn(text: str) -> None:
    warnings.warn(text, PluginWarning, stacklevel=2)
