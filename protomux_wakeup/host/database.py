"""An SQLite file with one writer, of one schema and version. Knows no table.

What is written is one transaction until `commit()`, and from then on survives the end of the
process, however that comes: SQLite's write-ahead log is with the kernel by then. It is not with the
disk (synchronous=NORMAL), so the loss of power may take the last commits back, in whole and in
order; nothing is torn by it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from protomux_wakeup.host.errors import StoreFailed

__all__ = ["Database"]

_LOCK_TIME: Final = 5.0
"""Seconds that a process which is about to end may still hold the file."""

_CACHE: Final = 65_536
"""KiB of the file that are held in memory: all of some topics, since keys come in no order."""

_Values: TypeAlias = tuple[object, ...] | Mapping[str, object]


class Database:
    """The file, open and locked until `close()`.

    All methods raise StoreFailed where SQLite fails, and what was not committed is undone then.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str], schema: str, version: int) -> None:
        """Open the file at `path`; one is made, for its owner alone, where there is none.

        Raises StoreFailed where it is locked by another process, damaged, another database, or of
        a later `version`, which is 1 or more.
        """
        self.path: Final = os.fspath(path)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(self.path, flags, 0o600)
            try:
                os.fchmod(file, 0o600)
            finally:
                os.close(file)
        except OSError as error:
            raise StoreFailed(f"cannot open {self.path}: {error.strerror}") from error
        self._is_open = True
        self._db = sqlite3.connect(self.path, timeout=_LOCK_TIME, isolation_level=None)
        try:
            with self._failing():
                self._prepare(schema, version)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, schema: str, version: int) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute(f"PRAGMA cache_size = {-_CACHE}")
        self._db.execute("BEGIN IMMEDIATE")
        (found,) = self.one("PRAGMA user_version")
        (tables,) = self.one("SELECT count(*) FROM sqlite_master")
        if found > version:
            raise StoreFailed(
                f"expected {self.path} to be of version {version} or earlier, it is of version "
                f"{found}: a later release has made it"
            )
        if found == 0:
            if tables:
                raise StoreFailed(f"expected a file of ours at {self.path}, it is another database")
            for statement in _statements(schema):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {version}")
        (state,) = self.one("PRAGMA quick_check(1)")
        if state != "ok":
            raise StoreFailed(f"{self.path} is damaged: {state}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Commit, and let go of the file; does nothing the second time."""
        if self._is_open:
            self._is_open = False
            try:
                self.commit()
            finally:
                self._db.close()

    def commit(self) -> None:
        """Make what was written since the last commit survive this process."""
        with self._failing():
            if self._db.in_transaction:
                self._db.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Where this context fails, undo what was written in it, and keep what was before."""
        with self._failing():
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("SAVEPOINT one")
            try:
                yield
            except StoreFailed:
                raise  # all is undone already
            except BaseException:
                self._db.execute("ROLLBACK TO one")
                self._db.execute("RELEASE one")
                raise
            self._db.execute("RELEASE one")

    def all(self, query: str, values: _Values = ()) -> list[tuple[Any, ...]]:
        """Return all rows."""
        with self._failing():
            return self._db.execute(query, values).fetchall()

    def one(self, query: str, values: _Values = ()) -> tuple[Any, ...]:
        """Return the only row."""
        (row,) = self.all(query, values)
        return row

    def execute(self, statement: str, values: _Values = ()) -> int:
        """Return how many rows have changed."""
        with self._failing():
            return self._db.execute(statement, values).rowcount

    def execute_many(self, statement: str, values: Iterable[_Values]) -> int:
        """Return how many rows have changed."""
        with self._failing():
            return self._db.executemany(statement, values).rowcount

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreFailed(f"cannot use {self.path}: {error}") from error


def _statements(script: str) -> Iterator[str]:
    """Yield one statement after the other: executescript() would commit before the first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
