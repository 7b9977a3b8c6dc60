"""The command of a backend, in the process that is its parent: until nothing of it is left.

Knows no manager and no socket of one: what happens is told by two callbacks.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from protomux_wakeup.host.backends.bounds import LOOK_EVERY, excess, limits_of, stopped_by
from protomux_wakeup.host.backends.engine import Command, EngineError, Launch, News, Readiness
from protomux_wakeup.host.backends.family import family_of, kill_family
from protomux_wakeup.host.backends.feed import MOST_LOGS, AckLines, Feed
from protomux_wakeup.host.backends.life import Life
from protomux_wakeup.host.backends.output import BoundedLog
from protomux_wakeup.host.backends.readiness import LOOPBACK, ReadySocket, free_port, listening
from protomux_wakeup.host.backends.spawning import Child, Program
from protomux_wakeup.host.backends.types import BackendState, BackendStatus, TerminationReason
from protomux_wakeup.host.pulse import Pulse

__all__ = ["Run"]

_READ_SIZE: Final = 64 * 1024
"""Bytes that are read at once; what a pipe holds unless it is told otherwise."""

_MOST_READS: Final = 64
"""Reads of what was left in a pipe; more than it may hold (/proc/sys/fs/pipe-max-size)."""

_LONGEST_PAUSE: Final = 0.1
"""Seconds between two tries to end what is left."""


class Run:
    """One command, once.

    Attributes:
        address: where it is told to listen.
        life: its states.
    """

    def __init__(
        self,
        launch: Launch,
        command: Command,
        feed: Feed,
        log: BoundedLog,
        child: Child,
        *,
        moved: Callable[[BackendState], object],
        acknowledged: Callable[[Sequence[News]], object],
    ) -> None:
        """Tell of each state by `moved(state)`, and of what is done by `acknowledged(news)`."""
        self.address: Final = (LOOPBACK, free_port())
        self.life: Final = Life(moved)
        self._launch = launch
        self._command = command
        self._feed = feed
        self._log = log
        self._acknowledged = acknowledged
        self._loop = asyncio.get_running_loop()
        self._limits = limits_of(launch)
        self._child: Final = child
        self._is_running = False
        self._code: int | None = None
        self._ready_socket: ReadySocket | None = None
        self._getting_ready: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._looking: Pulse | None = None
        self._ending: asyncio.Task[None] | None = None
        self._pipes: dict[int, Callable[[bytes], object]] = {
            child.output: log.write,
            child.acks: self._read_acks,
        }
        self._acks = AckLines(self._bad_ack)
        self._has_bad_acks = False

    def fail(self, why: str) -> None:
        """It cannot be started."""
        self.life.starting()
        self._log.note(why)
        self._child.discard()
        self._close()
        self.life.terminated(TerminationReason.INTERNAL_ERROR, exit_error=True)

    async def start(self, key_lock: int, ready_path: str) -> None:
        """Start it, with the descriptor `key_lock`.

        A socket to tell that it is ready is made at `ready_path`, if that is how it does.
        """
        command, cgroup = self._command, self._child.cgroup
        self.life.starting()
        try:
            if cgroup is not None:
                cgroup.bound(self._limits, command.processes)
            path = None
            if command.readiness is Readiness.NOTIFY:
                path = ready_path
                self._ready_socket = ReadySocket(path, self._is_ready)
            program = Program.of(self._launch, command, self.address[1], path)
            await self._child.become(program, key_lock)
        except (OSError, EngineError) as error:
            self.fail(str(error))
            return
        self.life.waiting()
        self._is_running = True
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for pipe in self._pipes:
            self._loop.add_reader(pipe, self._read, pipe)
        self._feed.began()
        self._looking = Pulse(LOOK_EVERY, beat=self._look)
        self._wait_ready()
        self._reap()

    def terminate(self, reason: TerminationReason, *, hard: bool) -> None:
        """Ask it to end, or make it; does nothing where that is under way, or it has ended."""
        if not self._is_running or self._code is not None:
            return
        if hard:
            if self.life.hard_terminating(reason):
                self._end()
        elif self.life.terminating(reason):
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGTERM)
                os.killpg(self._child.pid, signal.SIGCONT)  # who was stopped hears of it as well
            self._later(self._command.grace, lambda: self.terminate(reason, hard=True))

    def deliver(self, news: Iterable[News]) -> None:
        """Tell it that logs have grown."""
        if self.life.is_before(BackendStatus.TERMINATED) and not self._feed.deliver(news):
            self._log.note(f"expected news of at most {MOST_LOGS} logs, there are more")

    def finish(self) -> None:
        """End its stdin behind what waits."""
        if self.life.is_before(BackendStatus.TERMINATED):
            self._feed.finish()

    # Readiness, and bounds.

    def _wait_ready(self) -> None:
        if self._command.readiness is Readiness.STARTED:
            self._is_ready()
            return
        self._later(self._command.startup_timeout, self._is_late)
        if self._command.readiness is Readiness.PORT:
            waiting = listening(self.address[1], _descendants)
            self._getting_ready = self._loop.create_task(waiting)
            self._getting_ready.add_done_callback(self._listens)

    def _listens(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.result()  # what went wrong is for the loop, which tells the log
            self._is_ready()

    def _is_ready(self) -> None:
        self.life.ready()

    def _is_late(self) -> None:
        if self.life.is_before(BackendStatus.READY):
            self._log.note(f"expected it to be ready after {self._command.startup_timeout:g} s")
            self.terminate(TerminationReason.STARTUP_TIMEOUT, hard=False)

    def _look(self) -> None:
        found = excess(self._limits, self._command.processes, _descendants())
        if found is not None and self.life.is_before(BackendStatus.HARD_TERMINATING):
            self._log.note(found)
            self.terminate(TerminationReason.SWEPT, hard=True)

    def _was_stopped(self, code: int) -> None:
        """It has ended with that code, perhaps by the kernel, before a look has found that."""
        found = stopped_by(self._limits, code)
        if found is not None and self.life.is_before(BackendStatus.TERMINATING):
            self._log.note(found)
            self.life.hard_terminating(TerminationReason.SWEPT)

    def _later(self, seconds: float, what: Callable[[], object]) -> None:
        self._timers.append(self._loop.call_later(seconds, what))

    # What it says.

    def _read(self, pipe: int) -> bool:
        """Take some of what is in a pipe; False where nothing is."""
        try:
            data = os.read(pipe, _READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            self._pipes[pipe](data)
        else:
            self._close_pipe(pipe)
        return bool(data)

    def _close_pipe(self, pipe: int) -> None:
        self._loop.remove_reader(pipe)
        os.close(pipe)
        del self._pipes[pipe]

    def _read_acks(self, data: bytes) -> None:
        self._done(self._acks.read(data))

    def _done(self, news: Iterable[News]) -> None:
        fresh, are_known = self._feed.done(news)
        if not are_known:
            self._bad_ack()
        if fresh:
            self._acknowledged(fresh)

    def _bad_ack(self) -> None:
        if not self._has_bad_acks:
            self._has_bad_acks = True
            self._log.note("expected lines 'ack TOPIC KEY LENGTH' of what it has heard, got others")

    # Its end.

    def _reap(self) -> bool:
        """Take note of children that have ended; False where there are none any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child.pid:
                self._code = os.waitstatus_to_exitcode(status)
                self._was_stopped(self._code)
                self._end()

    def _end(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._end_all())

    async def _end_all(self) -> None:
        """Kill until nothing is left to kill."""
        pause = 0.0
        while self._reap():
            if self._child.cgroup is not None:
                self._child.cgroup.kill()
            kill_family()
            await asyncio.sleep(pause)
            pause = min(2 * pause + 0.001, _LONGEST_PAUSE)
        for pipe in list(self._pipes):
            for _ in range(_MOST_READS):
                if not self._read(pipe):
                    break
        if self._code == 0 and self.life.is_before(BackendStatus.TERMINATING):
            self._done(self._feed.all_taken())
        self._close()
        self.life.terminated(exit_error=self._code != 0)

    def _close(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for timer in self._timers:
            timer.cancel()
        if self._looking is not None:
            self._looking.stop()
        if self._getting_ready is not None:
            self._getting_ready.cancel()
        if self._ready_socket is not None:
            self._ready_socket.close()
        for pipe in list(self._pipes):
            self._close_pipe(pipe)
        self._feed.close()
        if self._child.cgroup is not None:
            self._child.cgroup.remove()


def _descendants() -> list[int]:
    return [pid for pid, _ in family_of(os.getpid())]
