"""The event loops that the benches can run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

__all__ = ["LOOPS", "default_loop", "loop_factory"]

LOOPS: Final = ("asyncio", "uvloop")


def default_loop() -> str:
    """Return the name of the loop to use: uvloop where it is installed."""
    return "asyncio" if find_spec("uvloop") is None else "uvloop"


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of that name."""
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
