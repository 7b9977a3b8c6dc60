"""How costs grow: the work is done at every size, and the exponent is that of the line."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bench.growth import KINDS, exponent
from tests.bench_command import bench_document


@pytest.mark.parametrize(("power", "expected"), [(0.0, 1.0), (1.0, 2.0), (-0.5, 0.5)])
def test_the_exponent_is_that_of_the_whole(power: float, expected: float) -> None:
    each = {size: 3e-6 * size**power for size in (300, 3_000, 30_000)}
    assert exponent(each) == pytest.approx(expected)


async def test_everything_grows_at_three_sizes(tmp_path: Path) -> None:
    options = ("growth", "--scale", "0.05", "--rounds", "2", "--plot", str(tmp_path))
    document = await bench_document(*options)
    assert [kind["name"] for kind in document["kinds"]] == list(KINDS)
    for kind in document["kinds"]:
        assert [size["size"] for size in kind["sizes"]] == KINDS[kind["name"]].sizes(0.05)
        for size in kind["sizes"]:
            assert len(size["seconds"]) == len(size["cpu"]) == len(size["own"]) == 2
            assert all(seconds > 0 for seconds in size["seconds"])
            assert all(0 < own <= cpu for own, cpu in zip(size["own"], size["cpu"], strict=True))
            assert size["bytes"] > 0
        time = kind["exponent"]["time"]
        assert time["min"] <= time["median"] <= time["max"]
        assert kind["met"] is (
            time["median"] <= document["bar"] and kind["exponent"]["memory"] <= document["bar"]
        )
    assert sorted(os.listdir(tmp_path)) == ["growth.png", "growth.svg"]


async def test_only_what_was_asked_for_grows() -> None:
    command = ("-m", "bench", "growth", "codec", "--scale", "0.01", "--rounds", "1")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    table = out.decode().partition("\n\n")[0]
    assert "codec" in table
    assert not any(name in table for name in KINDS if name != "codec")
