"""The worker that this library ships: one `Wakeup` for all processes of a user. Knows no election.

Its clients watch topics, announce in them, and say where peers are. What a peer announces is in the
store before any client hears of it, and what a client announces before that is answered. The
client's half is `service_client`.

Where SQLite fails, a call fails with it. Hints of peers are left out then, which is logged; half a
minute later all peers of those topics are asked again, until the store has room for the answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from protomux import KeyPair
from protomux_wakeup.host.addresses import Addresses
from protomux_wakeup.host.delivery import RETRY, Delivery, Recipient
from protomux_wakeup.host.errors import StoreFailed
from protomux_wakeup.host.hints import HintStore, Watch
from protomux_wakeup.host.params import flag_of, key_of, number_of, text_of, writers_of
from protomux_wakeup.host.places import private_directory
from protomux_wakeup.host.worker import Worker
from protomux_wakeup.limits import Limits, Rate
from protomux_wakeup.messages import Lookup, Writer
from protomux_wakeup.peer import Peer
from protomux_wakeup.session import Session
from protomux_wakeup.wakeup import Wakeup

__all__ = ["GRACE", "SLICE", "Service", "main", "state_directory"]

_log = logging.getLogger("protomux_wakeup.host")

GRACE: Final = 30.0
"""Seconds that the records of a watcher without a name outlive its process's connection: it may be
the worker that went, and the process comes to the next one."""

SLICE: Final = 1_024
"""Writers that are stored before others have a turn: some 25 ms of work."""

LIMITS: Final = Limits(entries=Rate(131_072, 16_384))
"""Of the `Wakeup`. What a peer announces is written down here, at some 25 us an entry, so it may
say less in the long run than where it is only heard."""


def state_directory(name: str, options: Mapping[str, Any]) -> Path:
    """Return where the worker of the host `name` keeps its file: options["state"], or a default.

    The default is $XDG_STATE_HOME/protomux-wakeup/NAME, where the variable is ~/.local/state
    unless it is set to an absolute path (XDG Base Directory Specification). Raises ValueError for
    a name that can name no directory.
    """
    if options.get("state") is not None:
        return Path(text_of(options, "state"))
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"expected a name of a host that can name a directory, got {name!r}")
    base = os.environ.get("XDG_STATE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return home / "protomux-wakeup" / name


async def main(worker: Worker) -> None:
    """Serve the clients of `worker` until it has to go.

    Its option "state" is the directory of the file with hints, else see `state_directory`. Raises
    StoreFailed where that file cannot be used, ForeignPeer where the directory is another user's
    or open to others.
    """
    directory = private_directory(state_directory(worker.name, worker.options))
    store = HintStore(directory / "hints.db")
    try:
        service = Service(store)
        for method, handler in service.methods.items():
            worker.respond(method, handler)
        worker.on_session_end = service.client_gone
        try:
            await worker.serve()
        finally:
            await service.close()
    finally:
        store.close()


class Service:
    """One `Wakeup`, its streams and its store, for many clients.

    Attributes:
        key_pair: who we are to peers.
        methods: the responders by name, handler(params, client).
    """

    def __init__(self, store: HintStore) -> None:
        """Serve from `store`, with all topics that are in it."""
        self.key_pair: Final = KeyPair.generate(store.seed)
        self.methods: Final[Mapping[str, Callable[[Any, Recipient], object]]] = {
            "watch": self._watch,
            "unwatch": self._unwatch,
            "acknowledge": self._acknowledge,
            "announce": self._announce,
            "connect": self._connect,
            "listen": self._listen,
            "status": self._status,
        }
        self._store: Final = store
        self._wakeup: Final = Wakeup(limits=LIMITS)
        self._addresses: Final = Addresses(self.key_pair, self._wakeup.add_stream)
        self._delivery: Final = Delivery(store, self._commit)
        self._sessions: dict[bytes, Session] = {}
        self._announced: dict[bytes, dict[bytes, int]] = {}
        self._arrived: set[bytes] = set()  # topics with hints that are not committed
        self._commits: asyncio.Handle | None = None
        self._asking: dict[Peer, Session] = {}  # who is to be told what was announced
        self._answers: asyncio.Handle | None = None
        self._missed: set[bytes] = set()  # topics with hints that could not be
        self._asks: asyncio.TimerHandle | None = None
        self._ephemeral: set[Watch] = set()
        self._forgets: dict[Watch, asyncio.TimerHandle] = {}
        for topic in store.topics():
            self._announced[topic.id] = dict(store.announced(topic.id))
            self._join(topic.capability)
        for watch in store.ephemeral_watches():
            self._ephemeral.add(watch)
            self._forget_later(watch)

    async def close(self) -> None:
        """Leave all peers and clients; the store stays as it is."""
        self._delivery.close()
        await self._addresses.close()
        self._wakeup.destroy()
        for handle in (self._commits, self._answers, self._asks, *self._forgets.values()):
            if handle is not None:
                handle.cancel()

    def client_gone(self, client: Recipient) -> None:
        """`client` has left, or was lost."""
        self._addresses.client_gone(client)
        for watch in self._delivery.recipient_gone(client):
            if watch in self._ephemeral:
                self._forget_later(watch)

    # What clients ask for

    def _watch(self, params: Any, client: Recipient) -> dict[str, str]:
        capability = key_of(params, "capability")
        watcher = text_of(params, "watcher")
        is_ephemeral = flag_of(params, "is_ephemeral")
        serial = number_of(params, "serial")
        with self._stored():
            topic = self._store.watch(watcher, capability, is_ephemeral=is_ephemeral)
        watch = Watch(watcher, topic)
        self._keep(watch)
        if is_ephemeral:
            self._ephemeral.add(watch)
        self._join(capability).broadcast_lookup()
        self._delivery.watch(watch, client, serial)
        return {"topic": topic.hex()}

    def _unwatch(self, params: Any, client: Recipient) -> None:
        watch = Watch(text_of(params, "watcher"), key_of(params, "topic"))
        recipient = self._delivery.recipient_of(watch)
        if recipient is None or recipient is client:
            self._forget(watch)

    def _acknowledge(self, params: Any, _client: Recipient) -> None:
        watch = Watch(text_of(params, "watcher"), key_of(params, "topic"))
        writers = writers_of(params, "hints")
        if watch.topic not in self._sessions:
            return
        with self._stored():
            self._store.acknowledge(*watch, writers)
        self._delivery.acknowledged(watch, writers)

    def _announce(self, params: Any, _client: Recipient) -> None:
        capability = key_of(params, "capability")
        writers = writers_of(params, "writers")
        with self._stored():
            grown = self._store.announce(capability, writers)
        if grown:
            session = self._join(capability)
            self._announced.setdefault(session.topic.id, {}).update(grown)
            session.broadcast_announce(grown)

    async def _connect(self, params: Any, client: Recipient) -> None:
        address = text_of(params, "address")
        await self._addresses.connect(address, client, wait=flag_of(params, "wait"))

    async def _listen(self, params: Any, client: Recipient) -> dict[str, list[str]]:
        addresses = await self._addresses.listen(text_of(params, "address"), client)
        return {"addresses": [str(address) for address in addresses]}

    def _status(self, _params: Any, _client: Recipient) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "public_key": self.key_pair.public_key.hex(),
            "topics": [
                {
                    "topic": topic.id.hex(),
                    "peers": len(self._sessions[topic.id].peers),
                    "hints": topic.hints,
                    "watchers": topic.watchers,
                    "announced": topic.announced,
                }
                for topic in self._store.topics()
            ],
            **self._addresses.status(),
        }

    # Topics

    def _join(self, capability: bytes) -> Session:
        sessions = self._wakeup.get_sessions(capability)
        session = sessions[0] if sessions else self._wakeup.session(capability, self)
        self._sessions[session.topic.id] = session
        return session

    def _forget(self, watch: Watch) -> None:
        """Drop `watch`, and its topic where nothing else needs that."""
        if watch.topic not in self._sessions:
            return
        with self._stored():
            is_over = self._store.unwatch(*watch)
        self._delivery.unwatch(watch)
        self._keep(watch)
        if is_over:
            self._announced.pop(watch.topic, None)
            self._sessions.pop(watch.topic).destroy()

    def _keep(self, watch: Watch) -> None:
        """`watch` is not to be forgotten later: it is in use, or has been forgotten."""
        self._ephemeral.discard(watch)
        timer = self._forgets.pop(watch, None)
        if timer is not None:
            timer.cancel()

    def _forget_later(self, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        self._forgets[watch] = loop.call_later(GRACE, self._forget_now, watch)

    def _forget_now(self, watch: Watch) -> None:
        try:
            self._forget(watch)
        except StoreFailed:
            _log.error("a watcher that is gone cannot be forgotten", exc_info=True)
            self._forget_later(watch)

    # What peers say: hooks of the sessions

    def on_peer_add(self, peer: Peer, session: Session) -> None:
        """Tell a peer what was announced here, and ask what has grown there."""
        if self._announced.get(session.topic.id):
            self._answer_soon(peer, session)
        session.lookup(peer)

    def on_lookup(self, _lookup: Lookup, peer: Peer, session: Session) -> None:
        """Answer, also where nothing was announced: the peer need not wait any longer then."""
        self._answer_soon(peer, session)

    def _answer_soon(self, peer: Peer, session: Session) -> None:
        """Answer `peer` once, however often it asks until then: it has little to do for that."""
        self._asking[peer] = session
        if self._answers is None:
            self._answers = asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        self._answers = None
        entries = 0
        while self._asking and entries < SLICE:
            peer = next(iter(self._asking))
            session = self._asking.pop(peer)
            announced = list(self._announced.get(session.topic.id, {}).items())
            session.announce(peer, announced)
            entries += 1 + len(announced)
        if self._asking:
            self._answers = asyncio.get_running_loop().call_soon(self._answer)

    def on_announce(
        self, writers: list[Writer], _peer: Peer, session: Session
    ) -> Awaitable[None] | None:
        """Store what a peer announces. A log too many raises LimitExceeded: it costs the stream."""
        if len(writers) > SLICE:
            return self._learn_slowly(session, writers)
        self._learn(session, writers)
        return None

    async def _learn_slowly(self, session: Session, writers: list[Writer]) -> None:
        for start in range(0, len(writers), SLICE):
            self._learn(session, writers[start : start + SLICE])
            await asyncio.sleep(0)

    def _learn(self, session: Session, writers: list[Writer]) -> None:
        if session.is_destroyed:
            return
        topic = session.topic.id
        try:
            if self._store.learn(topic, writers):
                self._arrived.add(topic)
        except StoreFailed as error:
            self._arrived.add(topic)
            self._note_missed(error)
        if self._arrived and self._commits is None:
            self._commits = asyncio.get_running_loop().call_soon(self._commit_arrived)

    # One commit for what came in a tick

    def _commit_arrived(self) -> None:
        self._commits = None
        with suppress(StoreFailed):  # which is noted
            self._commit()

    def _commit(self) -> None:
        """Commit, and deliver what arrived."""
        try:
            self._store.commit()
        except StoreFailed as error:
            self._note_missed(error)
            raise
        arrived, self._arrived = self._arrived, set()
        for topic in arrived:
            self._delivery.hints_arrived(topic)

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """Commit what was written in this context, and what came from peers before."""
        try:
            yield
        except StoreFailed as error:
            self._note_missed(error)
            raise
        self._commit()

    def _note_missed(self, error: StoreFailed) -> None:
        """All that was not committed is undone: ask the peers again, later."""
        if self._arrived and not self._missed:
            _log.error("what peers announced is left out: %s", error)
        self._missed |= self._arrived
        self._arrived.clear()
        if self._missed and self._asks is None:
            self._asks = asyncio.get_running_loop().call_later(RETRY, self._ask_again)

    def _ask_again(self) -> None:
        self._asks = None
        missed, self._missed = self._missed, set()
        for topic in missed:
            session = self._sessions.get(topic)
            if session is not None:
                session.broadcast_lookup()
