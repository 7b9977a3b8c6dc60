"""What survives a manager: backends, their states, and who may reach them. Knows no engine.

There is one writer, the manager of the latest term. Each method that writes has committed when it
returns, so what was told to anybody is known to the next manager, however this one ends: `Database`
says how far that goes.

Of a backend that has ended, states are kept, and nothing of what it ran: its environment may hold
secrets.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.engine import Launch
from protomux_wakeup.host.backends.errors import Superseded
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    Terminated,
    TerminationReason,
    decode,
    encode,
    now,
)
from protomux_wakeup.host.database import Database

__all__ = ["BackendStore", "NumberedState", "StoredBackend", "StoredToken"]

_log = logging.getLogger("protomux_wakeup.host")

_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE manager (term INTEGER NOT NULL, fencing_token INTEGER NOT NULL);
INSERT INTO manager VALUES (0, 0);
-- One that has ended has no launch any more, and leaves its key to others.
CREATE TABLE backend (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    tag TEXT,
    created REAL NOT NULL,
    launch BLOB
);
CREATE UNIQUE INDEX backend_key ON backend (key) WHERE launch IS NOT NULL;
CREATE TABLE state (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    backend INTEGER NOT NULL REFERENCES backend ON DELETE CASCADE,
    status INTEGER NOT NULL,
    json BLOB NOT NULL,
    UNIQUE (backend, status)
);
CREATE INDEX state_last ON state (number) WHERE status = 7;
CREATE TABLE token (
    digest BLOB PRIMARY KEY,
    backend INTEGER NOT NULL REFERENCES backend ON DELETE CASCADE,
    user TEXT,
    auth BLOB NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX token_backend ON token (backend);
CREATE INDEX token_expires ON token (expires);
"""

# `terminated` is 7. As a literal, or the index would not be used.
_ENDED: Final = """
SELECT backend.id FROM state JOIN backend ON backend.number = state.backend
WHERE state.status = 7 ORDER BY state.number DESC LIMIT -1 OFFSET ?
"""


class StoredBackend(NamedTuple):
    """A backend, as one manager leaves it to the next.

    Attributes:
        backend_id: its id.
        key: that it is for.
        tag: what it runs; None for a cluster that was not told.
        created: seconds since 1970.
        launch: what was asked of the engine; None where it has ended.
        states: that it has been in, at least one.
    """

    backend_id: str
    key: str
    tag: str | None
    created: float
    launch: Launch | None
    states: list[BackendState]


class NumberedState(NamedTuple):
    """A state of a backend; numbers grow from 1 on, over all backends and managers."""

    number: int
    backend_id: str
    state: BackendState


class StoredToken(NamedTuple):
    """Whom a token was made for, and until when it is good, in seconds since 1970."""

    backend_id: str
    user: str | None
    auth: dict[str, Any] | None
    expires: float


