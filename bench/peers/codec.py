"""Encodes and decodes announces, alone in its process and without a stream."""

from __future__ import annotations

from hashlib import sha256
from time import monotonic_ns, process_time
from typing import Final

from bench.peers.content import KEPT_EVERY, length, log_key
from bench.peers.talk import Talk, fail
from protomux_wakeup import Writer
from protomux_wakeup.messages import announce

__all__ = ["alone", "checksum"]

_DIFFERENT: Final = 16
"""Announces that take turns, so that no cache of the processor holds them all."""


def _announces(entries: int) -> list[list[Writer]]:
    return [
        [Writer(log_key(number), length(number)) for number in range(first, first + entries)]
        for first in range(0, _DIFFERENT * entries, entries)
    ]


def checksum(count: int, entries: int) -> int:
    """Return what whoever does the work finds."""
    lists = _announces(entries)
    datas = [announce.encode(writers) for writers in lists]
    turns = [number % _DIFFERENT for number in range(count)]
    ends = [writers[0].length + writers[-1].length for writers in lists]
    return (
        sum(len(datas[turn]) for turn in turns)
        + sum(entries + ends[turn] for turn in turns)
        + _digest(datas)
    )


def _digest(datas: list[bytes]) -> int:
    return int.from_bytes(sha256(b"".join(datas)).digest()[:4], "big")


class _Codec:
    """Encodes and decodes the same announces again and again."""

    def __init__(self, entries: int) -> None:
        self.lists = _announces(entries)
        self.datas = [announce.encode(writers) for writers in self.lists]
        for writers, data in zip(self.lists, self.datas, strict=True):
            if announce.decode(data, 0, len(data)) != (writers, len(data)):
                fail("expected the entries that were encoded, got others")

    def encode(self, count: int) -> tuple[int, int]:
        """Return the nanoseconds and the sum of the sizes."""
        kept = []
        total = 0
        began = monotonic_ns()
        for number in range(count):
            data = announce.encode(self.lists[number % _DIFFERENT])
            total += len(data)
            if number % KEPT_EVERY == 0:
                kept.append(data)
        nanoseconds = monotonic_ns() - began
        for index, data in enumerate(kept):
            if data != self.datas[index * KEPT_EVERY % _DIFFERENT]:
                fail(f"announce {index * KEPT_EVERY} has other bytes than before")
        return nanoseconds, total

    def decode(self, count: int) -> tuple[int, int]:
        """Return the nanoseconds and the sum of the counts and of the first and last lengths."""
        kept = []
        total = 0
        began = monotonic_ns()
        for number in range(count):
            data = self.datas[number % _DIFFERENT]
            writers, _ = announce.decode(data, 0, len(data))
            total += len(writers) + writers[0].length + writers[-1].length
            if number % KEPT_EVERY == 0:
                kept.append(writers)
        nanoseconds = monotonic_ns() - began
        for index, writers in enumerate(kept):
            if writers != self.lists[index * KEPT_EVERY % _DIFFERENT]:
                fail(f"announce {index * KEPT_EVERY} has other entries than before")
        return nanoseconds, total


async def alone(talk: Talk) -> None:
    """Encode all, then decode all."""
    warm, count, entries = (talk.size[name] for name in ("warm", "count", "entries"))
    codec = _Codec(entries)
    codec.encode(warm)
    codec.decode(warm)
    cpu_before = process_time()
    encoding, sizes = codec.encode(count)
    decoding, lengths = codec.decode(count)
    talk.cpu = process_time() - cpu_before
    figures = {
        f"codec-{name}": count * entries / (nanoseconds / 1e9)
        for name, nanoseconds in (("encode", encoding), ("decode", decoding))
    }
    talk.finish(count * entries, sizes + lengths + _digest(codec.datas), figures)
