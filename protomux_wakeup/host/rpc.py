"""Requests and responders over whatever carries JSON texts. Knows no socket, and no lines.

Both sides may ask and answer. A request is `{"method", "params", "id"}` with an id of 1 or more, a
notification the same with id 0, a reply `{"result", "error", "id"}`, its error null or
`{"message", "code", "stack"}`. JavaScript leaves out what is undefined, so any key may be missing;
we leave out params of None, which a JavaScript responder then sees as undefined.

What crosses is JSON and nothing else: None, bool, int, float, str, and lists, tuples and dicts with
str keys of those. As in JavaScript, a float that is no number crosses as null, and an int beyond
2^53 is rounded there. A lone surrogate crosses in neither direction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from protomux.errors import LimitExceeded, ProtocolError, StreamClosed
from protomux_wakeup.host.errors import RemoteError, RequestTimeout
from protomux_wakeup.host.limits import check_above_zero

__all__ = ["REQUEST_TIMEOUT", "Handler", "Limits", "Rpc"]

_log = logging.getLogger("protomux_wakeup")

REQUEST_TIMEOUT: Final = 30.0
"""Seconds in which a request has to be answered, unless it says otherwise."""

_RESOLUTION: Final = 0.05
"""Seconds that a timeout may come too late."""

Handler: TypeAlias = Callable[[Any], object]
"""handler(params), plain or async: returns the result, or raises what the peer gets as an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of each thing one connection may hold.

    *Destroyed* means that the connection ends with `LimitExceeded`.

    Attributes:
        line_size: bytes in a line, which is one message, without its end. A longer request raises
            `LimitExceeded` in the caller, a longer result is answered with an error; a longer line
            of the peer destroys the connection, before more of it is waited for. Default 16 MiB,
            as much as a frame of a Protomux.
        in_flight: requests and notifications of the peer that async handlers are at work on; with
            as many, nothing is read until one has ended, also no answer that such a handler waits
            for on the same connection. Default 1,024, as many as clients that pipeline keep in
            flight, and some 4 MB of tasks.
        unsent_size: bytes that wait because the peer does not read them; with more, nothing is read
            either, so that it cannot ask for more. Default 16 MiB, one of the largest lines.
        unread_time: seconds that the peer may read nothing at all while so much waits: then it
            counts as dead, or waits for us to read as we wait for it: destroyed. Default 30.
        unsent_most: bytes that wait for the peer to read them, or to be connected; with more:
            destroyed. One line always may wait. Default 64 MiB, four of the largest lines.
    """

    line_size: int = 16 * 1024 * 1024
    in_flight: int = 1024
    unsent_size: int = 16 * 1024 * 1024
    unread_time: float = 30.0
    unsent_most: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        """Raise TypeError for what is no number, ValueError for one that is not above 0."""
        check_above_zero(self)


class Rpc:
    """One side of a conversation: asks its peer, and answers it.

    Attributes:
        error: what has ended it; None while it lives.
        in_flight: requests and notifications of the peer that async handlers are at work on.
        on_settled: called after each request of either side that has come to its end, and may be
            set and unset at any time: where to resume reading, or to close what is idle.
    """

    __slots__ = (
        "__weakref__",
        "_answers",
        "_handlers",
        "_has_left",
        "_last_id",
        "_limits",
        "_loop",
        "_next_due",
        "_peer_end",
        "_tasks",
        "_timer",
        "_write",
        "error",
        "in_flight",
        "on_settled",
    )

    def __init__(self, write: Callable[[bytes], object], *, limits: Limits = Limits()) -> None:
        """Send by `write(text)`, which gets one JSON text, without a newline in it.

        From within it, no method of this object but `destroy` may be called.
        """
        self.error: Exception | None = None
        self.in_flight = 0
        self.on_settled: Callable[[], object] | None = None
        self._write = write
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[str, Handler] = {}
        self._last_id = 0
        self._answers: dict[int, _Answer] = {}
        self._next_due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._peer_end: Exception | None = None
        self._has_left = False
        self._tasks: dict[asyncio.Future[Any], int] = {}  # with the id of the request

    @property
    def is_full(self) -> bool:
        """As many requests of the peer are in flight as may be: better hand in no more for now."""
        return self.in_flight >= self._limits.in_flight

    @property
    def is_idle(self) -> bool:
        """No request is in flight, in either direction."""
        return not self._answers and not self.in_flight

    def respond(self, method: str, handler: Handler) -> None:
        """Answer requests for `method` by `handler(params)` from now on, in place of any other.

        A plain handler is answered at once; an async one runs as a task, cancelled when the
        conversation ends. What it raises, any Exception, crosses as its text and, where it is a
        str, its `code`; never its traceback.
        """
        _check_method(method)
        if not callable(handler):
            raise TypeError(f"expected a handler that can be called, got {handler!r}")
        self._handlers[method] = handler

    def unrespond(self, method: str) -> None:
        """Answer requests for `method` no more; does nothing if it is not answered here."""
        self._handlers.pop(method, None)

    def request(
        self, method: str, params: Any = None, *, timeout: float | None = REQUEST_TIMEOUT
    ) -> asyncio.Future[Any]:
        """Ask the peer; the future gets its result. Cancelled, it is forgotten.

        It fails with RemoteError where the peer's handler did, RequestTimeout after `timeout`
        seconds (None: never), StreamClosed where the conversation ends first. Raises TypeError for
        params that JSON cannot say, LimitExceeded for more than `Limits.line_size`.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"expected a timeout of 0 seconds or more, got {timeout}")
        id = self._last_id + 1
        text = self._asking(method, params, id)
        answer = _Answer(loop=self._loop)
        answer.rpc, answer.id = self, id
        if self._peer_end is not None:
            self._lose(answer, self._peer_end)
            return answer
        self._last_id = id
        self._answers[id] = answer
        if timeout is None:
            answer.due = inf
        else:
            answer.due = due = self._loop.time() + timeout
            if due < self._next_due:
                self._watch(due)
        try:
            self._write(text)
        except BaseException:
            self._answers.pop(id, None)
            raise
        return answer

    def notify(self, method: str, params: Any = None) -> None:
        """Tell the peer; nobody learns what came of it. Raises as `request` does, at once."""
        text = self._asking(method, params, 0)
        if self.error is None:
            self._write(text)

    def received(self, text: bytes | bytearray | memoryview) -> None:
        """Take one message of the peer.

        Raises ProtocolError where it is none, after which the peer is not to be listened to.
        """
        try:
            message = _decode(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"expected a message in JSON: {error}") from None
        if self.error is not None:
            return
        if message.method:
            self._asked(message.method, message.params, message.id)
            return
        answer = self._answers.get(message.id)
        if answer is None:
            return
        del self._answers[message.id]
        if message.error is None:
            answer.set_result(message.result)
        else:
            answer.set_exception(message.error.raised())
        if self.on_settled is not None:
            self.on_settled()

    def peer_ended(self, error: Exception, *, has_left: bool = False) -> None:
        """The peer says no more: nothing that it was asked is answered; what it asked still is.

        One that `has_left` does not listen either: what it asked is given up, and what it has only
        told us of is seen to.
        """
        self._peer_end = error
        self._has_left = has_left
        if has_left:
            for task, id in list(self._tasks.items()):
                if id:
                    task.cancel()
        answers, self._answers = self._answers, {}
        self._next_due = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for answer in answers.values():
            self._lose(answer, error)

    def destroy(self, error: Exception | None = None) -> None:
        """End the conversation: all that waits fails with StreamClosed, caused by `error`."""
        if self.error is not None:
            return
        self.error = error or StreamClosed("it was destroyed here")
        self.in_flight = 0
        self.peer_ended(self.error)
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        self._handlers.clear()
        self.on_settled = None

    def _lose(self, answer: _Answer, cause: Exception) -> None:
        if not answer.done():
            closed = StreamClosed(f"the connection ended before an answer: {cause}")
            closed.__cause__ = cause
            answer.set_exception(closed)
            # Nobody has to look: that the connection ended is told by its owner as well.
            answer.exception()

    def cancelled(self, answer: _Answer) -> None:
        """For an answer that nobody wants any more."""
        if self._answers.pop(answer.id, None) is not None and self.on_settled is not None:
            self._loop.call_soon(self._settled)

    def _watch(self, due: float) -> None:
        """Look at `due` for answers that have not come, and not before."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_due = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """Fail what did not come in time.

        One look at all that waits, at most every `_RESOLUTION`; an order of them, which would save
        it, would cost every request more than this does.
        """
        self._timer = None
        self._next_due = inf
        now = self._loop.time()
        late = [answer for answer in self._answers.values() if answer.due <= now]
        for answer in late:
            del self._answers[answer.id]
            answer.set_exception(RequestTimeout("the request was not answered in time"))
        next_due = min((answer.due for answer in self._answers.values()), default=inf)
        if next_due < inf:
            self._watch(max(next_due, now + _RESOLUTION))
        if late:
            self._settled()

    def _settled(self) -> None:
        if self.on_settled is not None:
            self.on_settled()

    def _asked(self, method: str, params: object, id: int) -> None:
        handler = self._handlers.get(method)
        if handler is None:
            if id:
                self._reply(id, None, _Error(f"Unknown method: {method}"))
            return
        try:
            result = handler(params)
        except Exception as error:
            self._failed(id, error)
            return
        if type(result) in _PLAIN or not isinstance(result, Awaitable):
            if id:
                self._reply(id, result, None)
            return
        # A future is the application's, and may be for others too; a coroutine is ours to end.
        task: asyncio.Future[Any]
        if isinstance(result, asyncio.Future):
            task = result
        else:
            task = asyncio.ensure_future(result, loop=self._loop)
            self._tasks[task] = id
        self.in_flight += 1

        task.add_done_callback(partial(self._ended, id))

    def _ended(self, id: int, task: asyncio.Future[Any]) -> None:
        """An async handler has come to its end."""
        self._tasks.pop(task, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self.error is not None:
            if isinstance(error, Exception):
                _log.warning("a handler failed whose peer has gone", exc_info=error)
            return
        self.in_flight -= 1
        if error is not None:
            self._failed(id, error)
        elif id:
            self._reply(id, task.result(), None)
        self._settled()

    def _failed(self, id: int, error: BaseException) -> None:
        """Tell the peer, or where it does not listen the log, that a handler failed."""
        if not id:
            _log.warning("the handler of a notification failed", exc_info=error)
            return
        code = getattr(error, "code", None)
        text = _Error(str(error) or type(error).__name__, code if isinstance(code, str) else None)
        self._reply(id, None, text)

    def _reply(self, id: int, result: object, error: _Error | None) -> None:
        if self.error is not None or self._has_left:  # by the handler, or meanwhile
            return
        try:
            text = self._encode(_Reply(result, error, id), result)
        except (TypeError, LimitExceeded) as problem:
            if error is None:
                _log.error("the result of a handler cannot be sent: %s", problem)
            text = _encode(_Reply(None, _Error(f"the answer cannot be sent: {problem}"), id))
        self._write(text)

    def _asking(self, method: str, params: Any, id: int) -> bytes:
        if type(method) is not str or not method:
            _check_method(method)
        return self._encode(_Request(method, id, params), params)

    def _encode(self, message: _Request | _Reply, value: Any) -> bytes:
        """Return the text of `message`, of which only `value` may be no JSON."""
        if type(value) not in _SCALARS:
            _check(value, 0)
        try:
            text = _encode(message)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"expected what JSON can say: {error}") from None
        if len(text) > self._limits.line_size:
            raise LimitExceeded(
                f"expected a message of at most {self._limits.line_size} bytes, got {len(text)}"
            )
        return text


class _Answer(asyncio.Future[Any]):
    """What a request waits for. A callback for its end would cost every request a loop tick."""

    __slots__ = ("due", "id", "rpc")

    rpc: Rpc
    id: int
    due: float

    def cancel(self, msg: Any = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self.rpc.cancelled(self)
        return is_cancelled


class _Error(msgspec.Struct):
    """An error that crosses. JavaScript may throw what is no Error, or one with any fields."""

    message: Any = ""
    code: Any = None
    stack: Any = None

    def raised(self) -> RemoteError:
        """Return it as one that can be raised."""
        code = None if self.code is None else _text(self.code)
        stack = self.stack if isinstance(self.stack, str) else None
        return RemoteError(_text(self.message), code, stack)


class _Message(msgspec.Struct):
    """All that can come: a request if there is a method, a reply if not, as in the original."""

    method: str | None = None
    params: Any = None
    id: Annotated[int, msgspec.Meta(ge=0)] = 0
    result: Any = None
    error: _Error | None = None


class _Request(msgspec.Struct, omit_defaults=True):
    method: str
    id: int
    params: Any = None


class _Reply(msgspec.Struct):
    result: Any
    error: _Error | None
    id: int


_decode: Final = msgspec.json.Decoder(_Message).decode
_encode: Final = msgspec.json.Encoder().encode

_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_PLAIN: Final = _SCALARS | {dict, list, tuple}


def _text(value: Any) -> str:
    """Return what a string is to be, and in JavaScript need not be."""
    return value if isinstance(value, str) else _encode(value).decode()


def _check_method(method: str) -> None:
    if not isinstance(method, str):
        raise TypeError(f"expected a method of type str, got {method!r}")
    if not method:
        raise ValueError("expected a method with a name")


_MOST_DEPTH: Final = 500
"""Levels of what we send: some more would already be too deep for a peer's stack, or endless."""


def _check(value: Any, depth: int) -> None:
    """Raise TypeError for more than JSON, such as bytes, which msgspec would let pass."""
    if depth > _MOST_DEPTH:
        raise TypeError(f"expected at most {_MOST_DEPTH} levels, or it contains itself")
    items: Iterable[Any]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"expected keys of type str, got {key!r}")
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif isinstance(value, str | int | float):  # an enum of those, perhaps
        return
    else:
        raise TypeError(f"expected what JSON can say, got {type(value).__name__}")
    if not _SCALARS.issuperset(map(type, items)):
        for item in items:
            if type(item) not in _SCALARS:
                _check(item, depth + 1)
