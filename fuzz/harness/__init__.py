"""What Atheris feeds: one module for each target, each with

    run(data)     one execution; raises for a finding, and for nothing else
    MAX_SIZE      bytes of an input beyond which nothing new can be reached
    OPS           what the steps of its inputs mean where those are scripts (see `script`), or None

None of them knows Atheris: the tests run them over the corpus without it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol, cast

__all__ = ["TARGETS", "Harness", "load"]

TARGETS: Final = (
    "encoding",
    "frames",
    "mux",
    "wakeup",
    "noise",
    "secret",
    "dissect",
    "udx_packet",
    "udx_stream",
)
"""Names of the targets, which are the modules of this package that have a `run`."""


class Harness(Protocol):
    """One of the modules."""

    MAX_SIZE: int
    OPS: type[IntEnum] | None

    def run(self, data: bytes) -> None: ...


def load(target: str) -> Harness:
    """Import the harness of `target`, and with it what it tests."""
    from importlib import import_module

    return cast(Harness, import_module(f"fuzz.harness.{target}"))
