"""A process with the service, for tests that end some: `python -m tests...service_member`.

Its arguments are the host's directory, the watcher's name and options of `join`. It reads calls
of a `ServiceClient` as JSON lines, [id, name, ...], and answers each with {"id", "result"}: bytes
are hex digits. "next" iterates over the hints, "worker" is the pid of the worker. It leaves the
host at the end of stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from protomux_wakeup import host
from protomux_wakeup.host.limits import Limits

from .members import QUICK


async def perform(service: host.ServiceClient, hints: Any, name: str, *arguments: Any) -> Any:
    match name, arguments:
        case "next", ():
            _, key, length = await anext(hints)
            return [key.hex(), length]
        case "watch", (capability,):
            return (await service.watch(bytes.fromhex(capability))).hex()
        case "announce", (capability, writers):
            return await service.announce(
                bytes.fromhex(capability), [(bytes.fromhex(key), length) for key, length in writers]
            )
        case "worker", ():
            return service.client.worker_pid
        case _:
            return await getattr(service, name)(*arguments)


async def main(directory: str, watcher: str, options: str) -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    async with host.join(
        "test",
        watcher=watcher or None,
        directory=directory,
        **json.loads(options),
        limits=Limits(**QUICK),  # type: ignore[arg-type]
    ) as service:
        hints = service.hints()
        print(json.dumps({"event": "joined", "leads": service.client.is_leader}), flush=True)
        while line := await stdin.readline():
            id, name, *arguments = json.loads(line)
            result = await perform(service, hints, name, *arguments)
            print(json.dumps({"id": id, "result": result}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
