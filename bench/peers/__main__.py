"""One side of one work, in a process of its own. OPTIONS is a JSON object, see `talk`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from bench.loops import loop_factory
from bench.peers import announces, codec, connects, fanout, held, jitpc, lookups, opens, raw
from bench.peers.talk import Role, Talk, say

WORKS: dict[str, tuple[Role, Role]] = {
    "announces": (announces.client, announces.listener),
    "lookups": (lookups.client, lookups.listener),
    "fanout": (fanout.client, fanout.listener),
    "opens": (opens.on_one, opens.on_one),
    "opens_on_many": (opens.on_many, opens.on_many),
    "connects": (connects.client, connects.listener),
    "raw": (raw.client, raw.listener),
    "jitpc": (jitpc.client, jitpc.listener),
    "codec": (codec.alone, codec.alone),
    "topics_held": (held.topics, held.topics),
    "peers_held": (held.peers, held.peers),
    "streams_held": (held.streams, held.streams),
}
"""The client and the listener of each work."""


async def main(options: dict[str, Any]) -> None:
    talk = Talk(options)
    await talk.start()
    client, listener = WORKS[options["work"]]
    try:
        await (client if talk.is_client else listener)(talk)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)


options = json.loads(sys.argv[1])
with asyncio.Runner(loop_factory=loop_factory(options["loop"])) as runner:
    runner.run(main(options))
