"""The client asks over a jitpc socket: one request at a time, then many in flight.

There is no port: what the listener tells instead is its pid, which makes the server's id.
"""

from __future__ import annotations

import os
from time import monotonic_ns
from typing import Any

from bench.peers.talk import Talk, fail, say
from protomux_wakeup.host.jitpc import Client, connect, listen

__all__ = ["client", "listener"]


def _id(pid: int) -> str:
    return f"protomux-bench-{pid}"


class _Asker:
    """Asks, and sums up the answers."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        self.total = 0
        self._client = client

    async def one_by_one(self, count: int) -> None:
        for number in range(count):
            self._note(await self._client.request("echo", {"x": number}), number)

    async def at_once(self, count: int, most: int) -> None:
        for first in range(0, count, most):
            numbers = range(first, min(first + most, count))
            asked = [self._client.request("echo", {"x": number}) for number in numbers]
            for number, answer in zip(numbers, asked, strict=True):
                self._note(await answer, number)

    def _note(self, answer: dict[str, Any], number: int) -> None:
        if answer["x"] != number:
            fail(f"expected {number} again, got {answer}")
        self.count += 1
        self.total += number


async def client(talk: Talk) -> None:
    """Ask."""
    assert talk.port is not None
    count, warm, times, most = (talk.size[name] for name in ("count", "warm", "times", "at_once"))
    async with connect(_id(talk.port)) as connected:
        asker = _Asker(connected)
        await connected.wait_connected()
        await talk.sync("ready")
        await asker.one_by_one(warm)
        await asker.at_once(warm * times, most)
        await talk.sync("warming is over")
        asker.count = asker.total = 0
        await talk.sync("warm", tidy=True)
        talk.begin()
        began = monotonic_ns()
        await asker.one_by_one(count)
        between = monotonic_ns()
        await asker.at_once(count * (times - 1), most)
        ended = monotonic_ns()
        await talk.sync("done")
        talk.end()
    figures = {
        "jitpc sequential": count / ((between - began) / 1e9),
        "jitpc pipelined": count * (times - 1) / ((ended - between) / 1e9),
    }
    talk.finish(asker.count, asker.total, figures)


async def listener(talk: Talk) -> None:
    """Answer."""
    count = total = 0

    def echo(params: Any) -> Any:
        nonlocal count, total
        count += 1
        total += params["x"]
        return params

    server = await listen(
        _id(os.getpid()), on_client=lambda client: client.respond("echo", echo), keep_lock=False
    )
    assert server is not None
    say({"port": os.getpid()})
    await talk.sync("ready")
    await talk.sync("warming is over")
    count = total = 0  # before the barrier: the client begins right behind it
    await talk.sync("warm", tidy=True)
    talk.begin()
    await talk.sync("done")
    talk.end()
    async with server:
        talk.finish(count, total)
