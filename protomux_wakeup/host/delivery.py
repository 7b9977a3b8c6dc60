"""Hints on their way to the clients that watch. Knows the store and its order, no peer.

A client is sent so many hints of a topic that it has not acknowledged. What is beyond that stays in
the store and grows together there: a client that does not keep up with a topic costs a constant,
and hears of its others. A log that is on its way is not sent again until the client has
acknowledged it, and then with its newest length.

A watcher is one process at a time: where a second one comes under the same name, it gets the hints
from then on, and the first is told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from protomux_wakeup.host.errors import StoreFailed
from protomux_wakeup.host.hints import HintStore, Watch

__all__ = ["RETRY", "WINDOW", "Delivery", "Recipient"]

_log = logging.getLogger("protomux_wakeup.host")

WINDOW: Final = 1_024
"""Hints of one topic that a client may have without having acknowledged them."""
SLICE: Final = 1_024
"""Hints that are looked at before others have a turn: some milliseconds of work."""
RETRY: Final = 30.0
"""Seconds until what the store has failed at is tried again."""


class Recipient(Protocol):
    """A client as the delivery needs it."""

    def notify(self, method: str, params: Any = None, /) -> object:
        """Send an event."""
        ...


class _Watched:
    """A watch of a client's, and how far it has been sent."""

    __slots__ = ("grown", "is_full", "on_the_way", "serial", "through", "watch")

    def __init__(self, watch: Watch, serial: int) -> None:
        self.watch: Final = watch
        self.serial: Final = serial
        self.through = 0
        self.on_the_way: dict[bytes, int] = {}
        self.grown: dict[bytes, int] = {}  # of those that are on the way
        self.is_full = False  # and there is more to send


class _Client:
    """What one client watches, and what is on the way to it."""

    __slots__ = ("pump", "unsent", "watched")

    def __init__(self) -> None:
        self.watched: dict[Watch, _Watched] = {}
        self.unsent: dict[_Watched, None] = {}  # whose turn it is next is first
        self.pump: asyncio.Handle | None = None


class Delivery:
    """All that is on its way to all clients."""

    def __init__(self, store: HintStore, commit: Callable[[], object]) -> None:
        """Deliver from `store`; `commit` commits it, and raises StoreFailed where it fails."""
        self._store = store
        self._commit = commit
        self._clients: dict[Recipient, _Client] = {}
        self._recipients: dict[Watch, Recipient] = {}
        self._watches: dict[bytes, set[Watch]] = {}  # by topic

    def watch(self, watch: Watch, recipient: Recipient, serial: int) -> None:
        """Send `recipient` all that `watch` has not acknowledged, and what comes from now on.

        Also where it did so before: who asks again may have lost what was on the way. Whoever else
        got it before is told that it is "replaced", with the `serial` number of its own request, so
        that it can tell whether it has asked again since.
        """
        before = self._recipients.get(watch)
        if before is not None:
            replaced = self._clients[before].watched[watch]
            self.unwatch(watch)
            if before is not recipient:
                before.notify(
                    "replaced",
                    {
                        "watcher": watch.watcher,
                        "topic": watch.topic.hex(),
                        "serial": replaced.serial,
                    },
                )
        self._recipients[watch] = recipient
        self._watches.setdefault(watch.topic, set()).add(watch)
        client = self._clients.setdefault(recipient, _Client())
        watched = client.watched[watch] = _Watched(watch, serial)
        self._has_news(recipient, client, watched)

    def unwatch(self, watch: Watch) -> None:
        """Send nothing more of `watch`."""
        recipient = self._recipients.get(watch)
        if recipient is None:
            return
        self._forget(watch)
        client = self._clients[recipient]
        watched = client.watched.pop(watch)
        client.unsent.pop(watched, None)

    def recipient_of(self, watch: Watch) -> Recipient | None:
        """Return who gets the hints of `watch`."""
        return self._recipients.get(watch)

    def recipient_gone(self, recipient: Recipient) -> list[Watch]:
        """Forget `recipient`; return what it watched."""
        client = self._clients.pop(recipient, None)
        if client is None:
            return []
        if client.pump is not None:
            client.pump.cancel()
        for watch in client.watched:
            self._forget(watch)
        return list(client.watched)

    def _forget(self, watch: Watch) -> None:
        del self._recipients[watch]
        watches = self._watches[watch.topic]
        watches.discard(watch)
        if not watches:
            del self._watches[watch.topic]

    def hints_arrived(self, topic: bytes) -> None:
        """There are new hints of `topic` in the store, committed."""
        for watch in self._watches.get(topic, ()):
            recipient = self._recipients[watch]
            client = self._clients[recipient]
            self._has_news(recipient, client, client.watched[watch])

    def acknowledged(self, watch: Watch, writers: Iterable[tuple[bytes, int]]) -> None:
        """What was on the way has arrived, and the store knows."""
        recipient = self._recipients.get(watch)
        if recipient is None:
            return
        client = self._clients[recipient]
        watched = client.watched[watch]
        again: list[tuple[bytes, int]] = []
        for key, length in writers:
            if length < watched.on_the_way.get(key, length + 1):
                continue
            del watched.on_the_way[key]
            grown = watched.grown.pop(key, -1)
            if grown > length:
                again.append((key, grown))
        self._send(recipient, watched, again)
        if watched.is_full and len(watched.on_the_way) < WINDOW:
            watched.is_full = False
            self._has_news(recipient, client, watched)

    def close(self) -> None:
        """Send nothing more."""
        for recipient in list(self._clients):
            self.recipient_gone(recipient)

    def _has_news(self, recipient: Recipient, client: _Client, watched: _Watched) -> None:
        if not watched.is_full:
            client.unsent[watched] = None
            self._schedule(recipient, client)

    def _schedule(self, recipient: Recipient, client: _Client) -> None:
        if client.pump is None:
            loop = asyncio.get_running_loop()
            client.pump = loop.call_soon(self._pump, recipient, client)

    def _pump(self, recipient: Recipient, client: _Client) -> None:
        client.pump = None
        with suppress(StoreFailed):  # what cannot be committed is undone, and so is not told
            self._commit()
        try:
            self._send_unsent(recipient, client)
        except StoreFailed:
            _log.error("hints wait, for they cannot be read", exc_info=True)
            loop = asyncio.get_running_loop()
            client.pump = loop.call_later(RETRY, self._pump, recipient, client)

    def _send_unsent(self, recipient: Recipient, client: _Client) -> None:
        looked_at = 0
        while client.unsent:
            if looked_at >= SLICE:
                self._schedule(recipient, client)
                return
            watched = next(iter(client.unsent))
            most = min(WINDOW - len(watched.on_the_way), SLICE)
            if most <= 0:
                watched.is_full = True
                del client.unsent[watched]
                continue
            found = self._store.pending(*watched.watch, after=watched.through, most=most)
            looked_at += most
            watched.through = found.through
            del client.unsent[watched]
            if not found.is_all:
                client.unsent[watched] = None
            on_the_way = watched.on_the_way
            watched.grown.update(hint for hint in found.hints if hint.key in on_the_way)
            self._send(
                recipient, watched, [hint for hint in found.hints if hint.key not in on_the_way]
            )

    def _send(
        self, recipient: Recipient, watched: _Watched, hints: list[tuple[bytes, int]]
    ) -> None:
        if not hints:
            return
        watched.on_the_way.update(hints)
        recipient.notify(
            "hints",
            {
                "watcher": watched.watch.watcher,
                "topic": watched.watch.topic.hex(),
                "hints": [[key.hex(), length] for key, length in hints],
            },
        )
