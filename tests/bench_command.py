"""Runs `python -m bench` for its tests. Knows no bench."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

__all__ = ["bench_document"]

LIMIT = 120.0
"""Seconds for one run."""


async def bench_document(*options: str) -> dict[str, Any]:
    """Run the command to its end, which must be a good one, and return its JSON document."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *options, "--json"), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    document: dict[str, Any] = json.loads(out)
    return document
