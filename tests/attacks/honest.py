"""An honest peer, which asks one question after the other while somebody else attacks.

    python -m tests.attacks.honest HOST PORT CAPABILITY

It connects, proves the capability, prints a line, and asks until its stdin ends; then it prints
the seconds that each answer took as a JSON list in an object, with what went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from time import perf_counter
from typing import Final

from tests.attacks import wire
from tests.attacks.connection import Connection, Lost, Stalled

__all__ = ["Honest"]

PAUSE: Final = 0.02
"""Seconds between an answer and the next question: an honest peer is in no hurry."""
PATIENCE: Final = 60.0
LOGS: Final = 100


class Honest(Connection):
    """A peer of the victim's topic.

    Attributes:
        latencies: seconds from each lookup to its announce.
        wrong: answers that were not the victim's.
    """

    latencies: list[float]
    wrong: int
    _answered: int

    @classmethod
    async def join(cls, host: str, port: int, capability: bytes) -> Honest:
        """Connect, prove the capability, and wait for the first answer."""
        self = await cls.dial(host, port, PATIENCE)
        self.latencies, self.wrong, self._answered = [], 0, 0
        await self.shake()
        self.listen()
        proof = wire.proof(capability, True, self.handshake_hash)
        id = wire.discovery_key(capability)
        await self.send(
            wire.frame(0, wire.opening(1, "wakeup", id, wire.handshake(proof))),
        )
        await self.until(lambda: self.opened > 0)
        await self.ask()
        self.latencies.clear()
        return self

    def message_received(self, channel: int, body: bytes) -> None:
        """An answer, or an info."""
        if body[0] == wire.ANNOUNCE:
            count, _ = wire.read_uint(body, 1)
            self.wrong += count != LOGS
            self._answered += 1

    async def ask(self) -> None:
        """Ask once and wait for the answer; Lost or Stalled where none comes."""
        before = self._answered
        began = perf_counter()
        try:
            await self.send(wire.frame(1, wire.lookup(os.urandom(32))))
            await self.until(lambda: self._answered > before)
        finally:
            self.latencies.append(perf_counter() - began)

    async def ask_on(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(PAUSE)


async def main(host: str, port: int, capability: bytes) -> None:
    """Ask until stdin ends."""
    honest = await Honest.join(host, port, capability)
    loop = asyncio.get_running_loop()
    ended = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    print(json.dumps({"joined": True}), flush=True)
    asking = asyncio.ensure_future(honest.ask_on())
    ending = asyncio.ensure_future(ended.read())
    await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
    error = repr(asking.exception()) if asking.done() else None
    await ending
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError, Lost, Stalled):
        await asking
    honest.leave()
    print(json.dumps({"latencies": honest.latencies, "wrong": honest.wrong, "error": error}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])))
