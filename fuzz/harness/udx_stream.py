"""One UDX stream whose peer sends whatever the input says, when it says.

Numbers in packets are near those that the stream expects, or arbitrary. Whatever comes, nothing is
raised, the books are right after every step, and the application is told of each thing once, in its
turn.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final

from fuzz.harness import script
from fuzz.harness.script import Step
from fuzz.harness.stage import Finding
from protomux.errors import LimitExceeded, StreamClosed
from protomux.udx.packet import Packet, Type, decode_packet
from protomux.udx.stream import WINDOW, Life, Stream
from tests.protomux.udx.books import check_books

__all__ = ["MAX_SIZE", "OPS", "Op", "run"]

MAX_SIZE: Final = 4096

_WINDOWS: Final = (WINDOW, 100, 5_000, 100_000)
_MOST_SENT: Final = 3000
"""Packets that one step may bring about: no window in so short a script gets as large."""

_MOST_TIMERS: Final = 200
_UNIT: Final = 0.005


class Op(IntEnum):
    """What a step does; its data says the rest. Bit 7 of a packet's: it comes by an old path."""

    DATAGRAM = 0  # these bytes arrive
    DATA = 1  # a packet: type, how far from the one expected, then the payload
    ACK = 2  # how far from what is acknowledged, window u32, then ranges as distances
    TIME = 3  # so many units, u16; timers go off in their turn
    TIMER = 4  # as much as the next one takes, some times
    WRITE = 5  # so many bytes, u16, some times
    END = 6
    MESSAGE = 7  # so many bytes, u16
    READING = 8  # 0: pause, 1: all is taken, others: so many bytes
    KEEP_ALIVE = 9  # seconds
    MOVE = 10  # 6: by IPv6
    DESTROY = 11
    ALL_ACKED = 12  # all that is out, with a window of so many kB
    CONNECT = 13
    FLUSH = 14  # 0: not after each step from now on
    ARBITRARY = 15  # type, seq, ack, window, u32 each; then ranges


OPS: Final = Op


