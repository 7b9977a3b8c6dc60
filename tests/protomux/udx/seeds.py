"""Two streams in virtual time, one schedule for each seed, every step looked at by a referee.

    python -m tests.protomux.udx.seeds 0 10000          seeds 0 to 9,999
    python -m tests.protomux.udx.seeds 4711             one of them again
    python -m tests.protomux.udx.seeds --schedule JSON  what Hypothesis has found, as it printed it

From the seed follows all that happens. The exit code is 1 if a rule was broken, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from time import perf_counter
from typing import Final

from tests.protomux.udx.parallel import run_all
from tests.protomux.udx.schedule import Played, Schedule, draw, play

__all__ = ["Broken", "main", "run_seed"]

_COMMAND: Final = "python -m tests.protomux.udx.seeds"


@dataclass(frozen=True)
class Broken:
    """A seed that has broken a rule."""

    seed: int
    error: str

    @property
    def replay(self) -> str:
        """The command that does it again."""
        return f"{_COMMAND} {self.seed}"


@dataclass
class _Tally:
    endings: dict[str, int] = field(default_factory=dict)
    seeds: int = 0
    virtual_seconds: float = 0.0
    packets: int = 0
    lost: int = 0
    size: int = 0
    broken: list[Broken] = field(default_factory=list)

    def add(self, found: Played | Broken) -> None:
        self.seeds += 1
        if isinstance(found, Broken):
            self.broken.append(found)
            return
        self.endings[found.ending] = self.endings.get(found.ending, 0) + 1
        self.virtual_seconds += found.seconds
        self.packets += found.packets
        self.lost += found.lost
        self.size += found.size


def run_seed(seed: int) -> Played | Broken:
    """Play the schedule of `seed`."""
    try:
        return play(draw(Random(seed)))
    except Exception as error:
        return Broken(seed, f"{type(error).__name__}: {error}")


def _again(schedule: Schedule) -> int:
    """Play one, and show what came of it."""
    print(schedule, file=sys.stderr)
    try:
        print(play(schedule))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog=_COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("begin", type=int, nargs="?", help="the first seed, or the only one")
    parser.add_argument("end", type=int, nargs="?", help="the one behind the last")
    parser.add_argument("--schedule", type=Schedule.parse, help="what happens, as one line of JSON")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if (chosen.begin is None) is (chosen.schedule is None):
        parser.error("expected either seeds or a --schedule")
    if chosen.schedule is not None:
        return _again(chosen.schedule)
    if chosen.end is None:
        return _again(draw(Random(chosen.begin)))
    if chosen.end <= chosen.begin:
        parser.error(f"expected an end above {chosen.begin}, got {chosen.end}")
    if chosen.jobs < 1:
        parser.error(f"expected --jobs of 1 or more, got {chosen.jobs}")
    tally = _Tally()
    begin = perf_counter()
    was_stopped = False
    try:
        for found in run_all(run_seed, range(chosen.begin, chosen.end), chosen.jobs):
            tally.add(found)
            if isinstance(found, Broken):
                print(f"{found.error}\n    {found.replay}", file=sys.stderr)
    except KeyboardInterrupt:
        was_stopped = True
    _report(tally, perf_counter() - begin, is_json=chosen.json)
    if was_stopped:
        return 130
    return 1 if tally.broken else 0


def _report(tally: _Tally, seconds: float, *, is_json: bool) -> None:
    if is_json:
        print(json.dumps({**asdict(tally), "seconds": round(seconds, 3)}))
        return
    endings = ", ".join(f"{count:,} {ending}" for ending, count in sorted(tally.endings.items()))
    each = seconds / tally.seeds * 1000 if tally.seeds else 0.0
    print(f"{tally.seeds:,} seeds: {endings or 'none done'}, {len(tally.broken):,} broke a rule")
    print(
        f"{tally.packets:,} packets, {tally.lost:,} of them lost, {tally.size:,} bytes arrived, in "
        f"{tally.virtual_seconds:,.0f} virtual seconds; {seconds:.1f} s, {each:.1f} ms each"
    )


if __name__ == "__main__":
    sys.exit(main())
