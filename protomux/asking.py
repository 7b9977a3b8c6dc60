"""Pair callbacks: whom to ask for a channel that the peer opens. Knows no channel, and no numbers.

An async callback may take its time, up to a bound; then it is cancelled, as it is when the stream
is gone. Only some run at once, what is asked on top waits for its turn. Either way whoever asked
gets exactly one answer, or none once nobody is asked any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from protomux.deadlines import Deadlines
from protomux.hooks import is_pending, settle
from protomux.limits import Limits
from protomux.pairing import Key

__all__ = ["PairCallback", "PairCallbacks"]

PairCallback: TypeAlias = Callable[[bytes | None], object]
"""callback(id), plain or async: create and open a channel, or leave it."""


class _Question:
    """A question that is not answered: its async callback runs, or waits for its turn."""

    __slots__ = ("answered", "callback", "id", "task")

    def __init__(
        self, callback: PairCallback, id: bytes | None, answered: Callable[[], None]
    ) -> None:
        self.callback = callback
        self.id = id
        self.answered = answered
        self.task: asyncio.Future[Any] | None = None


class PairCallbacks:
    """The pair callbacks of one mux; an async one that raises goes to `fail(error)`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, fail: Callable[[Exception], None]
    ) -> None:
        self._loop = loop
        self._fail = fail
        self._most = limits.pair_callbacks
        self._callbacks: dict[Key, PairCallback] = {}
        self._questions: Deadlines[_Question] = Deadlines(loop, limits.waiting_time, self._give_up)
        self._running = 0
        self._queue: deque[_Question] = deque()

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
        if callback is None:
            answered()
            return
        question = _Question(callback, id, answered)
        if self._running < self._most:
            self._ask(question)
        else:
            self._questions.add(question)
            self._queue.append(question)

    def clear(self) -> None:
        """Ask nobody any more, and forget whom to ask."""
        self._callbacks.clear()
        self._queue.clear()
        questions = list(self._questions)
        self._questions.clear()
        for question in questions:
            if question.task is not None:
                question.task.cancel()

    def _ask(self, question: _Question) -> None:
        try:
            result = question.callback(question.id)
        except asyncio.CancelledError:
            result = None  # as of an async one: somebody wanted it to end
        if not is_pending(result):
            self._questions.discard(question)  # where it had to wait
            question.answered()
            return
        self._running += 1
        self._questions.add(question)
        question.task = settle(result, self._loop, lambda _, error: self._ended(question, error))

    def _ended(self, question: _Question, error: BaseException | None) -> None:
        """An async callback has ended; the next has its turn."""
        self._running -= 1
        if self._questions.discard(question):  # else nobody waits for its answer any more
            if isinstance(error, Exception):
                self._fail(error)
            else:
                question.answered()
        while self._queue and self._running < self._most:
            waiting = self._queue.popleft()
            if waiting in self._questions:  # else it has waited for too long
                try:
                    self._ask(waiting)
                except Exception as failure:  # of a plain callback
                    self._questions.discard(waiting)
                    self._fail(failure)

    def _give_up(self, question: _Question) -> None:
        """It takes too long."""
        if question.task is not None:
            question.task.cancel()
        question.answered()
