"""From which size on is OpenSSL quicker than libsodium at the messages of a secret stream?

Both backends of `protomux.streams.secretstream` encrypt and decrypt messages of each size, by turns
and in rounds. A figure is the best of its rounds: the machine's other work only adds. The crossover
lies where the two lines through neighbouring sizes meet; `CROSSOVER` in the code comes from here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_KEYBYTES,
)

from protomux.encoding import BytesLike
from protomux.streams.secretstream import CROSSOVER, OPENSSL, SODIUM, State

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser"]

KIB: Final = 1024
SIZES: Final = (
    *(0, 64, 256, KIB, 2 * KIB, 4 * KIB, 6 * KIB, 8 * KIB, 12 * KIB, 16 * KIB, 20 * KIB, 24 * KIB),
    *(32 * KIB, 64 * KIB, 256 * KIB, KIB * KIB),
)
ROUNDS: Final = 30
BYTES_A_ROUND: Final = 4 * KIB * KIB
"""Of messages; less for small ones, of which there are `MESSAGES_A_ROUND`."""
MESSAGES_A_ROUND: Final = 400

BACKENDS: Final = {"libsodium": SODIUM, "OpenSSL": OPENSSL}
WAYS: Final = ("encrypt", "decrypt")


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("cipher", help="libsodium and OpenSSL, by size of a message")
    parser.add_argument(
        "--sizes", type=_size, nargs="+", default=SIZES, help="of the plaintext, in bytes"
    )
    parser.add_argument("--rounds", type=_count, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


def _size(text: str) -> int:
    if (size := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"expected a size of 0 bytes or more, got {size}")
    return size


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {count}")
    return count


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print the figures."""
    rows = []
    for size in sorted(set(arguments.sizes)):
        print(f"{size:,} bytes", file=sys.stderr)
        rows.append({"size": size} | measure(size, arguments.rounds))
    report = {
        "rounds": arguments.rounds,
        "sizes": rows,
        "crossover": {way: crossover(rows, way) for way in WAYS},
        "in_use": CROSSOVER,
    }
    print(json.dumps(report) if arguments.json else text(report))


def measure(size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of one message, by way and backend."""
    key = os.urandom(crypto_secretstream_xchacha20poly1305_KEYBYTES)
    header = os.urandom(crypto_secretstream_xchacha20poly1305_HEADERBYTES)

    def new_state() -> State:
        state = State()
        crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
        return state

    count = max(4, min(MESSAGES_A_ROUND, BYTES_A_ROUND // max(1, size)))
    plaintexts: list[bytes] = [os.urandom(size)] * count
    sender = new_state()
    messages = [b"".join(SODIUM.push(sender, plaintext)) for plaintext in plaintexts]
    best = {way: dict.fromkeys(BACKENDS, float("inf")) for way in WAYS}
    for _ in range(rounds):
        for name, backend in BACKENDS.items():
            for way, step, inputs in (
                ("encrypt", backend.push, plaintexts),
                ("decrypt", backend.pull, messages),
            ):
                found = microseconds(step, new_state(), inputs)
                best[way][name] = min(best[way][name], found)
    return best


def microseconds(
    step: Callable[[State, BytesLike], object], state: State, inputs: list[bytes]
) -> float:
    """Return what each of `inputs` takes but the first, at which a state may set things up."""
    step(state, inputs[0])
    began = perf_counter_ns()
    for data in inputs[1:]:
        step(state, data)
    return (perf_counter_ns() - began) / 1_000 / (len(inputs) - 1)


def crossover(rows: list[dict[str, Any]], way: str) -> int | None:
    """Return the size where the quicker one changes for the last time; None if it never does."""
    leads: list[tuple[int, float]] = [
        (row["size"], row[way]["OpenSSL"] - row[way]["libsodium"]) for row in rows
    ]
    for (size, lead), (next_size, next_lead) in reversed(list(pairwise(leads))):
        if lead > 0 >= next_lead:
            return round(size + (next_size - size) * lead / (lead - next_lead))
    return None


def text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    names = [f"{name} {way}" for way in WAYS for name in BACKENDS]
    lines = ["bytes".rjust(9) + "".join(f"{name:>24}" for name in names)]
    for row in report["sizes"]:
        cells = []
        for way in WAYS:
            for name in BACKENDS:
                took = row[way][name]
                cells.append(f"{took:9.2f} µs {row['size'] / took:6,.0f} MB/s")
        lines.append(f"{row['size']:>9,}" + "".join(f"{cell:>24}" for cell in cells))
    for way in WAYS:
        size = report["crossover"][way]
        where = "at none of these sizes" if size is None else f"from {size:,} bytes on"
        lines.append(f"{way}: OpenSSL is the quicker {where}")
    lines.append(f"in use: from {report['in_use']:,} bytes on")
    return "\n".join(lines)
