"""A short soak holds its conversations and leaves nothing; how flat it is takes longer to say."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest


async def start(*options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench", "soak", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_soak_talks_and_leaves_nothing() -> None:
    process = await start("--streams", "20", "--seconds", "3", "--json")
    async with asyncio.timeout(90):
        out, progress = await process.communicate()
    report = json.loads(out)
    assert report["streams"] == 20
    assert len(report["memory"]["series"]) == 3
    assert report["done"]["polite"] > 0
    assert report["answered"] > 0
    assert report["errors"] == report["logged"] == {}
    assert set(report["left"].values()) == {0}
    assert report["is_clean"]
    assert process.returncode == (0 if report["memory"]["is_flat"] else 1)
    assert b"3 s" in progress


async def test_an_interrupted_soak_ends_its_processes() -> None:
    process = await start("--streams", "20", "--seconds", "60")
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stderr.readline()  # the first progress
        process.send_signal(signal.SIGINT)
        # The pipes end when nobody has them any more, so also no child.
        await process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("streams", [10**9])
async def test_too_many_streams_are_refused_in_words(streams: int) -> None:
    process = await start("--streams", str(streams), "--seconds", "1")
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert b"open files" in err
