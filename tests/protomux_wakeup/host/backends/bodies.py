"""A large body through a proxy in a process of its own, and by how much its memory rises.

`python -m tests.protomux_wakeup.host.backends.bodies --gib` sends 1 GiB each way and prints what it
took.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from typing import Final

from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.serving import proxying

from .raw_http import Client, OneRoute, request

RISE: Final = 24
"""MiB by which the memory of the process may rise: a fraction of any body that is sent."""

_MIB: Final = 1024 * 1024
_PIECE: Final = bytes(range(256)) * (_MIB // 256)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer GET /N with N MiB, and what else comes with the number of its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    method, target, _ = head.split(b" ", 2)
    if method == b"GET":
        count = int(target[1:])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * _MIB))
        for _ in range(count):
            writer.write(_PIECE)
            await writer.drain()
    else:
        left = size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while left:
            left -= len(await reader.read(_MIB))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n%020d" % size)
        await writer.drain()
    writer.close()


async def _transfer(url: str, way: str, mebibytes: int) -> None:
    async with Client.to(url) as client:
        if way == "down":
            await client.send(request(f"/{mebibytes}"))
            await client.reader.readuntil(b"\r\n\r\n")
            left = mebibytes * _MIB
            while left:
                data = await client.reader.read(_MIB)
                assert data, f"cut with {left} bytes to go"
                left -= len(data)
        else:
            size = mebibytes * _MIB
            await client.send(request("/", f"Content-Length: {size}", method="PUT"))
            for _ in range(mebibytes):
                await client.send(_PIECE)
            assert (await client.answer()).body == b"%020d" % size


async def in_its_own_process(way: str, *, mebibytes: int) -> float:
    """Send a body `way` "up" or "down"; return by how many MiB the proxy's memory has risen."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __spec__.name, "--serve", host, str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = (await process.stdout.readline()).decode().strip()
            await _transfer(url, way, 4)  # all that is imported later, and the first buffers
            process.stdin.write(b"\n")
            before = float(await process.stdout.readline())
            await _transfer(url, way, mebibytes)
            process.stdin.write(b"\n")
            return float(await process.stdout.readline()) - before
        finally:
            process.kill()
            await process.wait()


async def _proxy(host: str, port: int) -> None:
    async with proxying(OneRoute((host, port)), ("127.0.0.1", 0), HttpLimits()) as url:
        print(url, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


async def _both_ways(mebibytes: int) -> None:
    for way in ("up", "down"):
        start = time.perf_counter()
        rise = await in_its_own_process(way, mebibytes=mebibytes)
        took = time.perf_counter() - start
        print(f"{mebibytes} MiB {way}: {took:.1f} s, memory rose by {rise:.1f} MiB")
        assert rise < RISE


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_proxy(arguments.serve[0], int(arguments.serve[1])))
    else:
        asyncio.run(_both_ways(1024 if arguments.gib else 256))


if __name__ == "__main__":
    main()