class BackendStore:
    """The file, open and locked until `close()`.

    All methods raise StoreFailed where SQLite fails, and nothing is written then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file at `path`; one is made, for its owner alone, where there is none.

        Raises StoreFailed where it is locked by another process, damaged, not a file of ours, or
        made by a later version.
        """
        self._db: Final = Database(path, _SCHEMA, _VERSION)
        self.close = self._db.close

    @contextmanager
    def _committing(self) -> Iterator[None]:
        with self._db.writing():
            yield
        self._db.commit()

    # Managers

    def open(self, term: int) -> None:
        """Be for the manager of that `term`. Raises Superseded where there was a later one."""
        with self._committing():
            (last,) = self._db.one("SELECT term FROM manager")
            if last > term:
                raise Superseded(f"expected a term of {last} or later, got {term}")
            self._db.execute("UPDATE manager SET term = ?", (term,))

    def fencing_token(self, least: int) -> int:
        """Return a number of `least` or more, higher than that of any backend that was added."""
        (last,) = self._db.one("SELECT fencing_token FROM manager")
        return max(int(last) + 1, least)

    # Backends and their states

    def add_backend(
        self, launch: Launch, tag: str | None, created: float, state: BackendState
    ) -> None:
        """Remember a backend that is to be, in its first `state`, `created` seconds after 1970."""
        secretless = msgspec.structs.replace(launch, token="")
        with self._committing():
            self._db.execute("UPDATE manager SET fencing_token = ?", (launch.fencing_token,))
            self._db.execute(
                "INSERT INTO backend (id, key, tag, created, launch) VALUES (?, ?, ?, ?, ?)",
                (launch.backend_id, launch.key, tag, created, encode(secretless)),
            )
            self._add_state(launch.backend_id, state)

    def move(self, backend_id: str, state: BackendState) -> bool:
        """Remember that a backend is in `state`; False, and nothing, where it was further already.

        When it has ended, its launch is forgotten, and who may reach it.
        """
        rows = self._db.all(
            "SELECT max(status) FROM state JOIN backend ON backend.number = state.backend "
            "WHERE backend.id = ? HAVING max(status) < ?",
            (backend_id, state.status.number),
        )
        if not rows:
            return False
        with self._committing():
            self._add_state(backend_id, state)
            if state.status is BackendStatus.TERMINATED:
                self._db.execute(
                    "DELETE FROM token WHERE backend = (SELECT number FROM backend WHERE id = ?)",
                    (backend_id,),
                )
                self._db.execute(
                    "UPDATE backend SET launch = NULL WHERE id = ?",
                    (backend_id,),
                )
        return True

    def _add_state(self, backend_id: str, state: BackendState) -> None:
        self._db.execute(
            "INSERT INTO state (backend, status, json) SELECT number, ?, ? FROM backend "
            "WHERE id = ?",
            (state.status.number, encode(state), backend_id),
        )

    def backends(self) -> list[StoredBackend]:
        """Return all backends, in the order in which they were added.

        One whose launch cannot be read is `terminated` by this: no manager can have it any more,
        and what runs of it ends without one.
        """
        states: dict[int, list[BackendState]] = {}
        for number, json in self._db.all("SELECT backend, json FROM state ORDER BY state.number"):
            states.setdefault(number, []).append(decode(json, BackendState))
        rows = self._db.all(
            "SELECT number, id, key, tag, created, launch FROM backend ORDER BY number"
        )
        found = []
        for number, id, key, tag, created, json in rows:
            try:
                launch = json and decode(json, Launch)
            except ProtocolError as error:
                _log.error("backend %s cannot be read, and counts as ended: %s", id, error)
                launch = None
                end = Terminated(time=now(), termination_reason=TerminationReason.INTERNAL_ERROR)
                if self.move(id, end):
                    states[number].append(end)
            found.append(StoredBackend(id, key, tag, created, launch, states[number]))
        return found

    def states_after(self, number: int, most: int) -> list[NumberedState]:
        """Return the first `most` states of all backends that come after that `number`."""
        rows = self._db.all(
            "SELECT state.number, backend.id, state.json FROM state "
            "JOIN backend ON backend.number = state.backend "
            "WHERE state.number > ? ORDER BY state.number LIMIT ?",
            (number, most),
        )
        return [NumberedState(number, id, decode(json, BackendState)) for number, id, json in rows]

    def ended(self, *, but: int) -> list[str]:
        """Return the ids of those that have ended, the oldest first, `but` not of the newest."""
        return [id for (id,) in reversed(self._db.all(_ENDED, (but,)))]

    def forget(self, backend_id: str) -> None:
        """Keep nothing of that backend."""
        with self._committing():
            self._db.execute("DELETE FROM backend WHERE id = ?", (backend_id,))

    # Who may reach them

    def add_token(self, digest: bytes, token: StoredToken, now: float) -> None:
        """Remember a token by its `digest`, and forget those that were good until `now`."""
        with self._committing():
            self._db.execute("DELETE FROM token WHERE expires <= ?", (now,))
            self._db.execute(
                "INSERT INTO token (digest, backend, user, auth, expires) "
                "SELECT ?, number, ?, ?, ? FROM backend WHERE id = ?",
                (digest, token.user, encode(token.auth), token.expires, token.backend_id),
            )

    def token(self, digest: bytes) -> StoredToken | None:
        """Return the token of that `digest`, which may be too old; None where there is none."""
        rows = self._db.all(
            "SELECT backend.id, user, auth, expires FROM token "
            "JOIN backend ON backend.number = token.backend WHERE digest = ?",
            (digest,),
        )
        for backend_id, user, auth, expires in rows:
            return StoredToken(backend_id, user, decode(auth, dict[str, Any] | None), expires)
        return None

    def extend_token(self, digest: bytes, expires: float) -> None:
        """Let a token be good until `expires`."""
        with self._committing():
            self._db.execute("UPDATE token SET expires = ? WHERE digest = ?", (expires, digest))
