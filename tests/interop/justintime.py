"""A process that meets others over jitpc: the twin of justintime.mjs, with the same commands."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from protomux_wakeup.host.errors import RemoteError
from protomux_wakeup.host.jitpc import Client, Limits, Server, connect, listen


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Failure(Exception):
    def __init__(self, code: str) -> None:
        super().__init__("it failed there")
        self.code = code


def serve(client: Client) -> None:
    async def echo(params: Any) -> Any:
        return params

    def fail(code: str) -> None:
        raise Failure(code)

    async def later(params: Any) -> Any:
        await asyncio.sleep(0.05)
        return params

    client.respond("echo", echo)
    client.respond("who", lambda _: client.id)
    client.respond("fail", fail)
    client.respond("ask back", lambda asked: client.request(asked["method"], asked["params"]))
    client.respond("later", later)


def fail_to_spin_down() -> None:
    raise RuntimeError("spindown failed")


SPINDOWNS: dict[str, Callable[[], object] | None] = {
    "count": lambda: say({"spun": "down"}),
    "fail": fail_to_spin_down,
    "none": None,
}


def limits_of(options: dict[str, Any]) -> Limits:
    size = options.get("line_size")
    return Limits() if size is None else Limits(line_size=size)


class Commands:
    """What is asked on stdin, by name."""

    def __init__(self) -> None:
        self.client: Client
        self.tasks: set[asyncio.Task[None]] = set()

    async def listen(self, id: str, **options: Any) -> dict[str, Any]:
        spindown = options.get("spindown", "off")
        server = await listen(
            id,
            on_client=serve,
            spindown=False if spindown == "off" else SPINDOWNS[spindown],
            spindown_timeout=options.get("seconds", 5),
            limits=limits_of(options),
        )
        if server is None:
            return {"listening": False}
        task = asyncio.create_task(self._watch(server))
        self.tasks.add(task)
        return {"listening": True}

    async def _watch(self, server: Server) -> None:
        try:
            await server.wait_closed()
        except RuntimeError as error:
            say({"failed": str(error)})
        else:
            say({"closed": server.id})

    async def connect(self, id: str, **options: Any) -> dict[str, Any]:
        spun = 0

        async def spinup() -> None:
            nonlocal spun
            spun += 1
            if options.get("spinup") is None:
                return
            child = await asyncio.create_subprocess_exec(
                *options["spinup"], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            self.child = child
            if options.get("waits"):
                assert child.stdout is not None
                await child.stdout.readline()

        self.client = connect(id, spinup=spinup, limits=limits_of(options))
        self.client.respond("double", lambda number: 2 * number)
        try:
            await self.client.wait_connected()
        except OSError as error:
            code = "ENOENT" if isinstance(error, FileNotFoundError) else "ECONNREFUSED"
            return {"connected": False, "code": code, "spun": spun}
        return {"connected": True, "code": None, "spun": spun}

    async def request(self, method: str, params: Any = None) -> dict[str, Any]:
        try:
            return {"result": await self.client.request(method, params)}
        except RemoteError as error:
            has_stack = error.stack is not None
            return {"message": error.message, "code": error.code, "has_stack": has_stack}

    async def long(self, size: int) -> dict[str, Any]:
        return {"size": len(await self.client.request("echo", "x" * size))}

    async def crowd(self, id: str, clients: int, requests: int) -> dict[str, Any]:
        async def one() -> int:
            async with connect(id) as client:
                asked = [client.request("echo", each) for each in range(requests)]
                answers = await asyncio.gather(*asked)
            return sum(answer == each for each, answer in enumerate(answers))

        return {"answered": sum(await asyncio.gather(*(one() for _ in range(clients))))}

    async def end_with(self, method: str, params: Any) -> dict[str, Any]:
        answer = self.client.request(method, params)
        self.client.end()
        return {"result": await answer}

    async def end(self) -> dict[str, Any]:
        self.client.end()
        return {}

    async def memory(self) -> dict[str, Any]:
        """The most bytes that this process has had so far; only here."""
        return {"bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    async def obey(self, line: str | bytes) -> None:
        options = json.loads(line)
        say(await getattr(self, options.pop("do"))(**options))


async def main() -> None:
    commands = Commands()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    if len(sys.argv) > 1:
        await commands.obey(sys.argv[1])
    else:
        say({"ready": True})
    while line := await lines.readline():
        task = asyncio.create_task(commands.obey(line))
        commands.tasks.add(task)
    os._exit(0)  # what is left to be closed is left as Node leaves it


if __name__ == "__main__":
    asyncio.run(main())
