"""What the application's `main(worker)` sees: the clients, and their calls. Knows no process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from protomux import Protomux, StreamClosed
from protomux.hooks import is_pending
from protomux_wakeup.host.calls import GOING, MOVED
from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.messages import Init
from protomux_wakeup.host.rpc import Rpc

__all__ = ["Session", "Worker", "WorkerMain"]

_log = logging.getLogger("protomux_wakeup.host")

Handler: TypeAlias = Callable[[Any, "Session"], Any]
WorkerMain: TypeAlias = Callable[["Worker"], Awaitable[object]]


class Session:
    """A client that is connected.

    Attributes:
        client_id: of the client.
        mux: the app port: any protocol may have channels there.
        user_data: the application's own.
    """

    def __init__(self, client_id: str, mux: Protomux, app: Rpc) -> None:
        self.client_id: Final = client_id
        self.mux: Final = mux
        self.user_data: Any = None
        self._app = app

    def __repr__(self) -> str:
        return f"<Session {self.client_id}>"

    def notify(self, method: str, params: Any = None) -> None:
        """Tell the client something; does nothing when it is gone."""
        self._app.notify(method, params)

    def request(
        self, method: str, params: Any = None, *, timeout: float | None = 30.0
    ) -> asyncio.Future[Any]:
        """Ask the client something. Errors as for `jitpc.Client.request`."""
        return self._app.request(method, params, timeout=timeout)


class Worker:
    """What `main(worker)` gets: who asks, and what for.

    ```python
    async def main(worker):
        worker.respond("add", lambda params, session: sum(params))
        await worker.serve()
    ```

    Attributes:
        name: of the host.
        term: higher than that of every worker before, of this host.
        leader_id: of the leader.
        options: those of the leader's `join()`.
        on_session, on_session_end: hooks, plain or None: on_session(session) when a client has
            connected, on_session_end(session) when it is gone.
    """

    def __init__(self, name: str, init: Init, on_ready: Callable[[], object]) -> None:
        self.name: Final = name
        self.term: Final = init.term
        self.leader_id: Final = init.leader_id
        self.options: Final[Mapping[str, Any]] = init.options
        self.on_session: Callable[[Session], object] | None = None
        self.on_session_end: Callable[[Session], object] | None = None
        self._on_ready = on_ready
        self._handlers: dict[str, Handler] = {}
        self._sessions: dict[str, Session] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._serves = False
        self._refuses = False
        self._is_going = asyncio.Event()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The clients that are connected."""
        return tuple(self._sessions.values())

    def respond(self, method: str, handler: Handler) -> None:
        """Answer calls of `method` by `handler(params, session)`, plain or async.

        What it raises crosses to the caller, as RemoteError.
        """
        self._handlers[method] = handler
        for session in self.sessions:
            session._app.respond(method, partial(self._run, handler, session))

    async def serve(self) -> None:
        """Be ready for clients; return when it is time to go.

        Calls that run by then have ended, or were cancelled.
        """
        if self._serves:
            raise RuntimeError("expected one call of serve()")
        self._serves = True
        self._on_ready()
        await self._is_going.wait()

    # For the process.

    def welcome(self, session: Session) -> None:
        """A client has connected."""
        self._sessions[session.client_id] = session
        for method, handler in self._handlers.items():
            session._app.respond(method, partial(self._run, handler, session))
        self._tell(self.on_session, session)

    def forget(self, session: Session) -> None:
        """A client is gone."""
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
        self._tell(self.on_session_end, session)

    def _tell(self, hook: Callable[[Session], object] | None, session: Session) -> None:
        if hook is not None:
            try:
                hook(session)
            except Exception:
                _log.exception("a hook of the worker failed for %r", session)

    def _run(self, handler: Handler, session: Session, params: Any) -> Any:
        if self._refuses:
            raise RemoteError("the worker is about to go", MOVED)
        result = handler(params, session)
        return self._awaited(result) if is_pending(result) else result

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        running = asyncio.current_task()
        assert running is not None
        self._running.add(running)
        try:
            return await result
        finally:
            self._running.discard(running)

    async def drain(self, seconds: float) -> None:
        """Begin no more calls, give those that run so many seconds, and let serve() return."""
        self._refuses = True
        if seconds:
            told = [session._app.request(GOING, timeout=seconds) for session in self.sessions]
            await asyncio.gather(*told, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        if self._running:
            for session in self.sessions:
                session._app.destroy(StreamClosed("the worker goes"))  # which cancels its calls
            await asyncio.wait(self._running, timeout=seconds)
        streams = [session.mux.stream for session in self.sessions]
        for stream in streams:
            stream.close()  # when what was answered has left
        if seconds and streams:
            ends = [asyncio.create_task(stream.wait_closed()) for stream in streams]
            await asyncio.wait(ends, timeout=seconds)
            for end in ends:
                end.cancel()
        self._is_going.set()
