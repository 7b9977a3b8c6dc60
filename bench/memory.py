"""What a process has resident for a topic, a peer and a stream; each measured by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.duel import between
from bench.workload import Measurement, Setting, Workload

__all__ = ["measure"]

_WORKS: Final = {"topics_held": "topics", "peers_held": "topics", "streams_held": "streams"}
"""The works of `peers.held`, and the number that each holds."""


async def measure(workload: Workload, setting: Setting) -> Measurement:
    """Let two processes hold each in turn; a figure is the mean of the two."""
    figures: dict[str, float] = {}
    for work, number in _WORKS.items():
        part = replace(workload, work=work, product=(number,))
        figures.update((await between(part, setting)).figures)
    return Measurement(figures)
