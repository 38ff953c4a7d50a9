"""A file that grows by whole records."""

import os
from contextlib import suppress
from io import SEEK_END, FileIO
from pathlib import Path

from optimizer.state import open_to_append


class RecordFile:
    """Appends records to a file, each of them handed to the system whole before the next.

    Args:
        path: The file. It is created with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._pending = b""
        self._size = 0  # of whole records

    def write(self, record: bytes) -> None:
        """Append a record.

        Raises:
            OSError: It cannot be written. The next call writes it first.
        """
        self._pending += record
        try:
            self._write_pending()
        except OSError as error:
            error.filename = str(self.path)
            raise

    def _write_pending(self) -> None:
        file = self._open()
        if file.seek(0, SEEK_END) != self._size:
            file.truncate(self._size)
        content = memoryview(self._pending)
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            with suppress(OSError):  # then the next call does it
                file.truncate(self._size)  # not half a record
            raise
        self._size = file.seek(0, SEEK_END)
        self._pending = b""

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:  # another process removed it
            self.close()
        if self._file is None:
            self._file = FileIO(open_to_append(self.path), "ab")
            self._size = self._file.seek(0, SEEK_END)
        return self._file
