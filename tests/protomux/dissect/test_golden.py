"""The dissector against the vectors of the npm originals, as tests/test_golden.py does it."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.twins import CASES
from protomux.dissect import (
    Conversation,
    Direction,
    Format,
    build,
    compact,
    dissect,
    frames,
    stream,
)
from protomux.dissect.frames import bodies
from protomux.dissect.tree import plain
from protomux.errors import EncodingError
from tests.golden import replay
from tests.golden.replay import Vector, load, octets, output, value_of, vectors
from tests.golden.wakeup import message_of
from tests.test_golden import DIFFERENT_NUMBERS, written_frames

ENCODINGS: dict[str, Format] = {
    "uint": compact.uint,
    "int": compact.int_,
    "fixed32": compact.fixed32,
    "fixed64": compact.fixed64,
    "buffer": compact.buffer,
    "optional_buffer": compact.optional_buffer,
    "string": compact.string,
    "bool": compact.bool_,
    "raw": compact.raw,
    "json": compact.json,
}


def format_of(spec: Vector) -> Format:
    if spec["type"] == "array":
        return compact.array(format_of(spec["of"]))
    if spec["type"] == "fixed":
        return compact.fixed(spec["size"])
    return ENCODINGS[spec["type"]]


def refuses(format: Format, data: bytes, start: int = 0, end: int | None = None) -> bool:
    return dissect(format, data, start, end).problem is not None


# ---------------------------------------------------------------- encodings


def small(case: Any) -> bool:
    """Tell whether it is not the array of 2^20 elements, which take Construct half a minute."""
    value = case.values[0]["value"]
    return not isinstance(value, dict) or value.get("repeat", (None, 0))[1] < 1 << 20


@pytest.mark.parametrize(
    "vector", [*filter(small, vectors("encodings", "encode", "encoding", "value"))]
)
def test_encodings(vector: Vector) -> None:
    format = format_of(vector["encoding"])
    value = value_of(vector["encoding"], vector["value"])
    data, expected = build(format, value), vector["bytes"]
    if isinstance(expected, str):
        expected = DIFFERENT_NUMBERS.get(expected, expected)
    assert output(data) == expected
    found = dissect(format, b"\xff" + data, 1)
    assert found.problem is None
    assert plain(found.value) == vector.get("decoded", value)
    assert found.end == 1 + len(data)
    if vector.get("truncated") == "refused":
        for size in range(min(len(data), 100)):
            for cut in (dissect(format, data, 0, size), dissect(format, data[:size])):
                assert cut.problem is not None
                assert cut.problem.offset == size


@pytest.mark.parametrize("vector", vectors("encodings", "decode", "encoding", "bytes"))
def test_odd_encodings(vector: Vector) -> None:
    found = dissect(format_of(vector["encoding"]), bytes.fromhex(vector["bytes"]))
    assert (replay.plain(plain(found.value)), found.end) == (vector["value"], vector["consumed"])


@pytest.mark.parametrize("section", ["mended", "refused_bytes"])
def test_refused_bytes(section: str) -> None:
    for vector in load("encodings")[section]:
        assert refuses(format_of(vector["encoding"]), bytes.fromhex(vector["bytes"])), vector


@pytest.mark.parametrize("vector", vectors("encodings", "refused_values", "encoding", "value"))
def test_refused_values(vector: Vector) -> None:
    with pytest.raises(EncodingError):
        build(format_of(vector["encoding"]), value_of(vector["encoding"], vector["value"]))


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("frame", written_frames())
def test_frames(frame: str) -> None:
    data = bytes.fromhex(frame)
    found = dissect(frames.frame, data)
    assert (found.problem, found.end) == (None, len(data))
    assert build(frames.frame, found.value) == data
    for body, (channel, expected) in zip(bodies(found.root), replay.bodies(data), strict=True):
        content = data[body.content.start : body.content.end]
        assert body.channel == channel
        assert expected.endswith(content)
        assert refuses(compact.uint, expected[: -len(content) or None]) is False


# ---------------------------------------------------------------- the secret stream


def sizes(children: list[Any]) -> dict[str, int]:
    return {node.name: node.end - node.start for node in children}


@pytest.mark.parametrize("section", ["transcripts", "with_payloads"])
def test_noise_messages(section: str) -> None:
    for vector in load("noise")[section]:
        formats = stream.noise_messages(vector["pattern"])
        assert len(formats) == len(vector["messages"])
        payloads = vector.get("payloads", [""] * len(formats))
        for format, text, payload in zip(formats, vector["messages"], payloads, strict=True):
            data = bytes.fromhex(text)
            found = dissect(format, data)
            assert (found.problem, found.end) == (None, len(data))
            assert build(format, found.value) == data
            parts = sizes(found.root.children)
            tag = 16 if found.root.children[-1].children else 0
            assert parts.pop("payload") == len(payload or "") // 2 + tag
            assert parts in ({"e": 32}, {"s": 48}, {"e": 32, "s": 48})


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("vector", vectors("secretstream", "conversations", "pattern"))
def test_all_that_one_side_sends(vector: Vector, role: str) -> None:
    data = bytes.fromhex(vector[role]["sends"])
    format = stream.side(vector["pattern"], is_initiator=role == "initiator")
    found = dissect(format, data)
    assert (found.problem, found.end) == (None, len(data))
    assert build(format, found.value) == data
    said = [node for node in found.root.children if node.name == "message"]
    overheads = [
        node.end - node.start - len(octets(frame))
        for node, frame in zip(said, vector[role]["says"], strict=True)
    ]
    assert set(overheads) <= {3 + 17}
    for size in range(0, len(data), 7):
        cut = dissect(format, data, 0, size)
        assert cut.problem is None or cut.problem.offset == size


# ---------------------------------------------------------------- wakeup

MESSAGES = {case.name: case for case in CASES}


@pytest.mark.parametrize("vector", vectors("wakeup", "encode", "message", "value"))
def test_wakeup_message(vector: Vector) -> None:
    case = MESSAGES[vector["message"]]
    data = build(case.format, case.to_format(message_of(vector)))
    assert output(data) == vector["bytes"]
    found = dissect(case.format, data)
    assert (found.problem, found.end) == (None, len(data))
    assert case.from_format(plain(found.value)) == message_of(vector)
    for size in range(min(len(data), 200)):
        assert refuses(case.format, data, 0, size)


@pytest.mark.parametrize("vector", vectors("wakeup", "decode", "message", "bytes"))
def test_odd_wakeup_message(vector: Vector) -> None:
    case = MESSAGES[vector["message"]]
    found = dissect(case.format, bytes.fromhex(vector["bytes"]))
    assert found.end == vector["consumed"]
    assert case.from_format(plain(found.value)) == message_of(vector)


@pytest.mark.parametrize("vector", vectors("wakeup", "refused_bytes", "message", "bytes"))
def test_refused_wakeup_bytes(vector: Vector) -> None:
    assert refuses(MESSAGES[vector["message"]].format, bytes.fromhex(vector["bytes"]))


@pytest.mark.parametrize("vector", vectors("wakeup", "conversations", "name"))
def test_wakeup_conversation(vector: Vector) -> None:
    """Every message of a recorded conversation is known for what it is."""
    conversation = Conversation()
    names = set()
    for step in vector["steps"]:
        for sender, frame in step["frames"]:
            direction = Direction.OUT if sender == "initiator" else Direction.IN
            found = conversation.read(direction, bytes.fromhex(frame))
            assert found.problem is None
            names |= {body.content.name for body in bodies(found.root)}
    assert "payload" not in names
    assert "open" in names
