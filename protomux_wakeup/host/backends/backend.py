"""One backend as its manager has it: the connection with its monitor, and what comes of its end.

Whatever ends the connection, what happened meanwhile is found again: at the monitor, in the file
that it has left, or by finding that there is none; and each state is told once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener, News
from protomux_wakeup.host.backends.leavings import clear, is_watched
from protomux_wakeup.host.backends.orders import (
    ACKNOWLEDGED,
    ATTACH,
    DELIVER,
    FINISH,
    REPLACED,
    SEEN,
    STATE,
    TERMINATE,
    Attach,
    Heard,
    Moved,
    Snapshot,
    Terminate,
    news_of,
    result_path,
)
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectResponse,
    Terminated,
    TerminationKind,
    TerminationReason,
    decode,
    now,
)
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.locks import released
from protomux_wakeup.host.messages import fields_of, read
from protomux_wakeup.host.places import lock_path, peer_pid, socket_path
from protomux_wakeup.host.processes import kill, name_of
from protomux_wakeup.host.unix import connected_socket

__all__ = ["Backend", "news_in_parts"]

_log = logging.getLogger("protomux_wakeup.host")

ANSWER_WAIT: Final = 5.0
"""Seconds in which a monitor has to answer; it has nothing else to do."""

_NEXT_TRY: Final = 1.0
"""Seconds that a monitor may be there, and neither listen nor end."""

_NEWS_AT_ONCE: Final = 1_000
"""News in one message; 100 kB of it."""


def news_in_parts(news: Sequence[News]) -> list[dict[str, Any]]:
    """Return the parameters of messages that hold all of `news`."""
    return [
        fields_of(Heard(news=list(news[start : start + _NEWS_AT_ONCE])))
        for start in range(0, len(news), _NEWS_AT_ONCE)
    ]


class Backend:
    """A backend that we have. Made by `ProcessEngine`.

    Attributes:
        address: where it is told to listen.
        response: none, it is of this machine.
    """

    response: ConnectResponse | None = None

    def __init__(
        self, directory: str, launch: Launch, listener: Listener, term: int, seen: BackendStatus
    ) -> None:
        """Tell the `listener` of states after `seen`."""
        self.address: tuple[str, int] | None = None
        self._directory = directory
        self._launch = launch
        self._listener = listener
        self._term = term
        self._seen = seen
        self._loop = asyncio.get_running_loop()
        self._connection: LineConnection | None = None
        self._waiting: list[tuple[str, Any]] = []
        self._reaching: asyncio.Task[None] | None = None
        self._is_over = False
        self._is_kept = False  # the listener has written down how it has ended

    # As a `Running`.

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        """Ask it to end, or make it."""
        self._say(TERMINATE, fields_of(Terminate(reason=reason, hard=hard)))

    def deliver(self, news: Sequence[News]) -> None:
        """Tell it that logs have grown."""
        for part in news_in_parts(news):
            self._say(DELIVER, part)

    def finish(self) -> None:
        """Tell it that no news will come."""
        self._say(FINISH, None)

    # For the engine.

    async def reach(self) -> bool:
        """Be in touch with its monitor, or take what that has left; False where there is nothing.

        Nothing of it runs then. Raises EngineError where a later manager has it, OSError where this
        process has no free descriptor, or the disk is full.
        """
        while True:
            try:
                await self._attach()
                return True
            except RemoteError as error:
                raise EngineError(f"the backend is not ours: {error.message}") from error
            except (OSError, ProtomuxError) as error:
                _log.debug("no monitor of backend %s: %s", self._launch.backend_id, error)
            if self._take_result():
                return True
            if not is_watched(self._directory, self._launch.backend_id):
                if self._take_result():  # it may have ended between the two
                    return True
                await asyncio.to_thread(clear, self._directory, self._launch)
                return False
            # It is about to end, or to listen.
            with suppress(TimeoutError):
                async with asyncio.timeout(_NEXT_TRY):
                    await released(lock_path(self._directory, self._launch.backend_id))

    async def reach_at_last(self) -> bool:
        """Do as `reach`, and wait out an OSError."""
        while True:
            try:
                return await self.reach()
            except OSError as error:
                _log.warning("cannot look for backend %s: %s", self._launch.backend_id, error)
            await asyncio.sleep(_NEXT_TRY)

    async def let_go(self) -> None:
        """Leave it to its monitor, and the next manager."""
        self._is_over = True
        if self._connection is not None:
            self._connection.abort()
        if self._reaching is not None:
            self._reaching.cancel()
            await asyncio.wait((self._reaching,))

    async def _attach(self) -> None:
        """Be the manager, for its monitor; hear what was so far."""
        socket = connected_socket(socket_path(self._directory, self._launch.backend_id), ())
        monitor = name_of(peer_pid(socket) or 0)
        connection = LineConnection()
        early: list[tuple[Callable[[Any], object], Any]] = []

        def in_turn(handler: Callable[[Any], object], params: Any) -> None:
            if self._connection is connection:
                handler(params)
            else:  # behind the answer in the same tick
                early.append((handler, params))

        connection.rpc.respond(STATE, partial(in_turn, self._heard_state))
        connection.rpc.respond(ACKNOWLEDGED, partial(in_turn, self._heard_acknowledged))
        connection.rpc.respond(REPLACED, partial(in_turn, self._replaced))
        connection.attach(socket)
        try:
            params = fields_of(Attach(term=self._term))
            answer = await connection.rpc.request(ATTACH, params, timeout=ANSWER_WAIT)
            snapshot = read(Snapshot, answer)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                _log.warning("the monitor of %s hangs, and is killed", self._launch.backend_id)
                kill(monitor)
            connection.abort()
            raise
        if self._is_over:  # it was let go meanwhile
            connection.abort()
            return
        self._connection = connection
        self._take(snapshot)
        for handler, params in early:
            handler(params)
        waiting, self._waiting = self._waiting, []
        for name, params in waiting:
            self._say(name, params)
        connection.add_close_callback(self._lost)

    def _lost(self, _error: Exception | None) -> None:
        self._connection = None
        if not self._is_over:
            self._reaching = self._loop.create_task(self._reach_again())

    async def _reach_again(self) -> None:
        try:
            is_found = await self.reach_at_last()
        except EngineError as error:
            _log.warning("%s", error)
            self._is_over = True
            return
        if not is_found:
            self._move(
                Terminated(
                    time=now(),
                    termination_reason=TerminationReason.LOST,
                    termination_kind=TerminationKind.HARD,
                    exit_error=True,
                )
            )

    def _take_result(self) -> bool:
        """Take what its monitor has left, if it has; and remove that if it is seen to."""
        path = Path(result_path(self._directory, self._launch.backend_id))
        try:
            snapshot: Snapshot = decode(path.read_bytes(), Snapshot)
        except FileNotFoundError:
            return False
        except ProtomuxError as error:
            _log.error("%s is of no use: %s", path, error)
            return False
        self._take(snapshot)
        if self._is_kept:
            path.unlink(missing_ok=True)
        return True

    def _take(self, snapshot: Snapshot) -> None:
        self.address = snapshot.address
        self._acknowledge(news_of(snapshot.acknowledged))
        for state in snapshot.states:
            self._move(state)

    def _heard_state(self, params: object) -> None:
        self._move(read(Moved, params).state)

    def _heard_acknowledged(self, params: object) -> None:
        self._acknowledge(news_of(read(Heard, params).news))

    def _replaced(self, _params: object) -> None:
        self._is_over = True

    def _acknowledge(self, news: Sequence[News]) -> None:
        if news and not self._is_over:
            self._tell(partial(self._listener.acknowledged, news))

    def _move(self, state: BackendState) -> None:
        if self._is_over or not self._seen.is_before(state.status):
            return
        if self._tell(partial(self._told, state)):
            self._seen = state.status
            if state.status is BackendStatus.TERMINATED:
                if self._is_kept:  # else its monitor leaves it for the next manager
                    self._say(SEEN, None)
                self._is_over = True
                if self._connection is not None:
                    self._connection.close()

    def _told(self, state: BackendState) -> None:
        is_written = self._listener.moved(state) is not False
        self._is_kept = is_written and state.status is BackendStatus.TERMINATED

    def _tell(self, what: Callable[[], object]) -> bool:
        """Tell the listener. One that fails hears no more: the next manager does."""
        try:
            what()
        except Exception as error:
            _log.error("nothing more of %s is told", self._launch.backend_id, exc_info=error)
            self._is_over = True
            if self._connection is not None:
                self._connection.abort()
            return False
        return True

    def _say(self, name: str, params: Any) -> None:
        if self._is_over:
            return
        if self._connection is None or self._connection.rpc.error is not None:
            self._waiting.append((name, params))
        else:
            self._connection.rpc.notify(name, params)
