"""Many runs in several processes, and how far they are. Knows nothing of what they are."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

__all__ = ["run_all"]

_CHUNK: Final = 20
"""Runs that a process takes at a time."""

_SHOWN: Final = 50
"""Runs between two lines on a terminal."""

ItemT = TypeVar("ItemT")
FoundT = TypeVar("FoundT")


def run_all(run: Callable[[ItemT], FoundT], items: Sequence[ItemT], jobs: int) -> Iterator[FoundT]:
    """Yield what `run` returns for each item, in order; tell a terminal how far it is."""
    is_shown = sys.stderr.isatty()
    try:
        for done, found in enumerate(_run_all(run, items, jobs), 1):
            yield found
            if is_shown and done % _SHOWN == 0:
                print(f"\r{done} of {len(items)}", end="", file=sys.stderr, flush=True)
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _run_all(run: Callable[[ItemT], FoundT], items: Sequence[ItemT], jobs: int) -> Iterator[FoundT]:
    if jobs == 1:
        yield from map(run, items)
        return
    # Ctrl-C reaches all of them: they leave it to the one that started them.
    ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs, *ignore) as pool:
        yield from pool.imap(run, items, _CHUNK)
