"""What a backend hears by its stdin, and what it has done with that. Knows no process.

A line that does not fit in the pipe waits here, one for each log: news of a log that comes
meanwhile take its place. How much of the pipe is read the kernel knows (FIONREAD), and so which
lines are: a backend that ends well has done what they asked for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import select
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from protomux_wakeup.host.backends.engine import News

__all__ = ["MOST_LOGS", "AckLines", "Feed"]

MOST_LOGS: Final = 100_000
"""Logs that one backend hears of. News of more are dropped here: nobody acknowledges them."""

_LINE_SIZE: Final = 256
"""Bytes of a line from a backend; the longest that means something has 151."""

_ACK: Final = re.compile(rb"ack ([0-9a-fA-F]{64}) ([0-9a-fA-F]{64}) ([0-9]{1,16})\r?")

_Log: TypeAlias = tuple[bytes, bytes]


class Feed:
    """The stdin of one backend. From `began()` on it needs a loop.

    Attributes:
        stdin: the descriptor that the backend reads from. It stays open here, where nothing is
            read, so that one can tell what is left in it.
    """

    def __init__(self) -> None:
        self.stdin, self._pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_watching = False
        self._is_finished = False
        self._heard: dict[_Log, int] = {}
        self._waiting: dict[_Log, int] = {}
        self._given: dict[_Log, int] = {}  # at the start, or by the pipe
        self._taken: dict[_Log, int] = {}  # at the start, or read
        self._acknowledged: dict[_Log, int] = {}
        self._lines: deque[tuple[int, _Log, int]] = deque()  # in the pipe, with where they end
        self._written = 0

    @property
    def acknowledged(self) -> list[News]:
        """All that is done, the greatest length of each log."""
        return [News(*log, length) for log, length in self._acknowledged.items()]

    def deliver(self, news: Iterable[News]) -> bool:
        """Tell the backend; False if some of it is dropped, see `MOST_LOGS`."""
        is_kept = True
        for topic, key, length in news:
            log = topic, key
            if length <= self._heard.get(log, -1):
                continue
            if log not in self._heard and len(self._heard) >= MOST_LOGS:
                is_kept = False
                continue
            self._heard[log] = self._waiting[log] = length
        self._push()
        return is_kept

    def began(self) -> None:
        """The backend starts: what was delivered so far it has got with that, and lines too."""
        self._loop = asyncio.get_running_loop()
        self._given.update(self._heard)
        self._taken.update(self._heard)
        self._push()

    def finish(self) -> None:
        """End stdin behind what waits."""
        self._is_finished = True
        self._push()

    def done(self, news: Iterable[News]) -> tuple[list[News], bool]:
        """The backend says that it has done these.

        Return those that were not acknowledged yet, and whether it has got them all before.
        """
        are_known = True
        fresh = []
        for each in news:
            log = each.topic, each.key
            if each.length > self._given.get(log, -1):
                are_known = False
            elif each.length > self._acknowledged.get(log, -1):
                self._acknowledged[log] = each.length
                fresh.append(each)
        return fresh, are_known

    def all_taken(self) -> list[News]:
        """Return what the backend was started with, and what it has read."""
        self._settle()
        return [News(*log, length) for log, length in self._taken.items()]

    def close(self) -> None:
        """Be over."""
        self._watch(False)
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        os.close(self.stdin)

    def _push(self) -> None:
        """Write as many whole lines as there is room for."""
        if self._loop is None or self._pipe < 0:
            return
        self._settle()  # or what is noted about lines that are read would grow
        while self._waiting:
            lines, logs = self._next_lines()
            try:
                os.write(self._pipe, lines)  # so few bytes are written in one go, or not at all
            except BlockingIOError:
                self._watch(True)
                return
            for end, log in logs:
                length = self._waiting.pop(log)
                self._lines.append((self._written + end, log, length))
                self._given[log] = length
            self._written += len(lines)
        self._watch(False)
        if self._is_finished:
            os.close(self._pipe)
            self._pipe = -1

    def _next_lines(self) -> tuple[bytes, list[tuple[int, _Log]]]:
        lines = bytearray()
        logs = []
        for log, length in self._waiting.items():
            line = b"hint %s %s %d\n" % (log[0].hex().encode(), log[1].hex().encode(), length)
            if len(lines) + len(line) > select.PIPE_BUF:
                break
            lines += line
            logs.append((len(lines), log))
        return bytes(lines), logs

    def _settle(self) -> None:
        """Look which lines are read."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self.stdin, termios.FIONREAD, bytes(4)))
        while self._lines and self._lines[0][0] <= self._written - unread:
            _, log, length = self._lines.popleft()
            self._taken[log] = length

    def _watch(self, is_full: bool) -> None:
        if self._loop is None or is_full is self._is_watching:
            return
        self._is_watching = is_full
        if is_full:
            self._loop.add_writer(self._pipe, self._push)
        else:
            self._loop.remove_writer(self._pipe)


class AckLines:
    """Finds acknowledgements in what a backend writes, which may be anything."""

    def __init__(self, bad: Callable[[], object]) -> None:
        """Call `bad()` for a line that is none."""
        self._bad = bad
        self._begun = b""
        self._is_too_long = False

    def read(self, data: bytes) -> list[News]:
        """Return those that `data` completes; the end of a stream completes nothing."""
        *lines, begun = (self._begun + data).split(b"\n")
        found = []
        for line in lines:
            match = None if self._is_too_long else _ACK.fullmatch(line)
            self._is_too_long = False
            if match is None:
                self._bad()
            else:
                topic, key, length = match.groups()
                found.append(
                    News(bytes.fromhex(topic.decode()), bytes.fromhex(key.decode()), int(length))
                )
        self._is_too_long = self._is_too_long or len(begun) > _LINE_SIZE
        self._begun = b"" if self._is_too_long else begun
        return found
