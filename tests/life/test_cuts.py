"""A connection that is cut after any byte leaves nothing, on either side."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.life.census import Census, leaves_nothing
from tests.life.conversation import Host, visit
from tests.life.relay import Cut, Relay

AT_ONCE = 50
"""Conversations at a time; a census is taken after each such lot."""

HANDSHAKE = 250
"""Bytes: the longest handshake of one side, its header, and the start of its first frame."""


async def converse(pattern: str, cuts: list[Cut | None]) -> tuple[Counter[str], list[list[int]]]:
    """Hold conversations with one host, each over a relay; return how far they came."""
    host = Host()
    await host.start(pattern)
    relays = [Relay(host.port, cut) for cut in cuts]
    stages = Counter(await asyncio.gather(*(visit(relay.port, pattern) for relay in relays)))
    for relay in relays:
        await relay.finished.wait()
    await host.stop()
    return stages, [relay.passed for relay in relays]


async def cut_everywhere(
    pattern: str, *, reset: bool, most: int | None = None, step: int = 1
) -> Counter[str]:
    """Cut after every byte, or every so many bytes, of the first `most` either way."""
    census = Census()
    stages, [passed] = await converse(pattern, [None])
    assert stages == {"announced": 1}
    await census.check("by a whole conversation")
    cuts = [Cut(way, after, reset) for way in (0, 1) for after in range(passed[way])[:most:step]]
    found: Counter[str] = Counter()
    for begin in range(0, len(cuts), AT_ONCE):
        lot = cuts[begin : begin + AT_ONCE]
        stages, _ = await converse(pattern, [*lot])
        found += stages
        await census.check(f"by cuts from {lot[0]} to {lot[-1]}")
    assert found.total() == len(cuts)
    return found


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@leaves_nothing
async def test_a_connection_cut_after_any_byte_leaves_nothing(reset: bool) -> None:
    found = await cut_everywhere("XX", reset=reset)
    assert set(found) == {"refused", "connected", "proven", "announced"}


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("pattern", ["IK", "XK"])
@leaves_nothing
async def test_other_handshakes_cut_after_any_byte_leave_nothing(pattern: str, reset: bool) -> None:
    found = await cut_everywhere(pattern, reset=reset, most=HANDSHAKE)
    assert {"refused", "connected"} <= set(found)


@leaves_nothing
async def test_asyncio_finds_nothing_to_complain_of() -> None:
    asyncio.get_running_loop().set_debug(True)
    await cut_everywhere("XX", reset=False, step=17)
    await cut_everywhere("XX", reset=True, step=17)
