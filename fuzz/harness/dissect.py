"""The dissector reads arbitrary bytes as the fast codec does, and never raises.

The first byte says what the rest is: one format that both know, as `fuzz.twins` counts them; or
frames of a conversation, each behind its size in one byte, in and out by turns; or a capture.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from fuzz.harness.stage import Finding
from fuzz.twins import CASES
from protomux.dissect import Conversation, Direction, Node, Problem, read_capture

__all__ = ["MAX_SIZE", "OPS", "run"]

OPS: Final = None
MAX_SIZE: Final = 256


def run(data: bytes) -> None:
    kind = data[0] % (len(CASES) + 2) if data else 0
    if kind < len(CASES):
        CASES[kind].check_bytes(data, min(1, len(data)))
    elif kind == len(CASES):
        _converse(data)
    else:
        _read_capture(data[1:])


def _converse(data: bytes) -> None:
    conversation = Conversation()
    position, direction = 1, Direction.IN
    while position < len(data):
        begin = position + 1
        position = begin + data[begin - 1]
        frame = data[begin:position]
        found = conversation.read(direction, frame)
        _check(found.root, frame)
        _check_problem(found.problem, len(frame))
        direction = direction.opposite


def _check(root: Node, data: bytes) -> None:
    for _, node in root.walk():
        if not 0 <= node.start <= node.end <= len(data):
            raise Finding(f"{node!r} outside of {data.hex()}")
        for child in node.children:
            if not node.start <= child.start <= child.end <= node.end:
                raise Finding(f"{child!r} outside of {node!r} in {data.hex()}")


def _check_problem(problem: Problem | None, size: int) -> None:
    if problem is not None and not 0 <= problem.offset <= size:
        raise Finding(f"{problem} of {size} bytes")


def _read_capture(data: bytes) -> None:
    for entry in read_capture(BytesIO(data)):
        if isinstance(entry, Problem):
            _check_problem(entry, len(data))
