"""The benches do their work; what they measure is nobody's test."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest


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
