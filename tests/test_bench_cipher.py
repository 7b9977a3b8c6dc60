"""The bench of the cipher does its work; what it measures is nobody's test."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from bench.cipher import crossover, text
from protomux.streams.secretstream import CROSSOVER


async def bench(*options: str) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "cipher", "--rounds", "1", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    return process.returncode, out or error


async def test_each_size_is_measured_both_ways_on_both_backends() -> None:
    code, out = await bench("--sizes", "1000", "0", "--json")
    assert code == 0
    report = json.loads(out)
    assert [row["size"] for row in report["sizes"]] == [0, 1000]
    for row in report["sizes"]:
        for way in ("encrypt", "decrypt"):
            assert row[way].keys() == {"libsodium", "OpenSSL"}
            assert all(took > 0 for took in row[way].values())
    assert report["in_use"] == CROSSOVER
    assert "1,000" in text(report)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--sizes", "-1"], "expected a size of 0 bytes or more, got -1"),
        (["--rounds", "0"], "expected 1 or more, got 0"),
    ],
)
async def test_wrong_options_are_named(options: list[str], complaint: str) -> None:
    code, out = await bench(*options)
    assert code == 2
    assert complaint in out.decode()


@pytest.mark.parametrize(
    ("leads", "found"),
    [
        ([3, 1, -1, -3], 150),
        ([3, -1, 1, -1], 250),  # the last time counts: what came before was the machine's noise
        ([3, 2, 1, 0], 300),
        ([1, 1, 1, 1], None),
        ([-1, -1, -1, -1], None),
    ],
)
def test_the_crossover_lies_between_the_sizes(leads: list[float], found: int | None) -> None:
    rows = [
        {"size": 100 * index, "encrypt": {"libsodium": 10.0, "OpenSSL": 10.0 + lead}}
        for index, lead in enumerate(leads)
    ]
    assert crossover(rows, "encrypt") == found
