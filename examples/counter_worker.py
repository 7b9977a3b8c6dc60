"""One counter for many processes: run this in several terminals, and end any of them.

    python examples/counter_worker.py [NAME]

The first one runs the worker, which has the counter in a file; when that process ends, another one
takes over. Each line on stdin counts one up.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from protomux_wakeup import host


async def main(worker: host.Worker) -> None:
    """The worker: it alone has the file."""
    path = Path(tempfile.gettempdir()) / f"{worker.name}.count"
    count = int(path.read_text()) if path.exists() else 0

    def add(number: int, _session: host.Session) -> int:
        nonlocal count
        count += number
        path.write_text(str(count))
        return count

    worker.respond("add", add)
    await worker.serve()


async def join(name: str) -> None:
    """Any of the processes."""
    async with host.join(
        name,
        "counter_worker:main",
        on_leader_change=lambda client: print("the worker is", client.worker_pid, flush=True),
    ) as client:
        print("the worker is", client.worker_pid, "- leading" * client.is_leader, flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while await lines.readline():
            print(await client.call("add", 1), flush=True)


if __name__ == "__main__":
    asyncio.run(join(sys.argv[1] if len(sys.argv) > 1 else "counter"))
