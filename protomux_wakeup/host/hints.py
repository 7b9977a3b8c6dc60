"""What the service keeps in a file: hints, and who has taken note of them. Knows no peer.

A *hint* says that a log (a key) of a topic has at least so many blocks. A *watcher* is a name; what
it acknowledged is kept for each log, so it is told of nothing twice, also by another process later.
A watcher that is new to a topic has acknowledged nothing: it gets all that is known.

There is one writer, the worker. What it writes, `commit()` makes survive the process: `Database`
says how far that goes.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from protomux.crypto import KEY_SIZE, discovery_key
from protomux.encoding import MAX_UINT
from protomux.errors import LimitExceeded
from protomux_wakeup.host.database import Database
from protomux_wakeup.messages import Writer

__all__ = ["HintLimits", "HintStore", "Pending", "StoredTopic", "Watch"]

_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE identity (seed BLOB NOT NULL);
CREATE TABLE topic (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    capability BLOB NOT NULL,
    hints INTEGER NOT NULL DEFAULT 0,
    announced INTEGER NOT NULL DEFAULT 0
);
-- The arrival grows with every growth of any log: it is the order in which watchers are told.
CREATE TABLE hint (
    topic INTEGER NOT NULL REFERENCES topic ON DELETE CASCADE,
    key BLOB NOT NULL,
    length INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX hint_arrival ON hint (topic, arrival);
CREATE TRIGGER hint_counted AFTER INSERT ON hint BEGIN
    UPDATE topic SET hints = hints + 1 WHERE number = NEW.topic;
END;
CREATE TABLE announced (
    topic INTEGER NOT NULL REFERENCES topic ON DELETE CASCADE,
    key BLOB NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
) WITHOUT ROWID;
CREATE TRIGGER announced_counted AFTER INSERT ON announced BEGIN
    UPDATE topic SET announced = announced + 1 WHERE number = NEW.topic;
END;
CREATE TABLE watch (
    number INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL REFERENCES topic ON DELETE CASCADE,
    watcher TEXT NOT NULL,
    is_ephemeral INTEGER NOT NULL,
    UNIQUE (topic, watcher)
);
CREATE TABLE acknowledged (
    watch INTEGER NOT NULL REFERENCES watch ON DELETE CASCADE,
    key BLOB NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (watch, key)
) WITHOUT ROWID;
"""

_LEARN: Final = """
INSERT INTO hint (topic, key, length, arrival) VALUES (?, ?, ?, ?)
ON CONFLICT (topic, key) DO UPDATE SET length = excluded.length, arrival = excluded.arrival
WHERE excluded.length > length
"""
_ANNOUNCE: Final = """
INSERT INTO announced (topic, key, length) VALUES (?, ?, ?)
ON CONFLICT (topic, key) DO UPDATE SET length = excluded.length
"""
# Of a log that is not known nothing is kept: it would not be bounded.
_ACKNOWLEDGE: Final = """
INSERT INTO acknowledged (watch, key, length)
SELECT watch.number, hint.key, :length FROM watch JOIN hint ON hint.topic = watch.topic
WHERE watch.topic = :topic AND watch.watcher = :watcher AND hint.key = :key
ON CONFLICT (watch, key) DO UPDATE SET length = excluded.length WHERE excluded.length > length
"""
_PENDING: Final = """
SELECT hint.key, hint.length, hint.arrival, hint.length > coalesce(acknowledged.length, -1)
FROM watch JOIN hint ON hint.topic = watch.topic
LEFT JOIN acknowledged ON acknowledged.watch = watch.number AND acknowledged.key = hint.key
WHERE watch.topic = :topic AND watch.watcher = :watcher AND hint.arrival > :after
ORDER BY hint.arrival LIMIT :most
"""
_FORGET: Final = """
DELETE FROM topic WHERE number = ? AND announced = 0
AND NOT EXISTS (SELECT 1 FROM watch WHERE topic = topic.number)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HintLimits:
    """What a store may hold.

    Attributes:
        keys: logs of a topic that hints are kept of, and logs that are announced in it. Default
            131,072, what one announce can tell of.
        watchers: of a topic. Default 1,024.
        name: characters of a watcher's name. Default 256.
    """

    keys: int = 131_072
    watchers: int = 1_024
    name: int = 256


class Pending(NamedTuple):
    """Some of the hints that a watcher has not acknowledged.

    Attributes:
        hints: each log once, in the order in which they grew last.
        through: where to go on from, the `after` of the next call.
        is_all: there is nothing to go on with until something grows.
    """

    hints: list[Writer]
    through: int
    is_all: bool


class Watch(NamedTuple):
    """A watcher's interest in a topic."""

    watcher: str
    topic: bytes


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """A topic: its id, its secret, and how many logs there are."""

    id: bytes
    capability: bytes = field(repr=False)
    hints: int
    announced: int
    watchers: int


