"""One measurement between two programs, each ours or one of the originals.

Both do the same work in a process of their own, over encrypted streams on loopback TCP. They pass
barriers together, which are relayed here. At the end each tells what it did: the counts must be
those that were asked for, and the checksums of the two the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from bench.program import ROOT, Program
from bench.workload import Failed, Measurement, Setting, Workload

__all__ = ["PAIRINGS", "Pairing", "between"]


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
    pairing = PAIRINGS[setting.series]
    environment = {"PROTOMUX_PURE": "1"} if pairing.is_pure else {}
    options = {
        "work": workload.work,
        "size": dict(setting.size),
        "loop": setting.loop,
        "corked": pairing.is_corked,
    }

    def command(language: str, **role: Any) -> tuple[str, ...]:
        return (*_COMMANDS[language], json.dumps({**options, **role}))

    async with Program.started(
        f"the listener ({pairing.second})", command(pairing.second, port=None), environment
    ) as second:
        port = (await second.hear())["port"]
        async with Program.started(
            f"the client ({pairing.first})", command(pairing.first, port=port), environment
        ) as first:
            return _judge(workload, setting, *await _results(first, second))


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
    where = f"{workload.name} {setting.series}"
    count = prod(setting.size[name] for name in workload.product)
    for result, who in ((first, "client"), (second, "listener")):
        if result["count"] != count:
            raise Failed(f"{where}: expected {count} at the {who}, got {result['count']}")
    if first["check"] != second["check"]:
        raise Failed(
            f"{where}: expected the same checksum on both sides, got {first['check']} at the "
            f"client and {second['check']} at the listener"
        )
    figures = first.get("figures")
    if figures is None:
        nanoseconds = sum(
            max(end for _, end in parts if end is not None)
            - min(start for start, _ in parts if start is not None)
            for parts in zip(first["spans"], second["spans"], strict=True)
        )
        figures = {row.name: count / (nanoseconds / 1e9) for row in workload.rows}
    return Measurement(figures, (first["cpu"], second["cpu"]))
