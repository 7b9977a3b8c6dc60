"""A client's session with a worker: its two ports. Knows heartbeats, not who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Self

from protomux import Protomux, StreamClosed
from protomux_wakeup.host.calls import APP, GOING, HEARTBEAT, LEADER_SILENT, SYSTEM, open_rpc
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.locks import released
from protomux_wakeup.host.messages import ProvidePort
from protomux_wakeup.host.ports import use_port
from protomux_wakeup.host.pulse import Pulse
from protomux_wakeup.host.rpc import Handler, Rpc

__all__ = ["Session"]


class Session:
    """Open from `open()` until `close()`, or the end of the worker, which `watch()` notices.

    Attributes:
        leader: what the leader said of the worker.
        mux: the app port.
        app: the calls on it.
        is_going: the worker will not begin any more calls.
        leader_is_silent: the worker ended because its leader did not answer.
    """

    def __init__(self, leader: ProvidePort, app: Protomux, system: Protomux, beats: Rpc) -> None:
        self.leader: Final = leader
        self.mux: Final = app
        self.app: Final = open_rpc(app, APP)
        self.leader_is_silent = False
        self.is_going = False
        self.app.respond(GOING, self._on_going)
        self._system_mux = system
        self._system = beats
        self._system.respond(LEADER_SILENT, self._on_leader_silent)
        self._over = asyncio.Event()
        for mux in (app, system):
            mux.add_close_callback(lambda _error: self.close())

    @classmethod
    async def open(cls, leader: ProvidePort, responders: Mapping[str, Handler]) -> Self:
        """Use the ports that `leader` provides; `responders` answer what the worker asks.

        Raises OSError or ProtomuxError where the worker has gone by now.
        """
        system = await use_port(leader.system_port)
        beats = open_rpc(system, SYSTEM)  # now, or the open of the other side would be rejected
        try:
            app = await use_port(leader.app_port)
        except BaseException:
            system.destroy()
            raise
        session = cls(leader, app, system, beats)
        for method, responder in responders.items():
            session.app.respond(method, responder)
        return session

    @property
    def is_over(self) -> bool:
        """The worker is gone, or we are."""
        return self._over.is_set()

    async def wait_closed(self) -> None:
        """Wait until the session is over."""
        await self._over.wait()

    async def watch(self, limits: Limits, on_silence: Callable[[], object]) -> None:
        """Wait until the worker is gone; call `on_silence()` when it does not answer.

        Its end is told by the lock that it holds while it lives, and by its ports.
        """
        loop = asyncio.get_running_loop()
        pulse = Pulse(
            limits.heartbeat,
            limits.missed,
            beat=lambda: self._system.request(HEARTBEAT, timeout=None),
            lost=on_silence,
        )
        death = loop.create_task(released(self.leader.liveness_key))
        over = loop.create_task(self._over.wait())
        try:
            await asyncio.wait((death, over), return_when=asyncio.FIRST_COMPLETED)
            if death.done() and death.exception() is not None:  # no thread, or no descriptor
                await over
        finally:
            pulse.stop()
            death.cancel()
            over.cancel()
            self.close()

    def close(self) -> None:
        """End the session; what was asked and is not answered fails with StreamClosed."""
        if not self._over.is_set():
            self._over.set()
            error = StreamClosed("the worker has gone")
            self.app.destroy(error)
            self._system.destroy(error)
            self.mux.destroy()
            self._system_mux.destroy()

    def _on_going(self, _params: object) -> None:
        self.is_going = True

    def _on_leader_silent(self, _params: object) -> None:
        self.leader_is_silent = True
        self.close()
