"""The two kinds of process of the soak: one host, and guests that come and go.

`python -m bench.churn host` and `python -m bench.churn guests PORT STREAMS LIFETIME` are started by
`soak`. Each reads commands from stdin, a line each, and answers with a line of JSON: `report` asks
for the counts, `finish` ends everything and then reports. When stdin ends, so does the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import signal
import socket
import struct
import sys
from asyncio import TimerHandle
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

from protomux import Channel, Protomux, ProtomuxError
from protomux.crypto import KeyPair, discovery_key
from protomux.streams import SecretStream, open_connection, start_server
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer

KNOWN_TOPICS: Final = 8
WOKEN_TOPICS: Final = 64
LOGS: Final = 4
MANY_LOGS: Final = 2_000
"""Entries of the answer in the first of the known topics: 70 KB, more than a stream buffers."""

NEWS_EVERY: Final = 2.0
"""Seconds between two broadcasts of the host in every known topic."""

GC_INTERVAL: Final = 0.5
"""Seconds; with five of them topics are collected all the time."""

IDLE_TIME: Final = 20.0
"""Seconds that the host has to get rid of everything at the end: twice a close's time."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def _secret(kind: str, number: int) -> bytes:
    return blake2b(f"{kind} {number}".encode(), digest_size=32).digest()


KNOWN: Final = [_secret("known", number) for number in range(KNOWN_TOPICS)]
WOKEN: Final = [_secret("woken", number) for number in range(WOKEN_TOPICS)]


