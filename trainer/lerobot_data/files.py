"""Files in the folder of a data set: JSON and parquet, of which nothing is run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from optimizer.config import listed, nearest, shown

from ..errors import ConfigError, missing_extra


class Record(BaseModel):
    """A JSON object of a data set. Fields that the reader does not need are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=Record)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ConfigError: It is missing, cannot be read, or is not JSON.
    """
    return _parse(_text(path), path, "")


def read_record(path: Path, kind: type[R]) -> R:
    """Return the record in a JSON file.

    Raises:
        ConfigError: It is missing, cannot be read, or is not such a record.
    """
    return _record(read_json(path), kind, path, "")


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Return the records in a file with one JSON object a line.

    Raises:
        ConfigError: It is missing, cannot be read, or a line is not such a record.
    """
    lines = [(f", line {number}", line) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    return [_record(_parse(line, path, place), kind, path, place) for place, line in lines]


def read_table(path: Path, columns: Sequence[str]) -> Any:
    """Return some columns of a parquet file as a pyarrow.Table, which has no types.

    Raises:
        ConfigError: It is missing or cut, or a column is not there.
    """
    parquet = _pyarrow_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            return file.read(columns=list(columns))
    except (OSError, ValueError) as error:  # pyarrow's errors of invalid files are ValueErrors
        raise _unreadable(path, error) from error


def read_rows(path: Path, kinds: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the rows of a parquet file as plain values.

    Args:
        path: The file.
        kinds: The types of values, by the name of the column.

    Raises:
        ConfigError: The file is missing or cut, a column is not there, or a value is of another type.
    """
    table = read_table(path, list(kinds))
    for name, kind in kinds.items():
        for value in table[name].to_pylist():
            if not isinstance(value, kind):
                raise ConfigError(f"{path}: {name!r} must hold values of the type {kind.__name__}; got {shown(value)}.")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a parquet file.

    Raises:
        ConfigError: It is missing or cut.
    """
    try:
        return list(_pyarrow_parquet().read_schema(path).names)
    except (OSError, ValueError) as error:  # as above
        raise _unreadable(path, error) from error


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("a data set in LeRobot's format", "pyarrow", "robot") from error
    return pyarrow.parquet


def _check_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            raise ConfigError(
                f"{path}: has no column {shown(name)!r}{nearest(name, there)} Its columns: {listed(there)}"
            )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"{path}: the data set has no such file. Copy or download it again.")
    return ConfigError(f"{path}: cannot be read: {shown(error)}. If it was cut, copy or download it again.")


def _parse(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}{place}: is not valid JSON: {shown(error)}") from error


def _record(value: object, kind: type[R], path: Path, place: str) -> R:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}{place}: {name + ': ' if name else ''}{first['msg']}") from error
