"""The relay as a process: `python -m tests.relay OPTIONS`.

OPTIONS is a JSON object: `there` and `back` (fields of `Relayed`; `back` is as `there` where it is
missing), `seed`, and `lanes`, a list with an object for each, with `a` and `b`, the addresses of
its endpoints as [host, port], where they are known.

It prints one JSON line, {"lanes": [{"left": [host, port], "right": [host, port]}, ...]}, and
another with its counters for each line that it reads. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any

from tests.relay import Address, Relay, Relayed, loop


def _path(fields: dict[str, Any]) -> Relayed:
    if "blackout" in fields:
        begin, end = fields["blackout"]
        fields = {**fields, "blackout": (begin, end)}
    return Relayed(**fields)


def _address(known: list[Any] | None) -> Address | None:
    return None if known is None else (known[0], known[1])


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def main(options: dict[str, Any]) -> None:
    there = _path(options.get("there", {}))
    back = _path(options["back"]) if "back" in options else None
    lanes = options.get("lanes", [{}])
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async with Relay(there, back, seed=options.get("seed", 0), lanes=len(lanes)) as relay:
        for number, lane in enumerate(lanes):
            relay.know(_address(lane.get("a")), _address(lane.get("b")), number)
        _say({"lanes": [lane._asdict() for lane in relay.lanes]})
        while await lines.readline():
            _say(relay.counters())


gc.disable()  # nothing here makes cycles, and a pass over all that waits would hold it up
with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main(json.loads(sys.argv[1])))
