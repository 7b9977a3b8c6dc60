"""The benches do their work; what they measure is nobody's test."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.interop.harness import missing


@pytest.mark.parametrize("options", [[], ["--tcp", "--answer"], ["--memory"]])
async def test_open_counts_what_it_opened(options: list[str]) -> None:
    command = ["-m", "bench", "open", "--sizes", "10", "20", "--rounds", "2", "--json", *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(out)
    assert [size["topics"] for size in report["sizes"]] == [10, 20]
    for size in report["sizes"]:
        for what in ("open", "close"):
            figures = size[what]
            assert 0 < figures["min"] <= figures["median"] <= figures["max"]
        assert ("bytes" in size) is ("--memory" in options)


@pytest.mark.parametrize("victim", ["python", "node"])
async def test_attacks_tells_what_came_of_each(victim: str) -> None:
    if victim == "node" and (reason := missing()) is not None:
        pytest.skip(reason)
    names = ["number-0", "wrong-proof", "names-not-utf8"]
    command = ["-m", "bench", "attacks", "--victim", victim, "--only", *names, "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    rows = {row["attack"]: row for row in json.loads(out)["rows"]}
    assert rows.keys() == set(names)
    assert rows["number-0"]["got"] == "destroyed"
    assert rows["wrong-proof"]["got"] == "channel closed: 1"
    assert rows["names-not-utf8"]["applies"] is (victim == "python")
    for row in rows.values():
        assert row["victim"] == victim
        assert row["not_held"] == []
        if row["applies"]:
            assert row["asked"] > 0
            assert 0 < row["median"] <= row["worst"]
