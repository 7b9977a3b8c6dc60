"""A process's half of the service: what it watches, announces and connects to. Knows no socket.

What it asked for outlives the worker: the next one is told all of it anew. Hints that come twice by
that are filtered here, so the application gets each once. Nothing outlives this process but what it
announced, and the place that a watcher with a name has come to.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from protomux import ProtomuxError, StreamClosed
from protomux.crypto import discovery_key
from protomux_wakeup.host.errors import LeaderLost, RemoteError, RequestTimeout, WatcherReplaced
from protomux_wakeup.host.leader import Client
from protomux_wakeup.host.params import key_of, number_of, writers_of

__all__ = ["Hint", "Hints", "ServiceClient"]

_log = logging.getLogger("protomux_wakeup.host")

PART: Final = 1_024
"""Writers that go in one call: the worker has a turn for others between two."""

FIRST_WAIT: Final = 1.0
"""Seconds before a new worker is asked again for what it has refused; twice as many each time."""

LONGEST_WAIT: Final = 30.0
"""Seconds between two such requests at most."""

_Want: TypeAlias = tuple[str, dict[str, Any]]
"""A call to a worker: its method and parameters."""


class Hint(NamedTuple):
    """A log has grown.

    Attributes:
        topic: 32 bytes, the id of its topic.
        key: 32 bytes, the key of the log.
        length: it has at least so many blocks.
    """

    topic: bytes
    key: bytes
    length: int


class _Watched:
    """A topic that is watched.

    Attributes:
        capability, watcher, is_ephemeral: what was asked for.
        received: the newest length of each log.
        open: those of them that are not acknowledged.
        serial: the number of the last request for it; that of the last one that was granted is
            `granted`, 0 for none, and of one after which another process has got it, `replaced`.
        asking: requests that are not answered.
    """

    __slots__ = (
        "asking",
        "capability",
        "granted",
        "is_ephemeral",
        "open",
        "received",
        "replaced",
        "serial",
        "watcher",
    )

    def __init__(self, capability: bytes, watcher: str, is_ephemeral: bool) -> None:
        self.capability: Final = capability
        self.watcher: Final = watcher
        self.is_ephemeral: Final = is_ephemeral
        self.received: dict[bytes, int] = {}
        self.open: dict[bytes, int] = {}
        self.serial = self.granted = self.replaced = self.asking = 0

    @property
    def params(self) -> dict[str, Any]:
        """Those of the call "watch"."""
        return {
            "capability": self.capability.hex(),
            "watcher": self.watcher,
            "is_ephemeral": self.is_ephemeral,
            "serial": self.serial,
        }


class ServiceClient:
    """The service, the worker that this library ships, for one process. Made by `join`.

    ```python
    async with host.join("notes", watcher="indexer") as service:
        await service.watch(capability)
        await service.connect("peer.example:4000")
        async for topic, key, length in service.hints():
            ...
    ```

    As a context manager it joins the host, as its client does, and leaves on the way out. The calls
    are sent again where the worker is another one meanwhile; beside what they say themselves they
    raise RemoteError for an error of the worker, such as a full disk, and RequestTimeout.

    Attributes:
        client: this process's part in the host: who leads, and where the worker is.
    """

    def __init__(self, client: Client, watcher: str | None = None) -> None:
        """Use `client`, whose responders and `on_connect` are the service's from now on.

        Args:
            client: of the service, which has not joined yet.
            watcher: the name under which is kept what this process has acknowledged, so that the
                next one with that name goes on from there. Two at once with one name: the later
                one gets the hints. Without a name one is made up, and what was kept under it is
                dropped soon after this process has gone.
        """
        self.client: Final = client
        self._watcher = watcher
        self._nobody: Final = secrets.token_hex(16)
        self._watched: dict[bytes, _Watched] = {}
        self._connected: dict[str, None] = {}
        self._listening: dict[str, None] = {}
        self._waiting: deque[Hint | WatcherReplaced] = deque()
        self._news = asyncio.Event()
        self._has_left = False
        self._iteration: Hints | None = None
        self._asking_again: asyncio.Task[None] | None = None
        client.respond("hints", self._hints_came)
        client.respond("replaced", self._was_replaced)
        client.on_connect = self._connect_anew

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()

    async def watch(self, capability: bytes, *, watcher: str | None = None) -> bytes:
        """Want the hints of the topic of `capability`; return the topic's id, 32 bytes.

        `watcher` is in place of the name that this client was made with. A watcher that is new to
        the topic gets all that is known there. Raises ValueError for a capability that is none,
        RuntimeError for a topic that is watched here under another name.
        """
        topic = discovery_key(capability)
        name = watcher or self._watcher
        wanted = _Watched(bytes(capability), name or self._nobody, name is None)
        before = self._watched.setdefault(topic, wanted)
        if before.watcher != wanted.watcher:
            raise RuntimeError(
                f"expected the watcher {before.watcher!r} for a topic that is watched, "
                f"got {wanted.watcher!r}"
            )
        before.serial += 1
        before.asking += 1
        params = before.params
        try:
            await self._call("watch", params)
            before.granted = max(before.granted, params["serial"])
        finally:
            before.asking -= 1
            self._settle(topic, before)
        return topic

    async def unwatch(self, topic: bytes) -> None:
        """Want no more hints of the topic with that id, and forget what was acknowledged there."""
        watched = self._watched.pop(topic, None)
        if watched is not None:
            await self._call("unwatch", {"watcher": watched.watcher, "topic": topic.hex()})

    def hints(self, *, acknowledge: bool = True) -> Hints:
        """Return an async iterator over the hints of all topics that are watched.

        A hint is acknowledged when the iteration asks for the next one. One that was in hand when
        this process died comes again to the next watcher of that name; one at which the iteration
        was broken off begins the next iteration. With `acknowledge=False` that is for
        `acknowledge()`, which is faster for many at once; some 1,000 come without it.

        One iteration at a time: an older one ends with RuntimeError. It raises WatcherReplaced
        once for each topic that another process watches under the same name now; a new iteration
        goes on with the other topics. It ends when this client leaves.
        """
        if self._iteration is not None:
            in_hand = self._iteration.give_back()
            if in_hand is not None:
                self._waiting.appendleft(in_hand)
        self._iteration = Hints(self, acknowledge)
        return self._iteration

    async def acknowledge(self, *hints: Hint) -> None:
        """Want none of `hints` any more, nor any with a smaller length of the same log."""
        by_topic: dict[bytes, list[Hint]] = {}
        for hint in hints:
            by_topic.setdefault(hint.topic, []).append(hint)
        for topic, known in by_topic.items():
            watched = self._watched.get(topic)
            if watched is None:
                continue
            await self._acknowledge(topic, watched, [(key, length) for _, key, length in known])
            for _, key, length in known:
                if watched.open.get(key, length + 1) <= length:
                    del watched.open[key]

    async def _acknowledge(
        self, topic: bytes, watched: _Watched, writers: list[tuple[bytes, int]]
    ) -> None:
        for start in range(0, len(writers), PART):
            await self._call(
                "acknowledge",
                {
                    "watcher": watched.watcher,
                    "topic": topic.hex(),
                    "hints": _json_of(writers[start : start + PART]),
                },
            )

    async def announce(self, capability: bytes, writers: Iterable[tuple[bytes, int]]) -> None:
        """Tell all peers of the topic of `capability` which logs have grown, now and later.

        `writers` are `Writer`s, or (32-byte key, length) pairs. When this returns, the worker will
        say so to whoever asks, also after it was killed.
        """
        entries = list(writers)
        for start in range(0, len(entries), PART):
            part = _json_of(entries[start : start + PART])
            await self._call("announce", {"capability": capability.hex(), "writers": part})

    async def connect(self, address: str, *, wait: bool = True) -> None:
        """Have a stream to `address` kept up while this process is here.

        HOST:PORT, [IPV6]:PORT, unix:PATH or udp://SERVER:PORT/ID/VISITOR:PORT/ID. With `wait`, wait
        for the first stream; raises RemoteError, with a code such as "ECONNREFUSED", where the
        first attempt fails, and then nothing is kept up. Without it, whoever is away is tried
        again, up to half a minute later, until it is there.
        """
        await self._call("connect", {"address": address, "wait": wait})
        self._connected[address] = None

    async def listen(self, address: str) -> str:
        """Have peers let in at `address` while this process is here; return where that is.

        As for `connect`; port 0 is any free one, and the same one at the next worker. The first
        address, where a name stands for several.
        """
        addresses: list[str] = (await self._call("listen", {"address": address}))["addresses"]
        self._listening.update(dict.fromkeys(addresses))
        return addresses[0]

    async def status(self) -> Mapping[str, Any]:
        """Return what the worker does: "pid", "public_key", "topics", "peers", "links" and more.

        Keys and ids are hex digits; each of "topics" has "topic", and the numbers of "peers",
        "hints", "watchers" and "announced" logs.
        """
        status: dict[str, Any] = await self._call("status")
        return status

    async def leave(self) -> None:
        """Leave the worker; what a watcher without a name had is dropped."""
        if self._has_left:
            return
        self._has_left = True
        self._news.set()
        if self._asking_again is not None:
            self._asking_again.cancel()
        nameless = [topic for topic, each in self._watched.items() if each.is_ephemeral]
        try:
            await asyncio.gather(*map(self.unwatch, nameless))
        except ProtomuxError as error:  # the worker drops it by itself after a while
            _log.debug("a watcher without a name was not dropped: %s", error)
        finally:
            await self.client.leave()

    async def _call(self, method: str, params: Any = None) -> Any:
        return await self.client.call(method, params, idempotent=True)

    # For the iterators

    def is_current(self, iteration: Hints) -> bool:
        """Tell whether no other iteration has begun."""
        return self._iteration is iteration

    async def next_hint(self) -> Hint | None:
        """Wait for a hint that is news; None when there will be none."""
        while not self._has_left:
            while self._waiting:
                hint = self._waiting.popleft()
                if isinstance(hint, WatcherReplaced):
                    raise hint
                watched = self._watched.get(hint.topic)
                # Another length: a later one waits, and says more.
                if watched is not None and watched.open.get(hint.key) == hint.length:
                    return hint
            self._news.clear()
            await self._news.wait()
        return None

    # What the worker says

    def _hints_came(self, params: Any) -> Awaitable[None] | None:
        topic = key_of(params, "topic")
        watched = self._watched.get(topic)
        if watched is None:
            return None
        known = []
        for key, length in writers_of(params, "hints"):
            newest = watched.received.get(key, -1)
            if length > newest:
                watched.received[key] = watched.open[key] = length
                self._waiting.append(Hint(topic, key, length))
            elif key not in watched.open:
                known.append((key, newest))
        self._news.set()
        # What was acknowledged long ago, or the worker would wait for it.
        return self._acknowledge(topic, watched, known) if known else None

    def _was_replaced(self, params: Any) -> None:
        topic = key_of(params, "topic")
        watched = self._watched.get(topic)
        if watched is not None:
            watched.replaced = max(watched.replaced, number_of(params, "serial"))
            self._settle(topic, watched)

    def _settle(self, topic: bytes, watched: _Watched) -> None:
        """See whether it is watched still, unless that is being asked for."""
        if watched.asking or self._watched.get(topic) is not watched:
            return
        if watched.granted <= watched.replaced:  # both 0: it was never granted
            del self._watched[topic]
        if 0 < watched.granted <= watched.replaced:
            self._waiting.appendleft(
                WatcherReplaced(f"another process watches {topic.hex()} as {watched.watcher!r} now")
            )
            self._news.set()

    # The next worker

    @property
    def _wants(self) -> list[_Want]:
        """All that a worker has to be asked for."""
        return [
            *(("watch", watched.params) for watched in self._watched.values()),
            *(("listen", {"address": address}) for address in self._listening),
            *(("connect", {"address": address, "wait": False}) for address in self._connected),
        ]

    async def _connect_anew(self, _client: object) -> None:
        """There is a new worker, which knows nothing of us.

        These calls are to it alone: where it goes as well, the one after it is told.
        """
        if self._asking_again is not None:
            self._asking_again.cancel()
            self._asking_again = None
        refused = await self._ask(self._wants)
        if refused:
            self._asking_again = asyncio.create_task(self._ask_again(refused))

    async def _ask(self, wants: list[_Want]) -> list[_Want]:
        """Return those of `wants` that the worker does not do."""
        refused = []
        calls = [self.client.call(method, params) for method, params in wants]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for want, result in zip(wants, results, strict=True):
            if isinstance(result, RemoteError | RequestTimeout):
                _log.error("the new worker does not do what the one before did: %s", result)
                refused.append(want)
            elif isinstance(result, BaseException):
                raise result
        return refused

    async def _ask_again(self, refused: list[_Want]) -> None:
        """Ask the worker, whose disk may have been full, until it does all, or is another one."""
        wait = FIRST_WAIT
        with suppress(StreamClosed, LeaderLost):  # or this client leaves
            while refused:
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                wanted = self._wants
                refused = await self._ask([want for want in refused if want in wanted])


class Hints:
    """An async iterator over hints. Made by `ServiceClient.hints`."""

    def __init__(self, client: ServiceClient, acknowledge: bool) -> None:
        self._client = client
        self._acknowledges = acknowledge
        self._in_hand: Hint | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Hint:
        if not self._client.is_current(self):
            raise RuntimeError("expected one iteration over the hints, another one has begun")
        if self._in_hand is not None:
            await self._client.acknowledge(self._in_hand)
            self._in_hand = None
        hint = await self._client.next_hint()
        if hint is None:
            raise StopAsyncIteration
        if self._acknowledges:
            self._in_hand = hint
        return hint

    def give_back(self) -> Hint | None:
        """Return the hint that was handed out and not acknowledged, for the next iteration."""
        hint, self._in_hand = self._in_hand, None
        return hint


def _json_of(writers: Iterable[tuple[bytes, int]]) -> list[list[str | int]]:
    return [[bytes(key).hex(), length] for key, length in writers]
