"""UDP datagrams by the dozen. Knows one socket and what its kernel can do, nothing of UDX.

A system call takes about as long as all the rest that a datagram needs, so Linux can pass many with
one: several of one size, to or from one address, as one piece of memory (UDP_SEGMENT and UDP_GRO,
udp(7)). Where it cannot, each goes by itself; the datagrams on the wire are the same.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from struct import Struct
from typing import Any, Final, TypeAlias

__all__ = ["Address", "Datagrams"]

_log = logging.getLogger("protomux")

Address: TypeAlias = tuple[Any, ...]
"""As the socket module has it: (host, port), and two more numbers for IPv6."""

BUFFER: Final = 4 * 1024 * 1024
"""Bytes that the kernel is asked to keep either way: a loop that is busy for a while finds them."""

_LARGEST: Final = 65_535
_MOST_BYTES: Final = 65_000
_MOST_SEGMENTS: Final = 64
"""What Linux passes at once: UDP_MAX_SEGMENTS, and less than the largest IP packet."""

_MOST_WAITING: Final = 1024
"""Datagrams that wait for the kernel's buffer to drain; more are dropped, as it would drop them."""

_LINUX: Final = sys.platform == "linux"
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_segment_size: Final = Struct("H")
_gro_size: Final = Struct("i")
_ANCILLARY_SPACE: Final = 64

_IP_MTU_DISCOVER: Final = (socket.IPPROTO_IP, 10)
_MTU_DISCOVER: Final = {
    socket.AF_INET: [_IP_MTU_DISCOVER],
    # And the other one: such a socket may carry IPv4 as well.
    socket.AF_INET6: [(socket.IPPROTO_IPV6, 23), _IP_MTU_DISCOVER],
}
_PMTUDISC_DONT: Final = 0
_PMTUDISC_PROBE: Final = 3
"""Do not fragment, and let a packet try a size that the kernel has not seen arriving: ip(7)."""

_REFUSED: Final = {errno.EIO, errno.ENOPROTOOPT, errno.EINVAL, errno.EMSGSIZE}
"""What the kernel says of several at once where the device, or the size, does not allow it."""


class Datagrams:
    """A bound socket that does not block.

    Attributes:
        socket: it.
        is_blocked: the kernel has no room; `drain` when it is writable again.
    """

    def __init__(self, bound: socket.socket) -> None:
        self.socket: Final = bound
        self.is_blocked = False
        self._memory = memoryview(bytearray(_LARGEST))
        self._waiting: deque[tuple[Address, Sequence[bytes]]] = deque()
        bound.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                bound.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self._sends_segments = self._receives_segments = False
        if _LINUX:
            self._discover(_PMTUDISC_PROBE)
            with suppress(OSError):
                bound.getsockopt(_SOL_UDP, _UDP_SEGMENT)
                self._sends_segments = True
            with suppress(OSError):
                bound.setsockopt(_SOL_UDP, _UDP_GRO, 1)
                self._receives_segments = True

    def _discover(self, how: int) -> None:
        for option in _MTU_DISCOVER.get(self.socket.family, ()) if _LINUX else ():
            with suppress(OSError):
                self.socket.setsockopt(*option, how)

    @contextmanager
    def fragmenting(self) -> Iterator[None]:
        """What is sent meanwhile may be cut by IP on its way."""
        self._discover(_PMTUDISC_DONT)
        try:
            yield
        finally:
            self._discover(_PMTUDISC_PROBE)

    def receive(self) -> tuple[Address, memoryview, int] | None:
        """Return who sent what has come, its bytes, and the size of each datagram but the last.

        None where nothing has come. The bytes are good until the next call. Raises OSError where
        the socket does not work any more.
        """
        memory = self._memory
        try:
            if not self._receives_segments:
                size, address = self.socket.recvfrom_into(memory)
                return address, memory[:size], size
            size, ancillary, _, address = self.socket.recvmsg_into([memory], _ANCILLARY_SPACE)
        except (BlockingIOError, InterruptedError, ConnectionError):
            # Of a connection: what was sent before did not arrive, on systems that tell.
            return None
        for level, kind, data in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                return address, memory[:size], _gro_size.unpack(data)[0]
        return address, memory[:size], size

    def send(self, address: Address, datagrams: Sequence[bytes]) -> None:
        """Send them in this order; what the network refuses is lost, as on its way."""
        if not self.is_blocked:
            datagrams = self._send_all(address, datagrams)
        if datagrams and sum(len(each) for _, each in self._waiting) < _MOST_WAITING:
            self._waiting.append((address, datagrams))

    def drain(self) -> None:
        """The kernel has room again."""
        self.is_blocked = False
        while self._waiting and not self.is_blocked:
            address, datagrams = self._waiting.popleft()
            left = self._send_all(address, datagrams)
            if left:
                self._waiting.appendleft((address, left))

    def _send_all(self, address: Address, datagrams: Sequence[bytes]) -> Sequence[bytes]:
        """Return those that are left, which is none unless it blocks."""
        done = 0
        for run in self._runs(datagrams):
            try:
                if len(run) == 1:
                    self.socket.sendto(run[0], address)
                else:
                    size = _segment_size.pack(len(run[0]))
                    ancillary = [(_SOL_UDP, _UDP_SEGMENT, size)]
                    self.socket.sendmsg(run, ancillary, 0, address)
            except (BlockingIOError, InterruptedError):
                self.is_blocked = True
                return datagrams[done:]
            except OSError as error:
                if len(run) > 1 and error.errno in _REFUSED:
                    self._sends_segments = error.errno in (errno.EINVAL, errno.EMSGSIZE)
                    for index, datagram in enumerate(run):
                        if self._send_all(address, [datagram]):
                            return datagrams[done + index :]
                else:
                    _log.debug("a datagram of %d bytes was not sent: %s", len(run[0]), error)
            done += len(run)
        return ()

    def _runs(self, datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Yield them by those that may go at once: of one size, but for the last."""
        if len(datagrams) == 1 or not self._sends_segments:
            for datagram in datagrams:
                yield (datagram,)
            return
        run: list[bytes] = []
        size = room = 0
        for datagram in datagrams:
            length = len(datagram)
            if run and (length > size or length > room or len(run) == _MOST_SEGMENTS):
                yield run
                run = []
            if not run:
                size, room = length, _MOST_BYTES
            run.append(datagram)
            room -= length
            if length < size:
                yield run
                run = []
        if run:
            yield run

    def close(self) -> None:
        """Give the socket up, and what waits."""
        self._waiting.clear()
        self.socket.close()
