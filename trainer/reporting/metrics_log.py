"""The metrics of a run, on their way to each of its sinks.

A sink that innerstep brings is one module of this package whose name ends in `_sink`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import TracebackType
from typing import Self

from optimizer import UnknownKeyError

from ..errors import ConfigError, user_code
from ..interfaces.metrics_sink import SINK_REGISTRY, MetricsLine, MetricsSink, NeedsPackage

for _module in iter_modules([str(Path(__file__).parent)]):
    if _module.name.endswith("_sink"):
        import_module(f".{_module.name}", __package__)


def sink_classes(keys: Sequence[str]) -> dict[str, type[MetricsSink]]:
    """Return the sinks that `train.log` names, by key.

    Raises:
        ConfigError: There is no sink of a name, two names are those of one sink, or a sink's package is missing.
    """
    classes: dict[str, type[MetricsSink]] = {}
    for index, key in enumerate(keys):
        try:
            cls = SINK_REGISTRY[key]
        except UnknownKeyError as error:
            raise ConfigError(f"train.log.{index}: {error}") from error
        if (same := next((name for name, other in classes.items() if other is cls), None)) is not None:
            raise ConfigError(f"train.log.{index}: must be another place than {same!r}; got {key!r}. Remove one.")
        if isinstance(cls, NeedsPackage):
            cls.check_package(f"train.log.{index}: {key}")
        classes[key] = cls
    return classes


class MetricsLog:
    """The open sinks of a run. Each line goes to all of them.

    Args:
        classes: The sinks by key.
        run_dir: The run's directory.
        step: Updates done.
        failed: Called with a message and the OSError where a sink could not be opened, or could not write a line; it
            may raise. A sink that could not be opened gets no lines.

    Raises:
        SaveError: A sink could not be opened, unless train.on_save_error is "continue". Those opened before are closed.
        UserCodeError: The code of a sink fails.
    """

    def __init__(
        self,
        classes: Mapping[str, type[MetricsSink]],
        run_dir: Path,
        step: int,
        failed: Callable[[str, OSError], None],
    ) -> None:
        self._failed = failed
        self._sinks: dict[str, MetricsSink] = {}
        try:
            for key, cls in classes.items():
                with self._calling_sink(key):
                    self._sinks[key] = cls(run_dir, step)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def write(self, line: MetricsLine) -> None:
        """Hand a line to each sink.

        Raises:
            SaveError: A sink could not write it, unless train.on_save_error is "continue".
            UserCodeError: The code of a sink fails.
        """
        for key, sink in self._sinks.items():
            with self._calling_sink(key):
                sink.write(dict(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close each sink. A failure is raised unless the body raised before."""
        with suppress(Exception) if kind is not None else nullcontext(), ExitStack() as stack:
            for key, sink in self._sinks.items():
                stack.enter_context(self._calling_sink(key))
                stack.callback(sink.close)

    @contextmanager
    def _calling_sink(self, key: str) -> Iterator[None]:
        """Run the body, code of a sink."""
        with user_code(f"train.log: {key}"):
            try:
                yield
            except OSError as error:
                place = error.filename or f"train.log: {key}"
                self._failed(f"{place}: cannot be written: {error.strerror or error}", error)
