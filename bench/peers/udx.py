"""One end of one UDX stream of ours, in a process: `python -m bench.peers.udx OPTIONS`.

OPTIONS is a JSON object; its `loop` names the event loop. The first line that goes out is {"port"}.
In come {"do": "send" or "receive", "address": [host, port], "id", "remote_id", "bytes"}, which is
answered with {"ready"} once the stream is connected, and then {"do": "stop"}, with {"result"}. A
receiver also says its result, unasked, as soon as it has all of the bytes; without a number of
bytes a sender goes on for good. When stdin ends, so does the process.

What is sent repeats every `PERIOD` bytes, a prime: whatever is lost, doubled or out of order does
not fit. Times are nanoseconds of the monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from time import monotonic_ns, process_time
from typing import Any, Final, cast

from bench.loops import loop_factory
from bench.peers.talk import fail, say
from protomux.udx import UdxTransport, create_socket

PERIOD: Final = 65_521
CHUNK: Final = 65_536
SAMPLE: Final = 0.05
"""Seconds."""

PATTERN: Final = bytes(
    (at % PERIOD * 40_503 & 0xFFFFFFFF) >> 7 & 255 for at in range(PERIOD + CHUNK)
)


class _Sender(asyncio.Protocol):
    """Writes what the transport takes."""

    def __init__(self, bytes: int | None) -> None:
        self._bytes = bytes
        self._sent = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._began = monotonic_ns()
        self._cpu = process_time()
        self._task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._task = asyncio.ensure_future(self._run(cast(UdxTransport, transport)))

    async def _run(self, transport: UdxTransport) -> None:
        while self._bytes is None or self._sent < self._bytes:
            left = CHUNK if self._bytes is None else min(CHUNK, self._bytes - self._sent)
            at = self._sent % PERIOD
            transport.write(PATTERN[at : at + left])
            self._sent += left
            await self._can_write.wait()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        fail(f"the sender's stream ended: {error!r}")

    def result(self) -> dict[str, Any]:
        return {"began": self._began, "count": self._sent, "cpu": process_time() - self._cpu}


class _Receiver(asyncio.Protocol):
    """Counts and compares what comes."""

    def __init__(self, bytes: int | None) -> None:
        self._bytes = bytes
        self._count = 0
        self._ended: int | None = None
        self._samples: list[tuple[int, int]] = []
        self._cpu = process_time()
        self._sample()

    def data_received(self, data: bytes) -> None:
        for done in range(0, len(data), CHUNK):
            part = data[done : done + CHUNK]
            at = (self._count + done) % PERIOD
            if part != PATTERN[at : at + len(part)]:
                fail(f"the bytes from {self._count + done} on are not what was sent")
        self._count += len(data)
        if self._count == self._bytes:
            self._ended = monotonic_ns()
            say({"result": self.result()})

    def _sample(self) -> None:
        self._samples.append((monotonic_ns(), self._count))
        asyncio.get_running_loop().call_later(SAMPLE, self._sample)

    def connection_lost(self, error: Exception | None) -> None:
        fail(f"the receiver's stream ended: {error!r}")

    def result(self) -> dict[str, Any]:
        return {
            "ended": self._ended,
            "count": self._count,
            "samples": self._samples,
            "cpu": process_time() - self._cpu,
        }


async def _main() -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    socket = await create_socket("127.0.0.1", 0)
    say({"port": socket.address[1]})
    side: _Sender | _Receiver | None = None
    while line := await orders.readline():
        order = json.loads(line)
        if order["do"] == "stop":
            assert side is not None
            say({"result": side.result()})
            continue
        side = (_Sender if order["do"] == "send" else _Receiver)(order["bytes"])
        stream = socket.create_stream(order["id"], side)
        stream.connect(order["remote_id"], *order["address"])
        say({"ready": order["do"]})
    os._exit(0)  # without the farewell of a stream whose peer has ended too


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(json.loads(sys.argv[1])["loop"])) as runner:
        runner.run(_main())
