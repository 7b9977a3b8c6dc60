"""What an attack is, what it is given, and what can come of it. Knows none of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from protomux.crypto import KeyPair
from tests.attacks import wire
from tests.attacks.connection import Connection, Lost, Stalled

__all__ = [
    "MARK",
    "Attack",
    "Fate",
    "Outcome",
    "Secrets",
    "Target",
    "attack",
    "settled",
    "settled_deaf",
]

MARK: Final = b"unproven"
"""Begins every hash and key that no hook of the victim may ever see."""


class Fate(Enum):
    """What the attacker got."""

    DESTROYED = "destroyed"
    REJECTED = "rejected"
    CLOSED = "channel closed"
    PAUSED = "paused"
    IGNORED = "ignored"
    SERVED = "served"
    UNFINISHED = "unfinished"


class Outcome(NamedTuple):
    """What the attacker got, and how much of it."""

    fate: Fate
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.fate.value}: {self.detail}" if self.detail else self.fate.value


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the victim and its honest peers know.

    Attributes:
        capability: of the topic that has a session at the victim from the start.
        late: capabilities of topics for which the victim makes a session when it is woken: at
            once for those at even places, after an await for the others.
    """

    capability: bytes
    late: tuple[bytes, ...]

    @classmethod
    def generate(cls) -> Secrets:
        """Return new ones."""
        return cls(os.urandom(32), tuple(os.urandom(32) for _ in range(64)))


@dataclass
class Target:
    """A victim, as an attack sees it.

    Attributes:
        ik_port: where it listens with the pattern IK.
        public_key: its own.
        secrets: what an insider knows.
        handshake_time: seconds that it gives a handshake.
        patience: seconds without an answer that count as none.
        ask: tells the victim to do something; its answer. See `commanded` of the victim.
        forbidden: how often hooks may see a hash or key at most; see `heard` of the victim.
    """

    host: str
    port: int
    ik_port: int
    public_key: bytes
    secrets: Secrets
    handshake_time: float
    patience: float
    ask: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    forbidden: dict[bytes, int] = field(default_factory=dict)
    _late_used: int = 0
    _connections: list[Connection] = field(default_factory=list)

    async def dial(
        self,
        *,
        port: int = 0,
        mangle: Callable[[bytes], bytes] | None = None,
        receive_buffer: int = 0,
    ) -> Connection:
        """Connect, and do nothing more."""
        connection = await Connection.dial(
            self.host,
            port or self.port,
            self.patience,
            mangle=mangle,
            receive_buffer=receive_buffer,
        )
        self._connections.append(connection)
        return connection

    async def connect(self, *, deaf: bool = False) -> Connection:
        """Connect and do the handshake; one that is `deaf` reads nothing after that."""
        connection = await self.dial(receive_buffer=4096 if deaf else 0)
        await connection.shake()
        if not deaf:
            connection.listen()
        return connection

    async def join(self, connection: Connection, number: int = 1) -> None:
        """Open the victim's topic as an insider, with a right proof."""
        await connection.send(
            wire.frame(0, self.opening(number, self.secrets.capability, connection))
        )

    def opening(self, number: int, capability: bytes, connection: Connection) -> bytes:
        """Return the body of an open with a right proof."""
        proof = wire.proof(capability, connection.is_initiator, connection.handshake_hash)
        return wire.opening(number, "wakeup", wire.discovery_key(capability), wire.handshake(proof))

    def late(self, *, awaited: bool) -> bytes:
        """Return the capability of a topic that nobody has opened yet."""
        self._late_used += 2
        return self.secrets.late[self._late_used - 2 + awaited]

    def leave(self) -> None:
        """Cut every connection of the attack."""
        for connection in self._connections:
            connection.leave()
        self._connections.clear()

    @asynccontextmanager
    async def impostor(self) -> AsyncIterator[tuple[int, asyncio.Queue[Connection]]]:
        """Listen as if we were the victim; yields a port and who connects there."""
        came: asyncio.Queue[Connection] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection(reader, writer, self.patience, is_initiator=False)
            self._connections.append(connection)
            await connection.shake(key_pair=KeyPair.generate())
            connection.listen()
            came.put_nowait(connection)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1], came
        finally:
            server.close()


async def settled(connection: Connection, number: int) -> Outcome:
    """Wait until the victim has taken everything, and tell what it made of it.

    `number` is one that the connection may open with.
    """
    await connection.fence(number)
    if connection.rejected:
        return Outcome(Fate.REJECTED, f"{connection.rejected:,} opens")
    if connection.closed:
        return Outcome(Fate.CLOSED, f"{connection.closed:,}")
    if connection.messages:
        return Outcome(Fate.SERVED, f"{connection.messages:,} answers")
    return Outcome(Fate.IGNORED)


async def settled_deaf(connection: Connection) -> Outcome:
    """As `settled`, for one that reads nothing."""
    if await connection.wait_reset(2 * connection.patience):
        return Outcome(Fate.DESTROYED)
    return Outcome(Fate.IGNORED)


Run: TypeAlias = Callable[[Target, int], Awaitable[Outcome]]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: of the command line.
        run: run(target, size) makes it; Lost and Stalled that it raises are its outcome.
        full, small: its size in the bench, and in the tests; what it counts is its own affair.
        fates: what may come of it at a victim that holds.
        harms: fates that are somebody else's harm: where they come, the victim did not hold.
        why_not_node: why it does not apply to the originals; empty where it does.
    """

    name: str
    run: Run
    full: int
    small: int
    fates: frozenset[Fate]
    harms: frozenset[Fate]
    why_not_node: str

    async def make(self, target: Target, size: int) -> Outcome:
        """Make the attack and leave."""
        try:
            return await self.run(target, size)
        except Lost:
            return Outcome(Fate.DESTROYED)
        except Stalled as stalled:
            return Outcome(Fate.PAUSED, str(stalled))
        finally:
            target.leave()


def attack(
    name: str,
    *fates: Fate,
    full: int = 1,
    small: int = 1,
    harms: Sequence[Fate] = (),
    why_not_node: str = "",
) -> Callable[[Run], Attack]:
    """Make an attack of a coroutine function."""
    return lambda run: Attack(
        name, run, full, small, frozenset(fates), frozenset(harms), why_not_node
    )