class _Side:
    """A stream, and what its host has seen."""

    def __init__(self, scene: int) -> None:
        self.now = 1000.0
        self.window = _WINDOWS[scene & 3]
        self.stream = Stream(7, self, self.now, window=self.window)
        self.is_reading = True
        self.is_flushed = True
        self.sent = 0
        self.written = 0
        self.has_ended = False
        self.closings = 0
        self.ack = 0

    # Host

    def transmit(self, datagram: bytes) -> None:
        packet = decode_packet(datagram)
        if packet is None or packet.stream_id != self.stream.remote_id:
            raise Finding(f"sent {datagram.hex()}")
        if self.stream.life is Life.CLOSED or len(datagram) > 1500:
            raise Finding(f"{len(datagram)} bytes were sent by {self.stream!r}")
        if packet.ack < self.ack or packet.window > self.window:
            raise Finding(f"acknowledged less than before, or told too much: {packet}")
        self.ack = packet.ack
        self.sent += 1

    def transmit_in_pieces(self, datagram: bytes) -> None:
        self.transmit(datagram)

    def _told(self) -> None:
        if self.closings:
            raise Finding(f"{self.stream!r} told of something after its end")

    def data_received(self, data: bytes) -> None:
        self._told()
        if self.has_ended or not data:
            raise Finding("nothing, or bytes behind the end")
        if not self.is_reading:
            self.stream.unread += len(data)

    def eof_received(self) -> None:
        self._told()
        if self.has_ended:
            raise Finding("a second end")
        self.has_ended = True

    def message_received(self, data: bytes) -> None:
        self._told()

    def acknowledged(self) -> None:
        self._told()

    def closed(self, error: Exception | None) -> None:
        self._told()
        self.closings += 1
        if error is not None and not isinstance(error, StreamClosed):
            raise Finding(f"ended with {error!r}")

    # What happens

    def receive(self, packet: Packet, step: Step) -> None:
        self.stream.receive(packet, self.now, is_current=not step.op & 0x80)

    def pass_time(self, until: float) -> None:
        """Let the timers go off that are due until then, one by one."""
        for _ in range(_MOST_TIMERS):
            deadline = self.stream.deadline
            if deadline > until:
                break
            self.now = max(self.now, deadline)
            self.stream.on_timer(self.now)
            self.stream.flush(self.now)
        self.now = max(self.now, until)
        self.stream.on_timer(self.now)

    def do(self, step: Step) -> None:
        stream = self.stream
        number = int.from_bytes(step.data[:2], "little")
        match step.among(Op):
            case Op.DATAGRAM:
                packet = decode_packet(step.data)
                if packet is not None:
                    self.receive(packet, step)
            case Op.DATA:
                seq = self.ack + _distance(step.at(1))
                self.receive(Packet(step.at(0), 7, WINDOW, seq, 0, (), step.data[2:]), step)
            case Op.ACK:
                self.receive(_ack(step, stream.recovery.acked), step)
            case Op.TIME:
                self.pass_time(self.now + number * _UNIT)
            case Op.TIMER:
                for _ in range(1 + step.at(0) % 16):
                    if stream.deadline < inf:
                        self.pass_time(stream.deadline)
            case Op.WRITE:
                for _ in range(1 + step.at(2) % 8):
                    self._write(number)
            case Op.END:
                stream.end()
            case Op.MESSAGE:
                self._send_message(number)
            case Op.READING:
                self._read(step.at(0))
            case Op.KEEP_ALIVE:
                stream.set_keep_alive(step.at(0), self.now)
            case Op.MOVE:
                if stream.life is Life.OPEN:
                    stream.change_remote(step.at(1), self.now, ip_version=_version(step.at(0)))
            case Op.DESTROY:
                stream.destroy()
            case Op.ALL_ACKED:
                window = step.at(0) * 1000
                self.receive(Packet(0, 7, window, self.ack, stream.recovery.next_seq), step)
            case Op.CONNECT:
                if stream.life is Life.CREATED:
                    stream.connect(step.at(1), self.now, ip_version=_version(step.at(0)))
            case Op.FLUSH:
                self.is_flushed = step.at(0) > 0
            case Op.ARBITRARY:
                self.receive(_arbitrary(step), step)

    def _write(self, size: int) -> None:
        was_ended = self.stream.is_ending or self.stream.life not in (Life.CREATED, Life.OPEN)
        try:
            self.stream.write(bytes(size))
        except StreamClosed:
            if not was_ended:
                raise Finding("a stream that is open refused to be written to") from None

    def _send_message(self, size: int) -> None:
        try:
            self.stream.send_message(bytes(size))
        except LimitExceeded:
            if size <= self.stream.most_message:
                raise Finding(f"a message of {size} bytes was refused") from None

    def _read(self, how: int) -> None:
        self.is_reading = how > 0
        size = self.stream.unread if how == 1 else min(how, self.stream.unread)
        if how:
            self.stream.taken(size)


def _version(number: int) -> int:
    return 6 if number == 6 else 4


def _distance(byte: int) -> int:
    return byte - 256 if byte >= 128 else byte


def _ack(step: Step, acked: int) -> Packet:
    ack = acked + _distance(step.at(0))
    window = int.from_bytes(step.data[1:5], "little")
    at = ack
    ranges = []
    for place in range(5, len(step.data) - 1, 2):
        begin = at + _distance(step.data[place])
        at = begin + _distance(step.data[place + 1])
        ranges.append((begin % 2**32, at % 2**32))
    return Packet(Type.SACK, 7, window, 0, ack % 2**32, ranges)


def _arbitrary(step: Step) -> Packet:
    words = [int.from_bytes(step.data[at : at + 4], "little") for at in range(1, len(step.data), 4)]
    seq, ack, window, *rest = (*words, 0, 0, 0)
    ranges = list(zip(rest[::2], rest[1::2], strict=False))
    return Packet(step.at(0), 7, window, seq, ack, ranges, step.data[13:])


def run(data: bytes) -> None:
    scene, steps = script.parse(data)
    side = _Side(scene)
    if not scene & 4:
        side.stream.connect(9, side.now)
    for step in steps:
        sent = side.sent
        side.do(step)
        if side.is_flushed:
            side.stream.flush(side.now)
            check_books(side.stream)
        if side.sent - sent > _MOST_SENT:
            raise Finding(f"{side.sent - sent} packets for {step}")
    side.stream.destroy()
    if side.closings != 1 or side.stream.life is not Life.CLOSED or side.stream.deadline < inf:
        raise Finding(f"{side.stream!r} has an end that is none")
