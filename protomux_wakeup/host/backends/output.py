"""The last that a backend has written, in files of a bounded size. Knows no process.

There are two of them: when one is full it takes the place of the older one. So at least half of
what may be kept is, and never more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["BoundedLog", "drop_log", "read_log"]

_MOST_READS: Final = 8
"""Times that a log is read anew because it was turned over meanwhile."""


def _paths(directory: str | os.PathLike[str], backend_id: str) -> tuple[Path, Path]:
    """Return where the newer and the older one are."""
    directory = Path(directory)
    return directory / f"{backend_id}.log", directory / f"{backend_id}.log.1"


class BoundedLog:
    """Takes what is written, and keeps the last `size` bytes or a little less; at least two.

    Where the disk is full, it keeps nothing for now: what writes is never made to wait or to end.
    """

    def __init__(self, directory: str | os.PathLike[str], backend_id: str, size: int) -> None:
        """Begin an empty one; raises OSError where it cannot be made."""
        self._path, self._older = _paths(directory, backend_id)
        self._half: Final = max(size // 2, 1)
        self._used = 0
        self._file = self._open()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        rest = memoryview(data)[-2 * self._half :]
        with suppress(OSError):
            while rest and self._file >= 0:
                if self._used >= self._half:
                    self._turn_over()
                written = os.write(self._file, rest[: self._half - self._used])
                self._used += written
                rest = rest[written:]

    def note(self, text: str) -> None:
        """Append a line of our own."""
        self.write(f"[protomux-wakeup] {text}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Write no more; the files stay."""
        os.close(self._file)
        self._file = -1

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)

    def _turn_over(self) -> None:
        with suppress(FileNotFoundError):  # the last time it could not be made anew
            os.replace(self._path, self._older)
        file, self._file = self._file, self._open()
        os.close(file)
        self._used = 0


def read_log(directory: str | os.PathLike[str], backend_id: str) -> bytes:
    """Return what is kept of a log, in order; empty where there is none."""
    path, older = _paths(directory, backend_id)
    for _ in range(_MOST_READS):
        before = _inode(path)
        found = _read(older) + _read(path)
        if _inode(path) == before:
            break
    return found


def drop_log(directory: str | os.PathLike[str], backend_id: str) -> None:
    """Remove a log, if there is one."""
    for path in _paths(directory, backend_id):
        path.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
