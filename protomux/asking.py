"""Pair callbacks: whom to ask for a channel that the peer opens. Knows no channel, and no numbers.

An async callback may take its time, up to a bound; then it is cancelled, as it is when the stream
is gone. Either way whoever asked gets exactly one answer, or none once nobody is asked any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from protomux.deadlines import Deadlines
from protomux.hooks import is_pending, settle
from protomux.pairing import Key

__all__ = ["PairCallback", "PairCallbacks"]

PairCallback: TypeAlias = Callable[[bytes | None], object]
"""callback(id), plain or async: create and open a channel, or leave it."""


class _Question:
    """An async callback that runs."""

    __slots__ = ("answered", "task")

    def __init__(self, answered: Callable[[], None]) -> None:
        self.answered = answered
        self.task: asyncio.Future[Any] | None = None


class PairCallbacks:
    """The pair callbacks of one mux; an async one that raises goes to `fail(error)`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, fail: Callable[[Exception], None]
    ) -> None:
        """Run async callbacks on `loop`, for so many seconds at most."""
        self._loop = loop
        self._fail = fail
        self._callbacks: dict[Key, PairCallback] = {}
        self._questions: Deadlines[_Question] = Deadlines(loop, seconds, self._give_up)

    def set(self, key: Key, callback: PairCallback) -> None:
        """Ask `callback` about `key` from now on."""
        self._callbacks[key] = callback

    def remove(self, key: Key, callback: PairCallback | None) -> None:
        """Forget the callback of `key`, or only if it is `callback` still."""
        if callback is None or self._callbacks.get(key) is callback:
            self._callbacks.pop(key, None)

    def find(self, protocol: str, id: bytes | None) -> PairCallback | None:
        """Return the callback of (protocol, id), else the one of the whole protocol."""
        return self._callbacks.get((protocol, id)) or self._callbacks.get((protocol, None))

    def ask(
        self, callback: PairCallback | None, id: bytes | None, answered: Callable[[], None]
    ) -> None:
        """Call `callback(id)`, if there is one, and `answered()` when it has ended.

        What a plain callback raises is raised here.
        """
        try:
            result = None if callback is None else callback(id)
        except asyncio.CancelledError:
            result = None  # as of an async one: somebody wanted it to end
        if not is_pending(result):
            answered()
            return
        question = _Question(answered)
        self._questions.add(question)
        question.task = settle(result, self._loop, lambda _, error: self._ended(question, error))

    def clear(self) -> None:
        """Ask nobody any more, and forget whom to ask."""
        self._callbacks.clear()
        questions = list(self._questions)
        self._questions.clear()
        for question in questions:
            _cancel(question)

    def _ended(self, question: _Question, error: BaseException | None) -> None:
        if not self._questions.discard(question):
            return  # nobody waits for it any more
        if isinstance(error, Exception):
            self._fail(error)
        else:
            question.answered()

    def _give_up(self, question: _Question) -> None:
        _cancel(question)
        question.answered()


def _cancel(question: _Question) -> None:
    assert question.task is not None  # it was awaitable
    question.task.cancel()
