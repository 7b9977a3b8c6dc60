"""`lookup` and `announce`: go to one peer, do one thing, see it done, leave."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Self, TypeVar

from protomux import KeyPair, Limits, Protomux
from protomux.streams import SecretStream
from protomux_wakeup import Announced, Peer, PeerAdded, PeerRemoved, Wakeup, Writer
from protomux_wakeup.address import Address
from protomux_wakeup.cli.endpoint import allow_only, connect
from protomux_wakeup.cli.feed import read_writers
from protomux_wakeup.cli.logs import Logs
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import count_of, hex_of, short
from protomux_wakeup.endpoint import close_streams, reason

__all__ = ["Errand", "announce", "lookup"]

Awaited = TypeVar("Awaited", PeerAdded, Announced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Where to go, and as whom.

    Attributes:
        address: of the peer.
        capability: of the topic.
        key_pair: who we are.
        remote_key: the only key that the peer may have, if it must be that one.
        allowed: keys of which the peer must have one, unless there are none.
        timeout: seconds for everything until the answer.
    """

    address: Address
    capability: bytes
    key_pair: KeyPair
    remote_key: bytes | None = None
    allowed: Collection[bytes] = ()
    timeout: float = 10.0


async def lookup(report: Reporter, errand: Errand, hash: bytes | None = None) -> Exit:
    """Ask which logs have grown, and show the first announce that the peer sends after that.

    No announce says what it answers, so it may be one that the peer had sent by itself.
    """
    async with _Visit(report, errand) as visit:
        peer = await visit.meet()
        key = hex_of(peer.remote_public_key)
        visit.ask(peer, hash)
        report.say(
            "lookup_sent",
            f"to {short(peer.remote_public_key)}",
            {"peer": key, "hash": hex_of(hash)},
            details=[] if hash is None else [f"hash {hash.hex()}"],
        )
        writers = await visit.hear()
        report.say(
            "announce_received",
            f"{count_of(len(writers), 'log')} from {short(peer.remote_public_key)}",
            {"peer": key},
            writers=writers,
        )
    return Exit.DONE


async def announce(
    report: Reporter, errand: Errand, writers: Iterable[Writer], feed: int | None = None
) -> Exit:
    """Tell which logs have grown, and see that the peer has taken it all.

    `feed` is a file descriptor with JSON lines of further logs; it is read before we go.
    """
    logs = await _read_logs(report, writers, feed)
    async with _Visit(report, errand) as visit:
        peer = await visit.meet()
        await visit.tell(peer, logs)
        await visit.leave()
        report.say(
            "announce_sent",
            f"{count_of(len(logs), 'log')} to {short(peer.remote_public_key)}, who took it all",
            {"peer": hex_of(peer.remote_public_key)},
            writers=list(logs),
        )
    return Exit.DONE


async def _read_logs(report: Reporter, writers: Iterable[Writer], feed: int | None) -> Logs:
    """Return all logs that there are to announce; raises Failure if any is unclear."""
    logs = Logs()
    bad_lines = 0
    try:
        for writer in writers:
            logs.learn(writer)
        if feed is not None:
            async for entries in read_writers(feed):
                for entry in entries:
                    if isinstance(entry, Writer):
                        logs.learn(entry)
                    else:
                        bad_lines += 1
                        report.fail(str(entry), {"line": entry.number})
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    except OSError as error:
        raise Failure(f"cannot read stdin: {reason(error)}") from error
    if bad_lines:
        raise Failure(f"announced nothing, for {count_of(bad_lines, 'bad line')}", Exit.USAGE)
    if not logs:
        raise Failure("expected a log to announce, stdin had none", Exit.USAGE)
    return logs


class _Visit:
    """One stream to one peer, from the connection to the leaving, which the context ends with."""

    def __init__(self, report: Reporter, errand: Errand) -> None:
        self._report = report
        self._errand = errand
        self._deadline = asyncio.get_running_loop().time() + errand.timeout
        self._wakeup = Wakeup()
        self._session = self._wakeup.session(errand.capability)
        self._events = self._session.events()
        self._stream: SecretStream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wakeup.destroy()
        if self._stream is not None:
            await close_streams([self._stream])

    async def meet(self) -> Peer:
        """Connect, and return the peer when it has proved the capability."""
        errand, report = self._errand, self._report
        late = Failure(f"no peer proved the capability within {errand.timeout:g} s", Exit.UNPROVEN)
        with report.waiting(f"connecting to {errand.address}"):
            stream = self._stream = await self._connect(late)
        key = hex_of(stream.remote_public_key)
        report.say(
            "connected",
            f"to {errand.address}",
            {"address": str(errand.address), "peer": key},
            details=[f"public key {key}"],
        )
        self._wakeup.add_stream(stream)
        # Without the stream there is nothing to wait for: let the events end.
        Protomux.of(stream).add_close_callback(lambda _error: self._session.destroy())
        with report.waiting("waiting for the peer to prove the capability"):
            peer = (await self._next(PeerAdded, late)).peer
        report.say(
            "peer_added",
            f"{short(stream.remote_public_key)} has proved the capability",
            {"peer": key},
        )
        return peer

    def ask(self, peer: Peer, hash: bytes | None) -> None:
        """Send a lookup."""
        self._check(peer)
        self._events = self._session.events()  # what came before the question is no answer
        self._session.lookup(peer, hash)

    async def tell(self, peer: Peer, writers: Iterable[Writer]) -> None:
        """Send an announce, all of it."""
        self._check(peer)
        self._session.announce(peer, writers)
        try:
            async with asyncio.timeout_at(self._deadline):
                is_sent = await peer.wait_drained()
        except TimeoutError:
            raise self._too_slow() from None
        if not is_sent:
            raise self._loss()

    async def hear(self) -> list[Writer]:
        """Return what the peer announces next."""
        late = Failure(f"no announce answered within {self._errand.timeout:g} s", Exit.UNANSWERED)
        with self._report.waiting("waiting for an announce"):
            return (await self._next(Announced, late)).writers

    async def leave(self) -> None:
        """Close the stream, and see that the peer has taken all that was sent."""
        assert self._stream is not None
        self._wakeup.destroy()
        with self._report.waiting("waiting for the peer to take it"):
            left = self._deadline - asyncio.get_running_loop().time()
            is_closed = await close_streams([self._stream], max(left, 0))
        if not is_closed:
            raise self._too_slow()
        if self._stream.error is not None:
            raise Failure(f"the peer did not take it all: {self._stream.error}")

    def _check(self, peer: Peer) -> None:
        if peer.is_removed:
            raise self._loss()

    def _too_slow(self) -> Failure:
        return Failure(f"the peer did not take it all within {self._errand.timeout:g} s")

    def _loss(self) -> Failure:
        assert self._stream is not None
        return Failure(str(self._stream.error or "the peer has left before it was done"))

    async def _connect(self, late: Failure) -> SecretStream:
        errand = self._errand
        try:
            async with asyncio.timeout_at(self._deadline):
                return await connect(
                    errand.address,
                    key_pair=errand.key_pair,
                    remote_public_key=errand.remote_key,
                    firewall=allow_only(errand.allowed, self._report),
                    limits=Limits(handshake_time=inf),  # the deadline includes it
                )
        except TimeoutError:
            raise late from None

    async def _next(self, kind: type[Awaited], late: Failure) -> Awaited:
        try:
            async with asyncio.timeout_at(self._deadline):
                async for event in self._events:
                    if isinstance(event, kind):
                        return event
                    if isinstance(event, PeerRemoved):
                        break
        except TimeoutError:
            raise late from None
        raise self._loss()
