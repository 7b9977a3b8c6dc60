from __future__ import annotations

import pytest

from protomux.dissect import (
    Conversation,
    Direction,
    Dissection,
    Node,
    Protocol,
    build,
    compact,
    dissect,
    frames,
    tree,
)
from protomux.frames import close_body, encode_batch, encode_frame, open_body, reject_body
from protomux_wakeup import messages

IN, OUT = Direction.IN, Direction.OUT
TOPIC, PROOF, KEY = b"t" * 32, b"p" * 32, b"k" * 32
HANDSHAKE = messages.handshake.encode(messages.Handshake(0, PROOF, True))
LOOKUP = b"\x00" + messages.lookup.encode(messages.Lookup())
ANNOUNCE = b"\x01" + messages.announce.encode([messages.Writer(KEY, 5)])


def opened(number: int, protocol: str = "wakeup", handshake: bytes = HANDSHAKE) -> bytes:
    return encode_frame(0, open_body(number, protocol, TOPIC, handshake))


def names(found: Dissection) -> list[str]:
    return [body.content.name for body in frames.bodies(found.root)]


def part(found: Dissection, *path: str) -> Node:
    node = found.root
    for name in path:
        child = node.child(name)
        assert child is not None, name
        node = child
    return node


def test_an_open_and_its_handshake() -> None:
    found = Conversation().read(IN, opened(1))
    assert found.problem is None
    assert part(found, "open", "protocol").value == "wakeup"
    assert part(found, "open", "id").value == TOPIC
    proof = part(found, "open", "handshake", "capability")
    assert (proof.start, proof.end, proof.value) == (44, 76, PROOF)
    assert part(found, "open", "handshake", "active").value is True


def test_messages_of_a_channel_that_was_opened() -> None:
    conversation = Conversation()
    conversation.read(IN, opened(1))
    found = conversation.read(IN, encode_frame(1, ANNOUNCE + b"more"))
    key = part(found, "announce", "writer", "key")
    assert (key.start, key.end, key.value) == (3, 35, KEY)
    assert part(found, "announce", "writer", "length").value == 5
    assert part(found, "announce", "ignored").value == b"more"
    assert names(conversation.read(IN, encode_frame(1, LOOKUP))) == ["lookup"]
    assert names(conversation.read(IN, encode_frame(1, b"\x02\x01"))) == ["info"]
    assert names(conversation.read(IN, encode_frame(1, b"\x03\x01"))) == ["payload"]


def test_numbers_are_those_of_the_sender() -> None:
    conversation = Conversation()
    conversation.read(IN, opened(1))
    assert names(conversation.read(OUT, encode_frame(1, LOOKUP))) == ["payload"]
    assert names(conversation.read(IN, encode_frame(2, LOOKUP))) == ["payload"]
    conversation.read(OUT, opened(1))
    assert names(conversation.read(OUT, encode_frame(1, LOOKUP))) == ["lookup"]


@pytest.mark.parametrize(
    ("direction", "body"),
    [(IN, close_body(1)), (OUT, reject_body(1)), (IN, open_body(1, "other", None, b""))],
)
def test_a_channel_ends(direction: Direction, body: bytes) -> None:
    conversation = Conversation()
    conversation.read(IN, opened(1))
    conversation.read(direction, encode_frame(0, body))
    assert names(conversation.read(IN, encode_frame(1, LOOKUP))) == ["payload"]


@pytest.mark.parametrize(("direction", "body"), [(OUT, close_body(1)), (IN, reject_body(1))])
def test_only_by_whom_it_is_of(direction: Direction, body: bytes) -> None:
    conversation = Conversation()
    conversation.read(IN, opened(1))
    conversation.read(direction, encode_frame(0, body))
    assert names(conversation.read(IN, encode_frame(1, LOOKUP))) == ["lookup"]


def test_a_batch_is_read_in_order() -> None:
    batch = encode_batch(
        [
            (1, LOOKUP),
            (0, open_body(1, "wakeup", TOPIC, HANDSHAKE)),
            (1, LOOKUP),
            (1, ANNOUNCE),
            (0, close_body(1)),
            (1, LOOKUP),
        ]
    )
    found = Conversation().read(IN, batch)
    assert found.problem is None
    assert names(found) == ["payload", "open", "lookup", "announce", "close", "payload"]


