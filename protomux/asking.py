"""Pair callbacks: whom to ask for a channel that the peer opens. Knows no channel, and no numbers.

A callback is called at once. What an `async def` has to do beyond that runs as a task, and only
some of those at once; the others wait for their turn. A `Question` that nobody waits for any more
is cancelled: its task, or what has not begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from protomux.hooks import is_pending, settle
from protomux.pairing import Key

__all__ = ["PairCallback", "PairCallbacks", "Question"]

_log = logging.getLogger("protomux")

PairCallback: TypeAlias = Callable[[bytes | None], object]
"""callback(id), plain or async: create and open a channel, or leave it."""


class Question:
    """An async callback that has not ended.

    Attributes:
        callback: who was asked.
    """

    __slots__ = ("_answered", "_asked", "_pending", "_task", "callback")

    def __init__(
        self,
        asked: PairCallbacks,
        callback: PairCallback,
        pending: Awaitable[Any],
        answered: Callable[[], None],
    ) -> None:
        self.callback = callback
        self._asked = asked
        self._pending = pending
        self._answered: Callable[[], None] | None = answered
        self._task: asyncio.Future[Any] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run what the callback began, as far as it is ours: a future is the application's."""
        pending = self._pending
        if isinstance(pending, asyncio.Future):
            pending = asyncio.shield(pending)
        self._task = settle(pending, loop, self._ended)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self._answered is not None:
            self._answered = None
            self._asked.forget(self)
            if self._task is not None:
                self._task.cancel()
            else:
                self._close()

    def paired(self) -> None:
        """What it was asked about is paired: it may run for as long as it likes."""
        self._asked.let_run(self)

    def _close(self) -> None:
        """Let go of what was perhaps never awaited."""
        if isinstance(self._pending, Coroutine) or hasattr(self._pending, "close"):
            self._pending.close()

    def _ended(self, _result: object, error: BaseException | None) -> None:
        answered, self._answered = self._answered, None
        self._close()
        self._asked.ended(self)
        if isinstance(error, Exception):
            if answered is None:
                _log.warning("a pair callback failed that was given up", exc_info=error)
            else:
                self._asked.fail(error)
        elif answered is not None:
            answered()


class PairCallbacks:
    """The pair callbacks of one mux, and their questions.

    Attributes:
        fail: where errors of async callbacks go.
    """

    __slots__ = (
        "_callbacks",
        "_loop",
        "_most",
        "_running",
        "_waiting",
        "fail",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, most: int, fail: Callable[[Exception], None]
    ) -> None:
        """Run at most `most` async callbacks at once on `loop`."""
        self.fail = fail
        self._loop = loop
        self._most = most
        self._callbacks: dict[Key, PairCallback] = {}
        self._running: dict[Question, None] = {}
        self._waiting: OrderedDict[Question, None] | None = None  # there are seldom so many

    def set(self, key: Key, callback: PairCallback) -> None:
        """Ask `callback` about `key` from now on."""
        self._callbacks[key] = callback

    def remove(self, key: Key, callback: PairCallback | None) -> list[Question]:
        """Forget the callback of `key`, or only if it is `callback` still.

        Returns its questions that have no answer yet.
        """
        found = self._callbacks.get(key)
        if found is None or (callback is not None and found != callback):
            return []
        del self._callbacks[key]
        return [each for each in self._questions if each.callback is found]

    def find(self, protocol: str, id: bytes | None) -> PairCallback | None:
        """Return the callback of (protocol, id), else the one of the whole protocol."""
        return self._callbacks.get((protocol, id)) or self._callbacks.get((protocol, None))

    def ask(
        self, callback: PairCallback | None, id: bytes | None, answered: Callable[[], None]
    ) -> Question | None:
        """Call `callback(id)`, if there is one, and `answered()` when it has ended.

        Returns the question while it has no answer. What the call raises is raised here.
        """
        try:
            result = None if callback is None else callback(id)
        except asyncio.CancelledError:
            result = None  # as of an async one: somebody wanted it to end
        if callback is None or not is_pending(result):
            answered()
            return None
        question = Question(self, callback, result, answered)
        if len(self._running) < self._most:
            self._start(question)
        else:
            if self._waiting is None:
                self._waiting = OrderedDict()
            self._waiting[question] = None
        return question

    def clear(self) -> None:
        """Ask nobody any more, and forget whom to ask."""
        self._callbacks.clear()
        for question in reversed(self._questions):  # so that none of the waiting begins
            question.cancel()

    @property
    def _questions(self) -> list[Question]:
        """Those that have no answer yet: those that run, then those that wait."""
        return [*self._running, *(self._waiting or ())]

    # For the questions.

    def forget(self, question: Question) -> None:
        """`question` does not wait for its turn any more."""
        if self._waiting is not None:
            self._waiting.pop(question, None)

    def let_run(self, question: Question) -> None:
        """Count `question` no more among those that run."""
        self._running.pop(question, None)
        self._start_waiting()

    def ended(self, question: Question) -> None:
        """The task of `question` has ended: the next has its turn."""
        self._running.pop(question, None)
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._most:
            self._start(self._waiting.popitem(last=False)[0])

    def _start(self, question: Question) -> None:
        self._running[question] = None
        question.start(self._loop)
