"""One Atheris process: `python -m fuzz.drive TARGET [libFuzzer's arguments]`.

Knows Atheris. Beside libFuzzer's own lines it says `slowest: SECONDS` on standard error whenever an
execution took longer than all before it.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import atheris

from fuzz.harness import Harness, load, script


def _instrumented(target: str) -> Harness:
    with atheris.instrument_imports(include=["protomux", "protomux_wakeup"]):
        return load(target)


def _mutated(data: bytes, most: int, seed: int) -> bytes:
    return script.mutated(data, most, seed, atheris.Mutate)


def main() -> None:
    target = sys.argv.pop(1)
    harness = _instrumented(target)
    slowest = 0.0

    def run(data: bytes) -> None:
        nonlocal slowest
        begin = time.perf_counter()
        harness.run(data)
        took = time.perf_counter() - begin
        if took > slowest:
            slowest = took
            print(f"slowest: {took:.6f}", file=sys.stderr, flush=True)

    options: dict[str, Any] = {}
    if harness.OPS is not None:
        options = {"custom_mutator": _mutated, "custom_crossover": script.crossed}
    # What goes wrong unseen is told by the harness; nobody reads the rest.
    for name in ("protomux", "protomux_wakeup"):
        logging.getLogger(name).propagate = False
    atheris.Setup([*sys.argv, f"-max_len={harness.MAX_SIZE}"], run, **options)
    atheris.Fuzz()


main()
