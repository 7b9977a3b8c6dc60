"""Flows between programs, through a relay or straight. Knows no rounds and no report.

Every sender, every receiver and the relay is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.program import ROOT, Program
from bench.udx.scenes import PAIRS, Fairness, Path, Scene
from bench.workload import Failed

__all__ = ["SECONDS", "Circumstances", "Share", "Transfer", "share", "transfer"]

LATER: Final = 1.0
SECONDS: Final = 30.0
SETTLING: Final = 0.1
"""See `Fairness`. Three seconds are enough for the start-up of BBR on 40 ms; that a flow learns the
path's own delay once the other makes room, every ten seconds, is part of what is measured."""

_COMMANDS: Final = {
    "py": (sys.executable, "-m", "bench.peers.udx"),
    "node": ("node", str(ROOT / "bench" / "peers" / "udx.mjs")),
}
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Circumstances:
    """What is the same for all flows of a round.

    Attributes:
        loop: the event loop of the Python programs.
        queue: bandwidth-delay products that a bottleneck's queue holds.
        seed: of the relay.
    """

    loop: str
    queue: float
    seed: int


@dataclass(frozen=True)
class Transfer:
    """What came of one transfer.

    Attributes:
        goodput: bytes a second.
        cpu: seconds of the sender and of the receiver.
        relay: the counters of the relay; None without one.
    """

    goodput: float
    cpu: tuple[float, float]
    relay: Mapping[str, Any] | None


@dataclass(frozen=True)
class Share:
    """What two flows made of one bottleneck: the goodput of each, and Jain's index of the two."""

    goodputs: tuple[float, float]
    relay: Mapping[str, Any] | None

    @property
    def index(self) -> float:
        """From 1/2, where one has all, to 1, where both have the same."""
        one, other = self.goodputs
        return (one + other) ** 2 / (2 * (one**2 + other**2)) if one or other else 0.0


class _Flow:
    """One sender and one receiver, whose addresses are known."""

    def __init__(self, sender: Program, receiver: Program, a: list[Any], b: list[Any]) -> None:
        self.sender = sender
        self.receiver = receiver
        self.a, self.b = a, b

    async def begin(self, left: list[Any], right: list[Any], count: int | None) -> None:
        """Connect both and begin to send `count` bytes; `left` is where the sender sends to."""
        for program, order, address, ids in (
            (self.receiver, "receive", right, (2, 1)),
            (self.sender, "send", left, (1, 2)),
        ):
            id, remote_id = ids
            where = {"address": address, "id": id, "remote_id": remote_id}
            program.say({"do": order, **where, "bytes": count})
            if (line := await program.hear()) != {"ready": order}:
                raise Failed(f"{program.name}: expected it to {order}, got {line}")


@asynccontextmanager
async def _flows(
    series: Sequence[str], path: Path | None, given: Circumstances
) -> AsyncIterator[tuple[list[_Flow], list[Any], Program | None]]:
    """Start the programs; yield the flows, where they send to, and the relay."""
    async with AsyncExitStack() as stack:
        flows = []
        for each in series:
            ends = []
            for role, language in zip(("sender", "receiver"), PAIRS[each], strict=True):
                command = (*_COMMANDS[language], json.dumps({"loop": given.loop}))
                program = Program.started(f"the {role} ({language})", command)
                ends.append(await stack.enter_async_context(program))
            a, b = [[_HOST, (await end.hear())["port"]] for end in ends]
            flows.append(_Flow(ends[0], ends[1], a, b))
        if path is None:
            yield flows, [{"left": flow.b, "right": flow.a} for flow in flows], None
            return
        lanes = [{"a": flow.a, "b": flow.b} for flow in flows]
        options = {"there": path.options(given.queue), "lanes": lanes, "seed": given.seed}
        command = (sys.executable, "-m", "tests.relay", json.dumps(options))
        relay = await stack.enter_async_context(Program.started("the relay", command))
        yield flows, (await relay.hear())["lanes"], relay


async def _counters(relay: Program | None) -> dict[str, Any] | None:
    if relay is None:
        return None
    relay.say({})
    return await relay.hear()


async def _result(program: Program) -> dict[str, Any]:
    result: dict[str, Any] = (await program.hear())["result"]
    return result


async def transfer(scene: Scene, series: str, count: int, given: Circumstances) -> Transfer:
    """Send `count` bytes once."""
    async with _flows([series], scene.path, given) as ((flow,), (lane,), relay):
        await flow.begin(lane["left"], lane["right"], count)
        received = await _result(flow.receiver)
        flow.sender.say({"do": "stop"})
        sent = await _result(flow.sender)
        relayed = await _counters(relay)
    if not sent["count"] == received["count"] == count:
        raise Failed(f"expected {count} bytes, got {sent['count']} and {received['count']}")
    seconds = (received["ended"] - sent["began"]) / 1e9
    return Transfer(count / seconds, (sent["cpu"], received["cpu"]), relayed)


async def share(scene: Fairness, flipped: bool, seconds: float, given: Circumstances) -> Share:
    """Let two flows run side by side; `flipped`: the second of the scene begins."""
    series = scene.flows[::-1] if flipped else scene.flows
    async with _flows(series, scene.path, given) as (flows, lanes, relay):
        for flow, lane in zip(flows, lanes, strict=True):
            if flow is not flows[0]:
                await asyncio.sleep(LATER)
            await flow.begin(lane["left"], lane["right"], None)
        await asyncio.sleep(seconds * (1 + SETTLING) + 0.5)
        sent, received = [], []
        for flow in flows:
            flow.sender.say({"do": "stop"})
            flow.receiver.say({"do": "stop"})
            sent.append(await _result(flow.sender))
            received.append(await _result(flow.receiver))
        relayed = await _counters(relay)
    begin = max(each["began"] for each in sent) + seconds * SETTLING * 1e9
    one, other = (
        (_count_at(each["samples"], begin + seconds * 1e9) - _count_at(each["samples"], begin))
        / seconds
        for each in received
    )
    return Share((other, one) if flipped else (one, other), relayed)


def _count_at(samples: Sequence[Sequence[int]], time: float) -> float:
    """Return how many bytes had come at `time`, on the line between the samples around it."""
    after = bisect_right(samples, time, key=lambda sample: sample[0])
    if not 0 < after < len(samples):
        raise Failed(f"expected samples around {time:.0f} ns, got none on one side")
    (first, few), (last, many) = samples[after - 1 : after + 1]
    return few + (many - few) * (time - first) / (last - first)
