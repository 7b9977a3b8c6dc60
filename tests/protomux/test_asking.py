from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from protomux.asking import PairCallbacks, Question
from tests.stepped import SteppedLoop


class Asked:
    """Pair callbacks on a stepped loop: which ran, which were answered."""

    def __init__(self, most: int) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.errors: list[Exception] = []
        self.callbacks = PairCallbacks(self.loop, most, self.errors.append)
        self.running: dict[bytes | None, asyncio.Future[None]] = {}
        self.answered: list[bytes] = []

    async def later(self, id: bytes | None) -> None:
        self.running[id] = self.loop.create_future()
        await self.running[id]

    def ask(self, *ids: bytes) -> list[Question]:
        questions = []
        for id in ids:
            question = self.callbacks.ask(self.later, id, partial(self.answered.append, id))
            assert question is not None
            questions.append(question)
        self.settle()
        return questions

    def settle(self) -> None:
        while self.loop.tick():
            pass


def test_only_some_run_at_once_and_the_others_have_their_turn() -> None:
    asked = Asked(2)
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


def test_a_plain_callback_does_not_wait_for_those() -> None:
    asked = Asked(1)
    asked.ask(b"a")
    seen: list[str] = []

    def leave(_id: bytes | None) -> None:
        raise asyncio.CancelledError

    def fail(_id: bytes | None) -> None:
        raise ValueError("of the application")

    for callback, name in ((None, "nobody"), (lambda _id: 1, "plain"), (leave, "leave")):
        assert asked.callbacks.ask(callback, b"x", lambda name=name: seen.append(name)) is None  # type: ignore[misc]
    with pytest.raises(ValueError, match="of the application"):
        asked.callbacks.ask(fail, b"x", lambda: seen.append("fail"))
    assert seen == ["nobody", "plain", "leave"]


def test_who_is_cancelled_gives_no_answer_and_makes_room() -> None:
    asked = Asked(1)
    first, second, _third = asked.ask(b"a", b"b", b"c")
    second.cancel()  # it has not begun
    first.cancel()
    first.cancel()
    asked.settle()
    assert asked.running[b"a"].cancelled()
    assert list(asked.running) == [b"a", b"c"]
    assert asked.answered == []


def test_what_is_paired_may_run_on_and_makes_room() -> None:
    asked = Asked(1)
    first, second = asked.ask(b"a", b"b")
    first.paired()
    asked.settle()
    assert list(asked.running) == [b"a", b"b"]
    asked.running[b"a"].set_result(None)
    asked.running[b"b"].set_result(None)
    asked.settle()
    assert asked.answered == [b"a", b"b"]
    second.paired()


def test_a_future_of_the_application_is_not_cancelled() -> None:
    asked = Asked(1)
    future: asyncio.Future[None] = asked.loop.create_future()
    question = asked.callbacks.ask(lambda _id: future, b"a", lambda: None)
    assert question is not None
    question.cancel()
    asked.settle()
    assert not future.done()


def test_who_fails_fails_the_stream_and_is_logged_once_it_was_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked(2)
    first, _second = asked.ask(b"a", b"b")
    asked.running[b"b"].set_exception(ValueError("of the application"))
    asked.settle()
    assert [str(error) for error in asked.errors] == ["of the application"]
    asked.running[b"a"].set_exception(ValueError("too late"))
    with caplog.at_level(logging.WARNING, "protomux"):
        first.cancel()  # in the tick in which it fails
        asked.settle()
    assert len(asked.errors) == 1
    assert "given up" in caplog.text or not caplog.records
    assert asked.answered == []


def test_nobody_is_asked_after_the_end() -> None:
    asked = Asked(1)
    asked.ask(b"a", b"b")
    asked.callbacks.clear()
    asked.settle()
    assert asked.running[b"a"].cancelled()
    assert list(asked.running) == [b"a"]
    assert asked.answered == []


def test_a_callback_that_is_removed_leaves_its_questions_to_whoever_removes_it() -> None:
    asked = Asked(1)
    later = asked.later
    asked.callbacks.set(("foo", None), later)
    questions = [
        asked.callbacks.ask(asked.callbacks.find("foo", id), id, partial(asked.answered.append, id))
        for id in (b"a", b"b")
    ]
    assert asked.callbacks.remove(("foo", None), print) == []
    assert asked.callbacks.remove(("bar", None), None) == []
    assert asked.callbacks.remove(("foo", None), later) == questions
    assert asked.callbacks.find("foo", b"a") is None