def test_the_first_wrong_byte_of_a_batch_counts() -> None:
    conversation = Conversation()
    conversation.read(IN, opened(1))
    wrong_lookup = b"\x00\x01" + KEY[:5]
    good = encode_batch([(1, LOOKUP), (1, wrong_lookup), (1, LOOKUP)])
    found = conversation.read(IN, good[:-1])
    assert found.problem is not None
    # The first body begins at 4; the one that is wrong has 7 bytes, from 7 on.
    assert found.problem.offset == 14
    assert "32 bytes of hash, got 5" in found.problem.reason
    assert not part(found, "batch").is_whole
    assert names(found) == ["lookup"]


def test_what_is_behind_the_wrong_byte_changes_nothing() -> None:
    conversation = Conversation()
    half = encode_batch([(0, open_body(1, "wakeup", TOPIC, HANDSHAKE)), (0, close_body(1))])
    assert conversation.read(IN, half[:-1]).problem is not None
    assert names(conversation.read(IN, encode_frame(1, LOOKUP))) == ["lookup"]


def test_a_protocol_of_ones_own() -> None:
    known = {"chat": Protocol(None, [("text", compact.string)])}
    conversation = Conversation(known)
    found = conversation.read(OUT, opened(3, "chat", b"anything"))
    assert part(found, "open", "handshake").value == b"anything"
    found = conversation.read(OUT, encode_frame(3, b"\x00" + build(compact.string, "hello")))
    assert part(found, "text").value == "hello"
    assert names(conversation.read(OUT, opened(3))) == ["open"]
    assert names(conversation.read(OUT, encode_frame(3, LOOKUP))) == ["payload"]


@pytest.mark.parametrize(
    ("frame", "offset", "reason"),
    [
        ("00", 1, "expected 1 byte of type, got 0"),
        ("fdff", 2, "expected 2 bytes of channel, got 1"),
        ("ff00000000000020000000", 7, "expected an integer up to 2^53-1, got 9007199254740992"),
        ("ff0000000000000001000000", 8, "expected an integer up to 2^53-1, got 72057594037927936"),
        ("000101" + "03" + "61ff62", 5, "expected UTF-8 text, got ff"),
        ("000101" + "03" + "61e282", 5, "expected UTF-8 text, got e282"),
        ("000101" + "05" + "6162", 6, "expected 5 bytes of protocol, got 2"),
        ("00000003000001", 4, "expected no batch inside a batch"),
        ("0000010401", 5, "expected 4 bytes of a batched message, got 1"),
        ("0002", 2, "expected 1 byte of channel, got 0"),
    ],
)
def test_wrong_frames(frame: str, offset: int, reason: str) -> None:
    problem = Conversation().read(IN, bytes.fromhex(frame)).problem
    assert problem == tree.Problem(offset, reason)
    assert str(problem) == f"byte {offset}: {reason}"


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("", []),
        ("0002fd010099", ["reject"]),
        ("00030199", ["close"]),
        ("000405", ["ignored"]),
        ("000001", []),
        ("00000100fe05000000" + "020001", ["payload"]),
        ("fe05000000fd0000", ["payload"]),
    ],
)
def test_odd_frames(frame: str, expected: list[str]) -> None:
    found = Conversation().read(IN, bytes.fromhex(frame))
    assert found.problem is None
    assert names(found) == expected


@pytest.mark.parametrize(
    ("text", "offset", "words"),
    [
        ('{"a":1,}', 7, "double quotes"),
        ('{"ä":1', 7, "delimiter"),
        ("[NaN]", 0, "NaN"),
        ("[1e999]", 0, "too large"),
        ("[" * 100_000, 0, "recursion"),
    ],
)
def test_wrong_json(text: str, offset: int, words: str) -> None:
    data = build(compact.string, text)
    problem = dissect(compact.json, data).problem
    assert problem is not None
    assert problem.offset == offset + len(data) - len(text.encode())
    assert words in problem.reason


def test_a_long_batch() -> None:
    count = 30_000
    conversation = Conversation()
    conversation.read(IN, opened(1))
    found = conversation.read(IN, encode_batch([(1, b"\x02\x00")] * count))
    assert found.problem is None
    assert len(part(found, "batch").children) == count + 1


def test_a_tree_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_PARTS", 1000)
    found = Conversation().read(IN, encode_batch([(1, b"\x02\x00")] * 1000))
    assert found.problem is not None
    assert "1000 parts" in found.problem.reason
    assert len(list(found.root.walk())) == 1000
