"""Two muxes, joined by a wire on which time may split anywhere, against a model of what they owe.

Every channel says in its handshake who it is, and numbers its messages, so that what arrives tells
whom a channel is paired with and whether anything was lost, doubled or reordered. Time passes by
rules: one frame arrives at one side, one loop tick runs, one pair callback comes back.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)

from protomux import Channel, Limits, Protomux
from protomux.encoding import array, uint
from tests.stepped import SteppedLoop, settle, wire

KEYS = [("p", None), ("p", b"1"), ("p", b"2"), ("q", None)]
SIDES = st.sampled_from([0, 1])


class Tracked:
    """A channel and what the model knows of it."""

    def __init__(self, side: int, serial: int) -> None:
        self.side = side
        self.serial = serial
        self.channel: Channel
        self.sent = 0
        self.received: list[int] = []
        self.partner: int | None = None
        self.closed_here = False
        self.closes = 0

    def on_open(self, handshake: int, _channel: Channel) -> None:
        assert self.partner is None, "opened twice"
        assert not self.closes, "opened after it closed"
        self.partner = handshake

    def on_message(self, value: list[int], _channel: Channel) -> None:
        serial, number = value[:2]
        assert serial == self.partner, "a message of a channel that it is not paired with"
        assert not self.closes, "a message after the close"
        assert number == len(self.received), "lost, doubled or reordered"
        self.received.append(number)

    def on_close(self, is_remote: bool, _channel: Channel) -> None:
        self.closes += 1
        assert self.closes == 1
        assert is_remote is not self.closed_here


class TwoMuxes(RuleBasedStateMachine):
    channels = Bundle("channels")
    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.ends = wire(self.loop)
        # A small bound, so that reading pauses and resumes as well.
        limits = Limits(held_size=2000)
        self.muxes = [Protomux(end, loop=self.loop, limits=limits) for end in self.ends]
        self.tracked: list[Tracked] = []
        self.corks = [0, 0]
        self.futures: list[asyncio.Future[None]] = []
        self.is_destroyed = False

    def create(self, side: int, protocol: str, id: bytes | None) -> Tracked | None:
        tracked = Tracked(side, len(self.tracked))
        channel = self.muxes[side].create_channel(
            protocol,
            id,
            unique=False,
            handshake=uint,
            messages=[None, (array(uint), tracked.on_message)],
            on_open=tracked.on_open,
            on_close=tracked.on_close,
        )
        if channel is None:
            assert self.is_destroyed
            return None
        tracked.channel = channel
        self.tracked.append(tracked)
        return tracked

    @initialize()
    def accept_something(self) -> None:
        self.pair(1, KEYS[0], "accept")

    @rule(target=channels, side=SIDES, key=st.sampled_from(KEYS), opens=st.booleans())
    def create_channel(self, side: int, key: tuple[str, bytes | None], opens: bool) -> Any:
        tracked = self.create(side, *key)
        if tracked is None:
            return multiple()
        if opens:
            tracked.channel.open(tracked.serial)
        return tracked

    @rule(tracked=channels)
    def open(self, tracked: Tracked) -> None:
        channel = tracked.channel
        if not channel.is_closed and not self.is_opened(channel):
            channel.open(tracked.serial)

    @staticmethod
    def is_opened(channel: Channel) -> bool:
        return "created" not in repr(channel)

    @rule(tracked=channels, count=st.integers(1, 3), size=st.sampled_from([0, 0, 300]))
    def send(self, tracked: Tracked, count: int, size: int) -> None:
        channel = tracked.channel
        if channel.is_closed or not self.is_opened(channel):
            return
        for _ in range(count):
            channel.messages[1].send([tracked.serial, tracked.sent] + [0] * size)
            tracked.sent += 1

    @rule(tracked=channels)
    def close(self, tracked: Tracked) -> None:
        if not tracked.channel.is_closed:
            tracked.closed_here = True
            tracked.channel.close()

    @rule(tracked=channels)
    def open_send_and_close(self, tracked: Tracked) -> None:
        self.open(tracked)
        self.send(tracked, 2, 0)
        self.close(tracked)

    @rule(side=SIDES)
    def cork(self, side: int) -> None:
        self.corks[side] += 1
        self.muxes[side].cork()

    @rule(side=SIDES)
    def uncork(self, side: int) -> None:
        if self.corks[side]:
            self.corks[side] -= 1
            self.muxes[side].uncork()

    @rule(
        side=SIDES,
        key=st.sampled_from(KEYS),
        answer=st.sampled_from(["accept", "accept later", "create", "refuse", "refuse later"]),
    )
    def pair(self, side: int, key: tuple[str, bytes | None], answer: str) -> None:
        protocol = key[0]

        def now(id: bytes | None) -> None:
            if answer == "refuse":
                return
            tracked = self.create(side, protocol, id)
            if tracked is not None and answer != "create":
                tracked.channel.open(tracked.serial)

        async def later(id: bytes | None) -> None:
            future: asyncio.Future[None] = self.loop.create_future()
            self.futures.append(future)
            await future
            if answer == "accept later":
                now(id)

        self.muxes[side].pair(*key, callback=later if answer.endswith("later") else now)

    @rule(side=SIDES, key=st.sampled_from(KEYS))
    def unpair(self, side: int, key: tuple[str, bytes | None]) -> None:
        self.muxes[side].unpair(*key)

    @rule(which=st.integers(0, 7))
    def pair_callback_returns(self, which: int) -> None:
        if self.futures:
            _end(self.futures.pop(which % len(self.futures)))

    @rule(side=SIDES, count=st.integers(1, 4))
    def arrive(self, side: int, count: int) -> None:
        for _ in range(count):
            self.ends[side].deliver()

    @rule()
    def tick(self) -> None:
        self.loop.tick()

    @rule()
    def settle(self) -> None:
        settle(self.loop, *self.ends)
        if not any(self.corks) and not any(end.inbox for end in self.ends):
            self.check_pairs()

    @rule(side=SIDES, sure=st.integers(0, 15))
    def destroy(self, side: int, sure: int) -> None:
        if sure == 0:
            self.is_destroyed = True
            self.muxes[side].destroy()

    def check_pairs(self) -> None:
        if self.is_destroyed:
            assert all(tracked.channel.is_closed for tracked in self.tracked)
            return
        for end in self.ends:
            assert not end.is_gone, end.error
        by_serial = {tracked.serial: tracked for tracked in self.tracked}
        for tracked in self.tracked:
            if tracked.partner is None:
                continue
            partner = by_serial[tracked.partner]
            assert partner.side != tracked.side
            if tracked.channel.is_open:
                assert partner.channel.is_open, "open on one side only"
                assert partner.partner == tracked.serial
            if not tracked.closed_here:
                assert len(tracked.received) == partner.sent, "a message was lost"

    def settle_all(self) -> None:
        settle(self.loop, *self.ends)
        while self.futures:
            _end(self.futures.pop())
            settle(self.loop, *self.ends)

    def teardown(self) -> None:
        for side in (0, 1):
            while self.corks[side]:
                self.uncork(side)
        self.settle_all()
        # Opens that a channel was created for wait until that opens or closes; both happens here.
        for tracked in self.tracked[::2]:
            self.open(tracked)
        self.settle_all()
        if not any(end.inbox for end in self.ends):  # else reading is paused for those unopened
            self.check_pairs()
        while any(not tracked.channel.is_closed for tracked in self.tracked):
            for tracked in list(self.tracked):
                self.close(tracked)
            self.settle_all()
        for mux in self.muxes:
            assert mux.is_idle(), "a number leaked"
            assert not list(mux)
            # Nothing is left of old channels but the freed numbers.
            board = mux._board
            assert len(board.places) == 0
            for table in (
                board._links,
                board._unopened,
                board._unanswered,
                board._remotes,
                board._routes,
            ):
                assert not table
            assert board.held.size == len(board._waiting or ()) == board._waiting_size == 0
            assert mux._writer._builder.size == 0
            assert sorted(board._free) == list(range(1, board._highest + 1))
            assert self.is_destroyed or not board.held._is_paused


def _end(future: asyncio.Future[None]) -> None:
    """Let a pair callback return, unless it was cancelled with its stream or by an unpair."""
    if not future.done():
        future.set_result(None)


TestTwoMuxes = TwoMuxes.TestCase
TestTwoMuxes.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
