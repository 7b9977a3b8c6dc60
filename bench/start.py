"""`start`: how much later a command begins when a peer's announce starts it.

A peer announces over a real connection to `protomux-wakeup on`, which runs a command that says what
time it is; between the two are the service, the manager and the monitor, each a process. Beside it,
by turns, the same command is started by this process, as bare as can be. What is compared are the
times from the announce, or the start, to the command's first line; nothing runs before each.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from protomux.streams import SecretStream, start_server
from protomux_wakeup import Lookup, Peer, Session, Wakeup

__all__ = ["add_parser"]

CAPABILITY: Final = b"\x07" * 32
KEY: Final = b"\x08" * 32
COMMAND: Final = ("date", "+%s%N")
REST: Final = 1.0
"""Seconds before each round: the monitor of the next command waits by then, as it does mostly."""
BAR: Final = 20.0
"""Milliseconds that the median of what is added may be."""
LIMIT: Final = 60.0
"""Seconds after which something is wrong."""


def add_parser(subparsers: Any) -> None:
    """Add the bench to the command line."""
    parser = subparsers.add_parser("start", help="from an announce to the command's first line")
    parser.add_argument("--rounds", type=int, default=60, help="of each kind (default: 60)")
    parser.set_defaults(run=lambda arguments: asyncio.run(_run(arguments.rounds)))


async def _run(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
    try:
        bare, woken = await _measure(place, rounds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    added = [late - early for late, early in zip(woken, bare, strict=True)]
    for name, found in (("bare", bare), ("announced", woken), ("difference", added)):
        cuts = statistics.quantiles(found, n=100, method="inclusive")
        print(
            f"{name:10}  median {statistics.median(found):6.2f} ms  p99 {cuts[98]:6.2f} ms  "
            f"min {min(found):6.2f}  max {max(found):6.2f}  n {len(found)}"
        )
    median = statistics.median(added)
    print(f"bar: median of the difference <= {BAR:g} ms: {'met' if median <= BAR else 'MISSED'}")


async def _measure(place: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return the times of both kinds, in milliseconds."""
    length = 0
    came = asyncio.Event()

    def on_lookup(_lookup: Lookup, peer: Peer, session: Session) -> None:
        session.announce(peer, [(KEY, length)] if length else [])
        came.set()

    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY, on_lookup=on_lookup)

    def let_in(stream: SecretStream) -> None:
        wakeup.add_stream(stream)

    server = await start_server(let_in, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    times = place / "times"
    times.touch()
    process = await _on(place, port, times)
    try:
        async with asyncio.timeout(LIMIT):
            await came.wait()
        bare, woken = [], []
        for _ in range(rounds):
            await asyncio.sleep(REST)
            bare.append(await _start_bare())
            length += 1
            begun = time.time_ns()
            session.broadcast_announce([(KEY, length)])
            await _until_terminated(process)
            woken.append((int(times.read_text().splitlines()[-1]) - begun) / 1e6)
    finally:
        process.terminate()
        await process.communicate()
        server.close()
        await server.wait_closed()
        wakeup.destroy()
    return bare, woken


async def _on(place: Path, port: int, times: Path) -> asyncio.subprocess.Process:
    secret = place / "capability"
    secret.touch(mode=0o600)
    secret.write_text(CAPABILITY.hex())
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "protomux_wakeup",
        "on",
        str(secret),
        "--json",
        *("--directory", str(place / "run"), "--state", str(place / "state")),
        *("--connect", f"127.0.0.1:{port}"),
        "--",
        *("sh", "-c", f"exec {' '.join(COMMAND)} >> {times}"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


async def _start_bare() -> float:
    begun = time.time_ns()
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"exec {' '.join(COMMAND)}", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return (int(said) - begun) / 1e6


async def _until_terminated(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "backend" and event["state"]["status"] == "terminated":
                assert event["state"].get("exit_error") is False, event
                return
    raise RuntimeError("protomux-wakeup on has ended")
