"""A file that one program alone writes, at its end. Knows no format."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

__all__ = ["OnError", "OwnFile"]

OnError: TypeAlias = Callable[[OSError], object]


class OwnFile:
    """Takes records, until it is closed or cannot go on; it then ends with the last whole record.

    Each is handed to the operating system at once, and nothing is raised for it.

    Attributes:
        error: why nothing is written any more; None while all is well, and after `close()`.
    """

    def __init__(self, path: Path, on_error: OnError | None = None) -> None:
        """Make a new file for its owner only (mode 0600), or use one that is empty.

        `on_error(error)` is called once, where a write fails. Raises FileExistsError for a file
        that is not empty, and OSError for one that cannot be written or that another process
        has.
        """
        self.error: OSError | None = None
        self._on_error = on_error
        self._file: int | None = _new_file(path)
        self._size = 0

    @property
    def is_open(self) -> bool:
        """What is appended is written."""
        return self._file is not None

    def append(self, record: bytes) -> None:
        """Write it, unless that is over."""
        if self._file is None:
            return
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            self.close()
            self.error = error
            if self._on_error is not None:
                self._on_error(error)
        else:
            self._size += len(record)

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _new_file(path: Path) -> int:
    """Return a descriptor of a file that is empty, ours alone, and written at its end."""
    # Without O_NONBLOCK the open of a pipe that nobody reads would wait for its reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "expected a regular file", str(path))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_size:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.fchmod(file, 0o600)
    except OSError:
        os.close(file)
        raise
    return file
