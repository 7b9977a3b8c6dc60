"""One side of one work, in a process of its own. OPTIONS is a JSON object, see `talk`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module

from bench.peers import announces, codec, connects, fanout, held, lookups, opens, raw
from bench.peers.talk import Role, Talk, say

WORKS: dict[str, tuple[Role, Role]] = {
    "announces": (announces.client, announces.listener),
    "lookups": (lookups.client, lookups.listener),
    "fanout": (fanout.client, fanout.listener),
    "opens": (opens.on_one, opens.on_one),
    "opens_on_many": (opens.on_many, opens.on_many),
    "connects": (connects.client, connects.listener),
    "raw": (raw.client, raw.listener),
    "codec": (codec.alone, codec.alone),
    "topics_held": (held.topics, held.topics),
    "peers_held": (held.peers, held.peers),
    "streams_held": (held.streams, held.streams),
}
"""The client and the listener of each work."""


async def main() -> None:
    options = json.loads(sys.argv[1])
    talk = Talk(options)
    await talk.start()
    client, listener = WORKS[options["work"]]
    try:
        await (client if talk.is_client else listener)(talk)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)


def loop_factory() -> asyncio.AbstractEventLoop:
    if json.loads(sys.argv[1])["loop"] == "uvloop":
        loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


with asyncio.Runner(loop_factory=loop_factory) as runner:
    runner.run(main())