class HintStore:
    """The file, open and locked until `close()`.

    All methods raise StoreFailed where SQLite fails, and what was not committed is undone then;
    ValueError for a topic that is not there, a key that has not 32 bytes or a length that is not
    0 to 2^53 - 1.

    Attributes:
        path: of the file.
        seed: 32 secret bytes, chosen when the file was made: of the worker's key pair.
    """

    def __init__(self, path: str | os.PathLike[str], *, limits: HintLimits = HintLimits()) -> None:
        """Open the file at `path`; one is made, for its owner alone, where there is none.

        Raises StoreFailed where it is locked by another process, damaged, not a file of ours, or
        made by a later version.
        """
        self._limits = limits
        self._db = Database(path, _SCHEMA, _VERSION)
        self.commit = self._db.commit
        self.close = self._db.close
        try:
            with self._db.writing():
                if not self._db.all("SELECT 1 FROM identity"):
                    seed = secrets.token_bytes(KEY_SIZE)
                    self._db.execute("INSERT INTO identity (seed) VALUES (?)", (seed,))
            self._db.commit()
            (self.seed,) = self._db.one("SELECT seed FROM identity")
            (self._arrival,) = self._db.one("SELECT coalesce(max(arrival), 0) FROM hint")
        except BaseException:
            self._db.close()
            raise

    # Topics and watchers

    def topics(self) -> list[StoredTopic]:
        """Return all topics."""
        rows = self._db.all(
            "SELECT id, capability, hints, announced, "
            "(SELECT count(*) FROM watch WHERE topic = topic.number) FROM topic"
        )
        return [StoredTopic(*row) for row in rows]

    def watch(self, watcher: str, capability: bytes, *, is_ephemeral: bool = False) -> bytes:
        """Keep hints of the topic of `capability` for `watcher`; return its id, 32 bytes.

        A watcher that is there already keeps what it acknowledged. Raises LimitExceeded for one
        watcher too many, ValueError for a name that is too long.
        """
        if not 0 < len(watcher) <= self._limits.name or not watcher.isprintable():
            raise ValueError(
                f"expected the name of a watcher to have 1 to {self._limits.name} printable "
                f"characters"
            )
        with self._db.writing():
            topic = self._add_topic(capability)
            number = self._number(topic)
            self._db.execute(
                "INSERT INTO watch (topic, watcher, is_ephemeral) VALUES (?, ?, ?) "
                "ON CONFLICT (topic, watcher) DO UPDATE SET is_ephemeral = excluded.is_ephemeral",
                (number, watcher, is_ephemeral),
            )
            (watchers,) = self._db.one("SELECT count(*) FROM watch WHERE topic = ?", (number,))
            if watchers > self._limits.watchers:
                raise LimitExceeded(
                    f"expected at most {self._limits.watchers} watchers of a topic, one more came"
                )
        return topic

    def _add_topic(self, capability: bytes) -> bytes:
        id = discovery_key(capability)
        self._db.execute(
            "INSERT INTO topic (id, capability) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (id, capability),
        )
        return id

    def unwatch(self, watcher: str, topic: bytes) -> bool:
        """Forget `watcher` and what it acknowledged in `topic`.

        Returns True if that was all that the topic was there for: it is forgotten as well.
        """
        with self._db.writing():
            number = self._number(topic)
            self._db.execute("DELETE FROM watch WHERE topic = ? AND watcher = ?", (number, watcher))
            return self._db.execute(_FORGET, (number,)) > 0

    def ephemeral_watches(self) -> list[Watch]:
        """Return the watches that are not to outlive the process that wanted them."""
        rows = self._db.all(
            "SELECT watcher, id FROM watch JOIN topic ON topic.number = watch.topic "
            "WHERE is_ephemeral"
        )
        return [Watch(*row) for row in rows]

    # Hints

    def learn(self, topic: bytes, writers: Iterable[tuple[bytes, int]]) -> bool:
        """Remember that the logs of `writers` have those lengths; tell whether that is any news.

        Raises LimitExceeded where there is no room for one log more, and remembers none then.
        """
        with self._db.writing():
            number = self._number(topic)
            changes = self._db.execute_many(_LEARN, self._arriving(number, writers))
            (hints,) = self._db.one("SELECT hints FROM topic WHERE number = ?", (number,))
            self._check_keys(hints)
            return changes > 0

    def _arriving(
        self, number: int, writers: Iterable[tuple[bytes, int]]
    ) -> Iterator[tuple[int, bytes, int, int]]:
        for key, length in writers:
            _check_writer(key, length)
            self._arrival += 1
            yield number, key, length, self._arrival

    def pending(self, watcher: str, topic: bytes, *, after: int = 0, most: int) -> Pending:
        """Return what `watcher` has not acknowledged, of the first `most` hints from `after` on."""
        rows = self._db.all(
            _PENDING,
            {"watcher": watcher, "topic": self._number(topic), "after": after, "most": most},
        )
        hints = [Writer(key, length) for key, length, _, is_news in rows if is_news]
        return Pending(hints, rows[-1][2] if rows else after, len(rows) < most)

    def acknowledge(self, watcher: str, topic: bytes, writers: Iterable[tuple[bytes, int]]) -> None:
        """`watcher` knows that the logs of `writers` have those lengths.

        Logs that are not known here are left out, and so is everything of a watcher that is not.
        """
        with self._db.writing():
            number = self._number(topic)
            self._db.execute_many(
                _ACKNOWLEDGE,
                (
                    {"watcher": watcher, "topic": number, "key": key, "length": length}
                    for key, length in writers
                    if _check_writer(key, length)
                ),
            )

    # What our own clients announced

    def announce(self, capability: bytes, writers: Iterable[tuple[bytes, int]]) -> list[Writer]:
        """Remember to announce `writers` in the topic of `capability`.

        Returns those that are news, each log once. Raises LimitExceeded where there is no room for
        one log more, and remembers none then.
        """
        newest: dict[bytes, int] = {}
        for key, length in writers:
            _check_writer(key, length)
            newest[key] = max(length, newest.get(key, 0))
        if not newest:
            return []
        with self._db.writing():
            number = self._number(self._add_topic(capability))
            grown = [
                Writer(key, length)
                for key, length in newest.items()
                if length > self._announced_length(number, key)
            ]
            self._db.execute_many(_ANNOUNCE, ((number, key, length) for key, length in grown))
            (announced,) = self._db.one("SELECT announced FROM topic WHERE number = ?", (number,))
            self._check_keys(announced)
            return grown

    def _announced_length(self, number: int, key: bytes) -> int:
        rows = self._db.all(
            "SELECT length FROM announced WHERE topic = ? AND key = ?", (number, key)
        )
        return int(rows[0][0]) if rows else -1

    def announced(self, topic: bytes) -> list[Writer]:
        """Return all that is to be announced in `topic`."""
        number = self._number(topic)
        rows = self._db.all("SELECT key, length FROM announced WHERE topic = ?", (number,))
        return [Writer(*row) for row in rows]

    def _check_keys(self, keys: int) -> None:
        if keys > self._limits.keys:
            raise LimitExceeded(
                f"expected at most {self._limits.keys} logs in a topic, one more came"
            )

    def _number(self, topic: bytes) -> int:
        rows = self._db.all("SELECT number FROM topic WHERE id = ?", (topic,))
        if not rows:
            raise ValueError(f"expected a topic that is watched or announced, got {topic.hex()}")
        return int(rows[0][0])


def _check_writer(key: bytes, length: int) -> bool:
    if len(key) != KEY_SIZE or not 0 <= length <= MAX_UINT:
        raise ValueError(
            f"expected a key of {KEY_SIZE} bytes and a length from 0 to {MAX_UINT}, "
            f"got {len(key)} bytes and {length}"
        )
    return True
