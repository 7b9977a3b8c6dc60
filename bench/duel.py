"""One measurement between two programs, each ours or one of the originals; or of one by itself.

Two do the same work in a process of their own, over encrypted streams on loopback TCP. They pass
barriers together, which are relayed here. At the end each tells what it did: the counts must be
those that were asked for, and the checksums of the two the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any, Final

from bench.program import ROOT, Program
from bench.workload import Failed, Measurement, Setting, Workload

__all__ = ["PAIRINGS", "Pairing", "alone", "between"]


@dataclass(frozen=True)
class Pairing:
    """Who plays in a series; the first is the client."""

    first: str
    second: str
    is_pure: bool = False
    is_corked: bool = False


PAIRINGS: Final = {
    "py-py": Pairing("py", "py"),
    "node-node": Pairing("node", "node"),
    "pure": Pairing("py", "py", is_pure=True),
    "corked": Pairing("node", "node", is_corked=True),
    "py-node": Pairing("py", "node"),
    "node-py": Pairing("node", "py"),
}

_COMMANDS: Final = {
    "py": (sys.executable, "-m", "bench.peers"),
    "node": ("node", str(ROOT / "bench" / "peers" / "peer.mjs")),
}


async def between(workload: Workload, setting: Setting) -> Measurement:
    """Measure one series of a workload once."""
    async with _started("listener", workload, setting) as second:
        port = (await second.hear())["port"]
        async with _started("client", workload, setting, port) as first:
            return _judge(workload, setting, *await _results(first, second))


async def alone(workload: Workload, setting: Setting) -> tuple[Measurement, int]:
    """Measure what one program does by itself; return its checksum as well."""
    async with _started("listener", workload, setting) as program:
        result = (await program.hear())["result"]
    _check_count(workload, setting, "program", result)
    return Measurement(result["figures"], (result["cpu"],)), result["check"]


def _started(
    role: str, workload: Workload, setting: Setting, port: int | None = None
) -> AbstractAsyncContextManager[Program]:
    pairing = PAIRINGS[setting.series]
    language = pairing.second if port is None else pairing.first
    options = {
        "work": workload.work,
        "size": dict(setting.size),
        "loop": setting.loop,
        "corked": pairing.is_corked,
        "port": port,
    }
    return Program.started(
        f"the {role} ({language})",
        (*_COMMANDS[language], json.dumps(options)),
        {"PROTOMUX_PURE": "1"} if pairing.is_pure else {},
    )


async def _results(first: Program, second: Program) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take both through their barriers; return what they say at the end."""
    while True:
        one, other = await asyncio.gather(first.hear(), second.hear())
        if "result" in one and "result" in other:
            return one["result"], other["result"]
        if "sync" not in one or one != other:
            raise Failed(f"expected both at the same barrier, got {one} and {other}")
        for program in (first, second):
            program.say(one)


def _judge(
    workload: Workload, setting: Setting, first: Mapping[str, Any], second: Mapping[str, Any]
) -> Measurement:
    count = _check_count(workload, setting, "client", first)
    _check_count(workload, setting, "listener", second)
    if first["check"] != second["check"]:
        raise Failed(
            f"{workload.name} {setting.series}: expected the same checksum on both sides, "
            f"got {first['check']} at the client and {second['check']} at the listener"
        )
    told = [result["figures"] for result in (first, second) if result.get("figures") is not None]
    if told:
        figures = {name: fmean(each[name] for each in told) for name in told[0]}
    else:
        nanoseconds = sum(
            max(end for _, end in parts if end is not None)
            - min(start for start, _ in parts if start is not None)
            for parts in zip(first["spans"], second["spans"], strict=True)
        )
        figures = {row.name: count / (nanoseconds / 1e9) for row in workload.rows}
    return Measurement(figures, (first["cpu"], second["cpu"]))


def _check_count(workload: Workload, setting: Setting, who: str, result: Mapping[str, Any]) -> int:
    """Return how much the work was; fail unless `who` did so much."""
    count = prod(setting.size[name] for name in workload.product)
    if result["count"] != count:
        raise Failed(
            f"{workload.name} {setting.series}: expected {count} at the {who}, "
            f"got {result['count']}"
        )
    return count