class _Errors(logging.Handler):
    """Counts what is logged as an error: nothing should be."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: Counter[str] = Counter()
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen[record.getMessage().split("\n")[0][:100]] += 1


class Host:
    """Serves whoever comes."""

    def __init__(self) -> None:
        self.wakeup = Wakeup(self._woken, gc_interval=GC_INTERVAL)
        self.streams: set[SecretStream] = set()
        self.opened = 0
        self.ended: Counter[str] = Counter()
        self.port = 0
        self._errors = _Errors()
        self._woken_topics = {discovery_key(secret): secret for secret in WOKEN}
        self._woken_sessions: set[Session] = set()
        self._length = 0
        self._files = 0

    async def start(self) -> dict[str, Any]:
        for number, secret in enumerate(KNOWN):
            logs = MANY_LOGS if number == 0 else LOGS
            writers = [Writer(_secret("log", log), log) for log in range(logs)]

            def answer(
                _lookup: Lookup, peer: Peer, session: Session, writers: list[Writer] = writers
            ) -> None:
                session.announce(peer, writers)

            self.wakeup.session(secret, on_lookup=answer)
        self._server = await start_server(self._serve, "127.0.0.1")
        self._news = asyncio.create_task(self._tell())
        self._tasks = asyncio.all_tasks()
        self._files = len(os.listdir("/proc/self/fd"))
        return {"port": self._server.sockets[0].getsockname()[1]}

    async def finish(self) -> None:
        """Wait until the guests have left no trace."""
        self._news.cancel()
        for _ in range(int(IDLE_TIME / GC_INTERVAL)):
            await asyncio.sleep(GC_INTERVAL)
            self._fall_asleep()
            if not any(self.left().values()):
                break

    def left(self) -> dict[str, int]:
        """What there is beside the host itself."""
        gc.collect()
        now = asyncio.get_running_loop().time()
        found = gc.get_objects()
        topics = self.wakeup.topics.values()
        return {
            "tasks": len(asyncio.all_tasks() - self._tasks - {asyncio.current_task()}),
            "streams": sum(isinstance(one, SecretStream) for one in found),
            "muxes": sum(isinstance(one, Protomux) for one in found),
            "channels": sum(isinstance(one, Channel) for one in found),
            "peers": sum(isinstance(one, Peer) for one in found),
            "topics": len(topics) - KNOWN_TOPICS,
            "timers": sum(isinstance(one, TimerHandle) and _is_pending(one, now) for one in found),
            "fds": len(os.listdir("/proc/self/fd")) - self._files,
        }

    def report(self) -> dict[str, Any]:
        stats = self.wakeup.stats
        return {
            "open": len(self.streams),
            "opened": self.opened,
            "ended": dict(self.ended),
            "peers": stats.peers_added,
            "lookups": stats.wire_lookup.rx,
            "announces": stats.wire_announce.tx,
            "topics_collected": stats.topics_gcd,
            "logged": dict(self._errors.seen),
        }

    def final(self) -> dict[str, Any]:
        return {**self.report(), "left": self.left()}

    async def _serve(self, stream: SecretStream) -> None:
        self.streams.add(stream)
        self.opened += 1
        self.wakeup.add_stream(stream)
        await stream.wait_closed()
        self.streams.discard(stream)
        self.ended["in order" if stream.error is None else type(stream.error).__name__] += 1

    async def _woken(self, id: bytes, _mux: Protomux) -> None:
        await asyncio.sleep(0.01)  # as if a store had to be opened
        secret = self._woken_topics.get(id)
        if secret is not None and not self.wakeup.get_sessions(secret):
            # Inactive, or it would be opened on every stream that comes from now on.
            self._woken_sessions.add(self.wakeup.session(secret, active=False))

    def _fall_asleep(self) -> None:
        """End the sessions that nobody is here for any more."""
        for session in list(self._woken_sessions):
            if not session.peers and not session.topic.pending_peers:
                self._woken_sessions.discard(session)
                session.destroy()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(NEWS_EVERY)
            self._length += 1
            self._fall_asleep()
            for secret in KNOWN:
                for session in self.wakeup.get_sessions(secret):
                    session.broadcast_announce([Writer(_secret("log", 0), self._length)])


def _is_pending(timer: TimerHandle, now: float) -> bool:
    return not timer.cancelled() and timer.when() > now


class Guests:
    """Keeps so many streams to the host open, each for a while."""

    KINDS: Final = {
        "polite": 70,  # looks up, announces, closes in order
        "aborts": 10,  # the same, but does not say goodbye
        "resets": 5,  # the same, and the connection is reset
        "deaf": 5,  # asks for much and never reads
        "drops": 5,  # leaves in the middle of the handshake
        "silent": 5,  # connects and says nothing
    }

    def __init__(self, port: int, streams: int, lifetime: float) -> None:
        self.open = 0
        self.done: Counter[str] = Counter()
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self._port = port
        self._streams = streams
        self._lifetime = lifetime
        self._random = random.Random(os.getpid())
        self._errors = _Errors()

    async def start(self) -> dict[str, Any]:
        self._tasks = [asyncio.create_task(self._keep_coming()) for _ in range(self._streams)]
        return {"streams": self._streams}

    async def finish(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self) -> dict[str, Any]:
        return {
            "open": self.open,
            "done": dict(self.done),
            "answered": self.answered,
            "errors": dict(self.errors),
            "logged": dict(self._errors.seen),
        }

    final = report

    async def _keep_coming(self) -> None:
        await asyncio.sleep(self._random.uniform(0, self._lifetime))
        kinds, weights = list(self.KINDS), list(self.KINDS.values())
        while True:
            (kind,) = self._random.choices(kinds, weights)
            stay = self._random.uniform(0.2, 1.8) * self._lifetime
            self.open += 1
            try:
                if kind in ("drops", "silent"):
                    await self._come_raw(kind, stay)
                else:
                    await self._come(kind, stay)
                self.done[kind] += 1
            except (OSError, ProtomuxError) as error:
                self.errors[f"{kind}: {type(error).__name__}: {error}"[:100]] += 1
                await asyncio.sleep(0.1)
            finally:
                self.open -= 1

    async def _come(self, kind: str, stay: float) -> None:
        stream = await open_connection("127.0.0.1", self._port, key_pair=KeyPair.generate())
        wakeup = Wakeup()
        is_answered = False

        def ask(peer: Peer, session: Session) -> None:
            for _ in range(5 if kind == "deaf" else 1):
                session.lookup(peer)

        def answered(_writers: list[Writer], _peer: Peer, _session: Session) -> None:
            nonlocal is_answered
            is_answered = True

        try:
            if kind == "deaf":
                ear: socket.socket = stream.transport.get_extra_info("socket")  # type: ignore[union-attr]
                ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wakeup.add_stream(stream)
            wanted = KNOWN[:1] if kind == "deaf" else self._random.sample(KNOWN[1:], 2)
            if self._random.random() < 0.3:
                wanted.append(self._random.choice(WOKEN))
            sessions = [
                wakeup.session(secret, on_peer_add=ask, on_announce=answered) for secret in wanted
            ]
            wakeup.session(os.urandom(32))  # nobody has it
            with suppress(TimeoutError):
                async with asyncio.timeout(stay / 2):
                    await stream.wait_closed()
            for session in sessions:
                session.broadcast_announce([(os.urandom(32), 1)])
            if kind == "deaf":
                stream.pause_reading()
                for session in sessions:
                    session.broadcast_lookup()
            elif self._random.random() < 0.3:
                sessions[0].inactive()
            with suppress(TimeoutError):
                async with asyncio.timeout(stay / 2):
                    await stream.wait_closed()
                raise stream.error or ConnectionError("the host closed")
            self.answered += is_answered
            await self._go(kind, stream, wakeup)
        finally:
            wakeup.destroy()
            stream.abort()

    async def _go(self, kind: str, stream: SecretStream, wakeup: Wakeup) -> None:
        if kind == "polite":
            wakeup.destroy()
            stream.close()
            await stream.wait_closed()
            if stream.error is not None:
                raise stream.error
        elif kind == "resets":
            end: socket.socket = stream.transport.get_extra_info("socket")  # type: ignore[union-attr]
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    async def _come_raw(self, kind: str, stay: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if kind == "drops":
                writer.write(b"\x20\x00\x00" + os.urandom(self._random.randrange(32)))
            await asyncio.sleep(min(stay, 5))  # the host gives it ten seconds
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _obey(role: Host | Guests) -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    print(json.dumps(await role.start()), flush=True)
    known: dict[bytes, Callable[[], Awaitable[None]]] = {b"finish": role.finish}
    while command := (await commands.readline()).strip():
        if command in known:
            await known[command]()
            print(json.dumps(role.final()), flush=True)
        else:
            print(json.dumps(role.report()), flush=True)
    transport.close()


def main() -> None:
    """Be the process that the command line says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    role = sys.argv[1]
    if role == "host":
        asyncio.run(_obey(Host()))
    else:
        port, streams, lifetime = sys.argv[2:]
        asyncio.run(_obey(Guests(int(port), int(streams), float(lifetime))))


if __name__ == "__main__":
    main()
