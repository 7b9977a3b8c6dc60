"""A process that joins a host, for tests that end some: `python -m tests...member DIR WORKER`.

It reads commands as JSON lines, [id, name, ...], and answers each with {"id", "result" | "error"};
what happens unasked it tells as {"event": ...}. It leaves the host at the end of stdin.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import sys
import time
from typing import Any

from protomux_wakeup import host
from protomux_wakeup.host.limits import Limits

from .workers import CAPABILITY


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


async def stamps(client: host.Client) -> None:
    """Call the worker again and again; tell when another one answers."""
    last = None
    while True:
        stamp = await client.call("stamp", idempotent=True, timeout=None)
        if stamp != last:
            last = stamp
            say(event="served", at=time.monotonic(), **stamp)
        await asyncio.sleep(0.05)


async def wake(client: host.Client, watcher: str, address: str) -> None:
    """Use the service: announce a log that grows, and tell which hints come."""
    service = host.ServiceClient(client, watcher)
    key = hashlib.sha256(watcher.encode()).digest()
    await service.watch(CAPABILITY)
    await service.connect(address)

    async def announce() -> None:
        for length in itertools.count(time.time_ns() // 1_000_000):
            await service.announce(CAPABILITY, [(key, length)])
            say(event="announced", key=key.hex(), length=length)
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(announce())
        async for hint in service.hints():
            say(event="hint", key=hint.key.hex(), length=hint.length)


async def perform(client: host.Client, id: int, name: str, *arguments: Any) -> None:
    try:
        if name == "call":
            result = await client.call(*arguments)
        elif name == "insist":
            result = await client.call(*arguments, idempotent=True)
        else:
            assert name == "state", name
            result = {
                "id": client.id,
                "leads": client.is_leader,
                "leader": client.leader_id,
                "worker": client.worker_pid,
            }
    except Exception as error:
        say(id=id, error=type(error).__name__, message=str(error))
    else:
        say(id=id, result=result)


async def main(directory: str, worker: str, options: str, limits: str) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    async with host.join(
        "test",
        worker,
        directory=directory,
        options=json.loads(options),
        on_leader_change=lambda client: say(event="leader", leader=client.leader_id),
        limits=Limits(**json.loads(limits)),
    ) as client:
        client.respond("begun", lambda _params: say(event="begun"))
        client.respond("told", lambda params: say(event="told", params=params))
        say(event="joined", client=client.id, leads=client.is_leader)
        while line := await stdin.readline():
            id, name, *arguments = json.loads(line)
            if name == "stamps":
                task = loop.create_task(stamps(client))
            elif name == "wake":
                task = loop.create_task(wake(client, *arguments))
            else:
                task = loop.create_task(perform(client, id, name, *arguments))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
    say(event="left")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
