"""Wakeup: all topics and all streams of one application. Knows the timer that collects topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

from protomux import Protomux, ProtomuxError
from protomux.crypto import KEY_SIZE
from protomux.deadlines import Deadlines
from protomux.encoding import BytesLike
from protomux.hooks import is_pending
from protomux.streams import FramedStream
from protomux_wakeup import messages, metrics
from protomux_wakeup.capability import Capability
from protomux_wakeup.carrier import Carrier
from protomux_wakeup.limits import Limits
from protomux_wakeup.metrics import Stats
from protomux_wakeup.peer import Peer
from protomux_wakeup.session import Hook, Session, collect_hooks
from protomux_wakeup.topic import Topic, handlers

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["GC_TICKS", "Wakeup"]

_log = logging.getLogger("protomux_wakeup")

GC_TICKS: Final = 5
"""Ticks of the interval that a topic stays idle before it is collected, as in the original."""


@runtime_checkable
class _Opens(Protocol):
    async def wait_opened(self) -> None: ...


class _Waking:
    """An async `on_wakeup` hook, and what comes right after it.

    Right after, because a session that the hook made may find the proof to be wrong in the next
    tick, and would be answered once more then.
    """

    def __init__(self, hook: Awaitable[Any], answer: Callable[[], object]) -> None:
        # A future is the application's own, and may serve others: it is not cancelled with ours.
        self._hook = asyncio.shield(hook) if isinstance(hook, asyncio.Future) else hook
        self._answer = answer

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self._hook.__await__()
        self._answer()

    def close(self) -> None:
        """It will not be awaited, or was."""
        if isinstance(self._hook, Coroutine):
            self._hook.close()


class Wakeup:
    """All topics of an application over all of its streams.

    Attributes:
        stats: what it counted, see `protomux_wakeup.Stats`.
    """

    def __init__(
        self,
        on_wakeup: Callable[[bytes, Protomux], object] | None = None,
        *,
        gc_interval: float = 2.0,
        limits: Limits = Limits(),
    ) -> None:
        """Make one without topics and streams.

        Args:
            on_wakeup: on_wakeup(id, mux), plain or async, when a peer opens a topic that has no
                session here. When it has ended, the peer is answered if there is a session by
                then, else rejected. One that raises destroys the peer's stream.
            gc_interval: seconds between two looks at idle topics, those without sessions and
                active peers; one that is idle for five of them is collected.
            limits: bounds for this object and for the muxes that it makes.
        """
        if gc_interval <= 0:
            raise ValueError(f"expected a gc_interval above 0 seconds, got {gc_interval}")
        self.stats = Stats()
        self._on_wakeup = on_wakeup
        self._gc_interval = gc_interval
        self._limits = limits
        self._topics: dict[bytes, Topic] = {}
        self._carriers: dict[Protomux, Carrier] = {}
        self._handlers = handlers(limits.announce_entries)
        self._pending: Deadlines[Peer] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._idle: dict[Topic, int] = {}
        self._gc_timer: asyncio.TimerHandle | None = None
        self._is_destroyed = False

    def __repr__(self) -> str:
        return f"<Wakeup {len(self._topics)} topics {len(self._carriers)} streams>"

    @property
    def topics(self) -> Mapping[bytes, Topic]:
        """The topics by their 32-byte id; read-only, and always up to date."""
        return MappingProxyType(self._topics)

    @property
    def muxes(self) -> Iterable[Protomux]:
        """The muxes of the streams that were added and are not gone."""
        return [carrier.mux for carrier in self.carriers]

    def session(
        self,
        capability: BytesLike,
        handler: object = None,
        *,
        active: bool = True,
        discovery_key: BytesLike | None = None,
        **hooks: Hook | None,
    ) -> Session:
        """Take interest in the topic of `capability`; sessions of one capability share it.

        Args:
            capability: 32 secret bytes; with a discovery_key any number of bytes but none.
            handler: an object whose methods are hooks, by the names below.
            active: whether the session wants news from the start.
            discovery_key: 32 bytes that name the topic on the wire, in place of the capability's
                own discovery key.
            **hooks: on_peer_add, on_peer_remove, on_peer_active, on_peer_inactive
                (peer, session), on_announce(writers, peer, session),
                on_lookup(lookup, peer, session) and on_destroy(session), plain or async; in
                front of those of `handler`. One that raises destroys the peer's stream.

        Raises ValueError for a capability of the wrong size, or one other than that of the
        topic with the same discovery_key; RuntimeError after `destroy()`.
        """
        self._check_alive()
        found = collect_hooks(handler, hooks)
        secret = Capability(capability, discovery_key)
        topic = self._topics.get(secret.id)
        if topic is not None and not topic.capability.is_same_secret(secret):
            raise ValueError(
                f"expected the capability that the topic {secret.id.hex()} has, got another"
            )
        if topic is None:
            topic = self._topics[secret.id] = Topic(self, secret, active, self._handlers)
            self.stats.topics_added += 1
            topic.connect_all()
        session = Session(topic, active, found, self._limits)
        topic.add_session(session)
        return session

    def get_sessions(
        self, capability: BytesLike, *, discovery_key: BytesLike | None = None
    ) -> tuple[Session, ...]:
        """Return the sessions of the topic of `capability`."""
        topic = self._topics.get(Capability(capability, discovery_key).id)
        return () if topic is None else cast(tuple[Session, ...], topic.sessions)

    def add_stream(self, stream: FramedStream | Protomux) -> None:
        """Share topics over `stream`, until it is gone: a framed stream or the mux of one.

        One that is not open yet is added when it opens; if it never does, that is its owner's
        affair. One beyond `Limits.streams` is destroyed. Raises RuntimeError after `destroy()`.
        """
        self._check_alive()
        self.when_open(stream, self._share)

    def has_stream(
        self,
        stream: FramedStream | Protomux,
        capability: BytesLike | None = None,
        *,
        discovery_key: BytesLike | None = None,
    ) -> bool:
        """Tell whether `stream` was added; with a capability, whether its topic has a peer there.

        The peer may be pending.
        """
        framed = stream.stream if isinstance(stream, Protomux) else stream
        if capability is None:
            mux = framed.receiver
            carrier = self._carriers.get(mux) if isinstance(mux, Protomux) else None
            return carrier is not None and carrier.is_shared
        topic = self._topics.get(Capability(capability, discovery_key).id)
        return topic is not None and topic.peer_of(framed) is not None

    def destroy(self) -> None:
        """Destroy all topics and sessions and let go of the streams, which stay open."""
        if self._is_destroyed:
            return
        self._is_destroyed = True
        for task in self._opening:
            task.cancel()
        for topic in list(self._topics.values()):
            topic.destroy()
        for carrier in self._carriers.values():
            if carrier.is_shared:
                carrier.mux.unpair(messages.PROTOCOL, callback=carrier.on_pair)
            carrier.mux.remove_close_callback(carrier.on_close)
        self._carriers.clear()

    def register_metrics(self, registry: CollectorRegistry | None = None) -> None:
        """Let Prometheus read `stats`, under the names that the original uses.

        `registry` is the default one unless given. Needs the extra `metrics`; raises ImportError
        without it.
        """
        metrics.register(self.stats, registry)

    def _check_alive(self) -> None:
        if self._is_destroyed:
            raise RuntimeError("expected a Wakeup that is not destroyed")

    def _carry(self, mux: Protomux, then: Callable[[Carrier], None]) -> None:
        """Call `then` with the carrier of `mux`, made if there is none."""
        carrier = self._carriers.get(mux)
        if carrier is None:
            carrier = Carrier(mux, self._limits, self.stats, self)
            if len(self._carriers) >= self._limits.streams:
                carrier.overflow("streams", self._limits.streams)
                return
            self._carriers[mux] = carrier
            mux.add_close_callback(carrier.on_close)
        then(carrier)

    def _share(self, carrier: Carrier) -> None:
        if carrier.is_shared:
            return
        carrier.is_shared = True
        carrier.mux.pair(messages.PROTOCOL, callback=carrier.on_pair)
        for topic in list(self._topics.values()):
            if topic.is_active:
                topic.connect(carrier)

    def _answer(self, id: bytes, carrier: Carrier) -> bool:
        topic = self._topics.get(id)
        if topic is None or not topic.sessions:
            return False
        topic.connect(carrier)
        return True

    def _give_up(self, peer: Peer) -> None:
        """`peer` has not proved the capability, and others wait."""
        _log.debug("%r did not prove the capability of %r in time", peer, peer.topic)
        peer.channel.close()

    # For the carriers.

    def carrier_lost(self, carrier: Carrier) -> None:
        """The stream of `carrier` is gone."""
        self._carriers.pop(carrier.mux, None)

    def topic_asked(self, carrier: Carrier, id: bytes | None) -> object:
        """A peer opens a topic that is not open here."""
        if id is None or len(id) != KEY_SIZE or not carrier.may_open():
            return None
        if self._answer(id, carrier) or self._on_wakeup is None:
            return None
        result = self._on_wakeup(id, carrier.mux)
        if is_pending(result):
            return _Waking(result, lambda: self._answer(id, carrier))
        self._answer(id, carrier)
        return None

    # For the topics.

    @property
    def carriers(self) -> Iterable[Carrier]:
        """The streams that all active topics are opened on."""
        return [carrier for carrier in self._carriers.values() if carrier.is_shared]

    def peer_asked(self, peer: Peer) -> None:
        """`peer` is to prove the capability in time."""
        if self._pending is None:
            loop = peer.carrier.mux.loop
            self._pending = Deadlines(loop, self._limits.proof_time, self._give_up)
        if len(self._pending) >= self._limits.pending_peers:
            self._give_up(next(iter(self._pending)))
        self._pending.add(peer)

    def peer_answered(self, peer: Peer) -> None:
        """`peer` has proved it, or is gone."""
        if self._pending is not None:
            self._pending.discard(peer)

    def when_open(self, stream: FramedStream | Protomux, then: Callable[[Carrier], None]) -> None:
        """Call `then` with the carrier of `stream`: now if that is open, else when it opens."""
        framed = stream.stream if isinstance(stream, Protomux) else stream
        if framed.handshake_hash is not None:
            self._carry(Protomux.of(stream, limits=self._limits), then)
            return
        if not isinstance(framed, _Opens):
            raise TypeError(f"expected a stream that is open or has wait_opened, got {framed!r}")
        waiting = self._wait_opened(stream, framed, then)
        task = asyncio.get_running_loop().create_task(waiting)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _wait_opened(
        self,
        stream: FramedStream | Protomux,
        framed: _Opens,
        then: Callable[[Carrier], None],
    ) -> None:
        try:
            await framed.wait_opened()
            mux = Protomux.of(stream, limits=self._limits)
        except ProtomuxError as error:
            _log.debug("%r was not added, it did not open: %s", stream, error)
        except Exception:  # whatever the application aborted it with, or its own receiver
            _log.warning("%r was not added", stream, exc_info=True)
        else:
            self._carry(mux, then)

    def topic_idle(self, topic: Topic) -> None:
        """`topic` could be collected."""
        self._idle[topic] = 0
        self._schedule_gc()

    def topic_busy(self, topic: Topic) -> None:
        """`topic` is in use again."""
        self._idle.pop(topic, None)
        if not self._idle and self._gc_timer is not None:
            self._gc_timer.cancel()
            self._gc_timer = None

    def topic_destroyed(self, topic: Topic) -> None:
        """`topic` is no more."""
        del self._topics[topic.id]
        self.topic_busy(topic)

    def _schedule_gc(self) -> None:
        if self._gc_timer is not None or not self._idle:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop, no peers: there is time until the next topic is idle
        self._gc_timer = loop.call_later(self._gc_interval, self._collect)

    def _collect(self) -> None:
        self._gc_timer = None
        for topic in self._idle:
            self._idle[topic] += 1
        for topic in [topic for topic, ticks in self._idle.items() if ticks >= GC_TICKS]:
            topic.destroy()
        self._schedule_gc()
