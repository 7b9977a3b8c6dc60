"""Writes the corpus of UDX: packets, and what one side of a conversation gets and does.

    python -m fuzz.record.udx

Two runs write the same: the conversations are two streams in virtual time.
"""

from __future__ import annotations

from pathlib import Path as File
from shutil import rmtree

from fuzz.campaign import CORPUS
from fuzz.harness.script import MAX_STEPS, Step, render
from fuzz.harness.udx_stream import Op
from tests.protomux.udx.mutations import recorded
from tests.protomux.udx.simulation import Path, Side, Simulation

PATHS = {
    "clean": Path(),
    "bad": Path(jitter=0.03, loss=0.15, duplication=0.1),
    "gone": Path(loss=0.1, blackout=(0.1, 90.0)),
}


def main() -> None:
    _packets(_folder("udx_packet"))
    for name, path in PATHS.items():
        _conversation(_folder("udx_stream", is_kept=name != "clean"), name, path)


def _folder(target: str, *, is_kept: bool = False) -> File:
    folder = CORPUS / target
    if not is_kept:
        rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _packets(folder: File) -> None:
    """One of each kind and length: what the bytes of a payload are is all the same."""
    seen = set()
    for number, datagram in enumerate(recorded()[0]):
        data = datagram[:60]
        if (kind := (data[2], len(data))) not in seen:
            seen.add(kind)
            (folder / f"packet-{number}").write_bytes(data)
    padded = recorded()[0][0][:3] + b"\x20" + recorded()[0][0][4:100]
    (folder / "padded").write_bytes(padded)


def _conversation(folder: File, name: str, path: Path) -> None:
    simulation = Simulation(1, path, is_honest=False)
    sides = simulation.a, simulation.b
    steps: tuple[list[Step], list[Step]] = [], []
    last = [0.0, 0.0]

    def note(side: int, op: Op, data: bytes = b"") -> None:
        """All is in the order and at the times of the conversation."""
        waited = round((simulation.now - last[side]) / 0.005)
        if waited > 0:
            last[side] = simulation.now
            steps[side].append(Step(Op.TIME, min(waited, 0xFFFF).to_bytes(2, "little")))
        steps[side].append(Step(op, data))

    def arrive(side: Side, datagram: bytes) -> bytes:
        note(sides.index(side), Op.DATAGRAM, datagram)
        return datagram

    simulation.tamper = arrive

    def begin() -> None:
        for number, side in enumerate(sides):
            side.stream.set_keep_alive(2, simulation.now)
            note(number, Op.KEEP_ALIVE, b"\x02")
            side.stream.send_message(bytes(5))
            note(number, Op.MESSAGE, b"\x05\x00")
            for _ in range(6):
                side.write(bytes(40))
                side.flush()
            note(number, Op.WRITE, b"\x28\x00\x05")

    def end() -> None:
        for number, side in enumerate(sides):
            if not side.stream.is_ending:
                side.stream.end()
                side.flush()
                note(number, Op.END)

    simulation.at(0.0, begin)
    simulation.at(0.3, end)
    simulation.wait(100)
    for number in range(2):
        found = steps[number]
        (folder / f"{name}-{number}").write_bytes(render(0, found[:MAX_STEPS]))
        if len(found) > MAX_STEPS:
            (folder / f"{name}-{number}-end").write_bytes(render(0, found[-MAX_STEPS:]))


if __name__ == "__main__":
    main()
