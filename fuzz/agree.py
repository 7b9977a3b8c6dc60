"""Compares the two declarations of the wire: the fast codec, and `protomux.dissect`.

For each format in turn it makes a random value, and asks both to write it and to read it back;
then it changes the bytes, and asks both to read those. They agree when the bytes are the same,
and when both read the same value to the same end, or both refuse.

    python -m fuzz.agree --count 1000000

The first disagreement ends the run with its input in hex and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from random import Random
from time import perf_counter

from fuzz.twins import ALL_CASES, Disagreement, mutated

__all__ = ["Tally", "main", "run"]


@dataclass(slots=True)
class Tally:
    """What was checked of one format.

    Attributes:
        valid: random values that both wrote and read.
        changed: changed inputs that both read, or both refused.
        refused: how many of those they refused.
        seconds: all of that took.
    """

    name: str
    valid: int = 0
    changed: int = 0
    refused: int = 0
    seconds: float = 0.0


def run(
    count: int, seed: int, progress: Callable[[int], object] = lambda done: None
) -> list[Tally]:
    """Check `count` values and as many changed inputs, the formats in turn.

    `progress(done)` is called after each. Raises Disagreement at the first.
    """
    random = Random(seed)
    tallies = [Tally(case.name) for case in ALL_CASES]
    for done in range(count):
        case, tally = ALL_CASES[done % len(ALL_CASES)], tallies[done % len(ALL_CASES)]
        begin = perf_counter()
        data = case.check_value(case.make(random))
        tally.valid += 1
        # Surrounded by bytes that are none of its own: neither may read beyond its end.
        before, after = random.randbytes(done % 3), random.randbytes(done % 2)
        changed = mutated(random, data)
        end = len(before) + len(changed)
        found = case.check_bytes(before + changed + after, len(before), end)
        tally.changed += 1
        tally.refused += found is None
        tally.seconds += perf_counter() - begin
        progress(done + 1)
    return tallies


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], object]]:
    """Show on a terminal how far it is, and on no other file."""
    step = max(count // 200, 1)

    def show(done: int) -> None:
        if done % step == 0:
            print(f"\r{done:>{len(str(count))}} of {count}", end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield lambda done: None
        return
    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _table(tallies: Sequence[Tally]) -> str:
    total = Tally("all")
    for tally in tallies:
        total.valid += tally.valid
        total.changed += tally.changed
        total.refused += tally.refused
        total.seconds += tally.seconds
    lines = [f"{'format':<16} {'valid':>9} {'changed':>9} {'refused':>9} {'µs each':>9}"]
    for each in (*tallies, total):
        micros = each.seconds / each.valid * 1e6 if each.valid else 0.0
        lines.append(
            f"{each.name:<16} {each.valid:>9} {each.changed:>9} {each.refused:>9} {micros:>9.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m fuzz.agree", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="values, and changed inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    if chosen.count < 1:
        parser.error(f"expected a --count of 1 or more, got {chosen.count}")
    try:
        with _progress(chosen.count) as progress:
            tallies = run(chosen.count, chosen.seed, progress)
    except Disagreement as disagreement:
        if chosen.json:
            print(json.dumps({"seed": chosen.seed, "disagreement": str(disagreement)}))
        else:
            print(f"seed {chosen.seed}: {disagreement}")
        return 1
    except KeyboardInterrupt:
        return 130
    if chosen.json:
        print(json.dumps({"seed": chosen.seed, "formats": [asdict(each) for each in tallies]}))
    else:
        print(_table(tallies))
    return 0


if __name__ == "__main__":
    sys.exit(main())
