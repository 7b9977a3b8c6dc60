from __future__ import annotations

import asyncio

from protomux import Limits
from protomux.asking import PairCallbacks
from tests.stepped import SteppedLoop


class Asked:
    """Pair callbacks on a stepped loop: which ran, which were answered."""

    def __init__(self, **limits: float) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.errors: list[Exception] = []
        self.callbacks = PairCallbacks(self.loop, Limits(**limits), self.errors.append)  # type: ignore[arg-type]
        self.running: dict[bytes | None, asyncio.Future[None]] = {}
        self.answered: list[bytes] = []

    async def later(self, id: bytes | None) -> None:
        self.running[id] = self.loop.create_future()
        await self.running[id]

    def ask(self, *ids: bytes) -> None:
        for id in ids:
            self.callbacks.ask(self.later, id, lambda id=id: self.answered.append(id))  # type: ignore[misc]
        self.settle()

    def settle(self) -> None:
        while self.loop.tick():
            pass


def test_only_some_run_at_once_and_the_others_have_their_turn() -> None:
    asked = Asked(pair_callbacks=2)
    asked.ask(b"a", b"b", b"c", b"d")
    assert list(asked.running) == [b"a", b"b"]
    asked.running[b"b"].set_result(None)
    asked.settle()
    assert list(asked.running) == [b"a", b"b", b"c"]
    assert asked.answered == [b"b"]
    for id in (b"a", b"c", b"d"):
        asked.settle()
        asked.running[id].set_result(None)
    asked.settle()
    assert asked.answered == [b"b", b"a", b"c", b"d"]
    assert asked.loop.timers == []


def test_what_has_waited_too_long_for_its_turn_is_answered_and_never_asked() -> None:
    asked = Asked(pair_callbacks=1, waiting_time=10)
    asked.ask(b"a")
    asked.loop.advance(9)
    asked.ask(b"b", b"c")
    asked.loop.advance(1)
    asked.settle()
    assert asked.running[b"a"].cancelled()
    assert asked.answered == [b"a"]
    assert list(asked.running) == [b"a", b"b"]
    asked.loop.advance(9)
    asked.settle()
    assert asked.answered == [b"a", b"b", b"c"]
    assert list(asked.running) == [b"a", b"b"]
    assert asked.loop.timers == []


def test_a_plain_callback_may_wait_for_its_turn_as_well() -> None:
    asked = Asked(pair_callbacks=1)
    asked.ask(b"a")
    seen: list[str] = []

    def fail(_id: bytes | None) -> None:
        raise ValueError("of the application")

    def leave(_id: bytes | None) -> None:
        raise asyncio.CancelledError

    asked.callbacks.ask(fail, b"x", lambda: seen.append("fail"))
    asked.callbacks.ask(leave, b"y", lambda: seen.append("leave"))
    asked.callbacks.ask(lambda _id: seen.append("called"), b"z", lambda: seen.append("answered"))
    asked.callbacks.ask(None, b"z", lambda: seen.append("nobody to ask"))
    assert seen == ["nobody to ask"]
    asked.running[b"a"].set_result(None)
    asked.settle()
    assert seen == ["nobody to ask", "leave", "called", "answered"]
    assert [str(error) for error in asked.errors] == ["of the application"]
    assert asked.loop.timers == []


def test_nobody_is_asked_after_the_end() -> None:
    asked = Asked(pair_callbacks=1)
    asked.ask(b"a", b"b")
    asked.callbacks.clear()
    asked.settle()
    assert asked.running[b"a"].cancelled()
    assert list(asked.running) == [b"a"]
    assert asked.answered == []
    assert asked.loop.timers == []
