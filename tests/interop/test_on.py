"""Commands that run when the original announces. The Node twin is in cases/on.mjs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from protomux.crypto import discovery_key
from protomux_wakeup.cli.keys import write_secret
from tests.protomux_wakeup.cli.command import Command, started
from tests.protomux_wakeup.host.backends import journal
from tests.protomux_wakeup.host.members import until_empty

from .harness import Way, interop, place
from .twin import Peer

CAPABILITY = b"\6" * 32
KEY = b"\3" * 32
LIMIT = 60
MOST = 1000


async def ended(command: Command) -> dict[str, Any]:
    """Return the state of the next backend that has ended."""
    while True:
        state: dict[str, Any] = (await command.until("backend"))["state"]
        if state["status"] == "terminated":
            return state


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@interop(ways=[Way(initiator=True, opener=True)], limit=LIMIT)
async def test_a_command_runs_when_we_announce(peer: Peer) -> None:
    topic = discovery_key(CAPABILITY).hex()
    with place() as path:
        out, secret = path / "out", path / "capability"
        write_secret(secret, CAPABILITY, replace=False)
        async with started(
            "on",
            str(secret),
            *("--json", "--idle", "4", "--connect", f"127.0.0.1:{await peer.port()}"),
            *("--directory", str(path / "run"), "--state", str(path / "state")),
            *("--", sys.executable, "-S", journal.__file__, str(out)),
        ) as on:
            assert (await on.until("watching"))["topic"] == topic
            await on.until("connected")
            assert not out.exists()  # nothing ran before
            peer.tell("rounds", 3)
            peer.tell("announce", [[[KEY.hex(), 4]]])
            assert (await ended(on))["exit_error"] is False
            (start, hint, end) = lines(out)
            assert [start[0], hint, end[0]] == ["start", ["hint", KEY.hex(), "4"], "end"]
            # The same length once more is nothing; then a longer one.
            peer.tell("announce", [[[KEY.hex(), 4]], [[KEY.hex(), 5]]])
            await ended(on)
            assert lines(out)[4] == ["hint", KEY.hex(), "5"]
            assert len(lines(out)) == 6
            # A thousand in a burst, of a hundred logs.
            burst = [[[f"{n % 100:064x}", 1 + n // 100]] for n in range(MOST)]
            peer.tell("announce", burst)
            await ended(on)
            told = lines(out)[6:]
            assert [words[0] for words in told if words[0] != "hint"] == ["start", "end"]
            newest = {words[1]: words[2] for words in told if words[0] == "hint"}
            assert newest == {f"{n:064x}": "10" for n in range(100)}
            on.signal(signal.SIGINT)
            rest, _ = await on.ends(130)
            assert not [each for each in map(json.loads, rest.splitlines()) if "state" in each]
        peer.tell("done")
        await asyncio.wait_for(until_empty(path / "run"), LIMIT)
