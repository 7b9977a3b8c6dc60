"""Against vectors that the npm originals wrote: `golden/generate.mjs` runs them, this needs none.

Where this library differs from the originals on purpose, the test says so and why.
"""

from __future__ import annotations

from typing import Any

import pytest

from protomux import crypto
from protomux.crypto import KeyPair
from protomux.encoding import uint
from protomux.errors import EncodingError, HandshakeError, ProtocolError
from protomux.frames import (
    CONTROL,
    Control,
    close_body,
    decode_open,
    encode_batch,
    encode_frame,
    open_body,
    reject_body,
)
from protomux.streams import cipher, noise
from protomux_wakeup.capability import Capability
from tests.golden import replay
from tests.golden.replay import (
    Script,
    Vector,
    codec,
    load,
    octets,
    output,
    plain,
    settle,
    value_of,
    vectors,
)
from tests.golden.streams import RecordedSide, Side, ciphers, static_keys
from tests.golden.wakeup import WAKEUP_MESSAGES, Peer, message_of

# ---------------------------------------------------------------- the files themselves

SECTIONS = {
    "crypto": {
        "hash",
        "discovery_key",
        "refused_keys",
        "namespace",
        "key_pair",
        "proof",
        "stream_id",
    },
    "encodings": {"encode", "decode", "mended", "refused_values", "refused_bytes"},
    "frames": {"scripts"},
    "noise": {"transcripts", "with_payloads", "changed", "dh", "refused_public_keys"},
    "secretstream": {"series", "tagged", "refused", "conversations"},
    "wakeup": {"encode", "decode", "refused_values", "refused_bytes", "conversations"},
}


@pytest.mark.parametrize("name", replay.FILES)
def test_file_is_whole(name: str) -> None:
    file = load(name)
    assert file.keys() == SECTIONS[name] | {"versions"}
    assert all(file.values())


def test_every_type_has_vectors() -> None:
    encodings, wakeup = load("encodings"), load("wakeup")
    for section in ("encode", "decode"):
        assert {vector["message"] for vector in wakeup[section]} == {
            "handshake",
            "lookup",
            "announce",
            "info",
        }
    assert {vector["encoding"]["type"] for vector in encodings["encode"]} == replay.ENCODING_TYPES
    calls = {step["do"] for script in load("frames")["scripts"] for step in script["steps"]}
    assert calls >= {"create", "open", "send", "close", "cork", "uncork", "pair", "receive"}
    for file, section in (("noise", "transcripts"), ("secretstream", "conversations")):
        assert {vector["pattern"] for vector in load(file)[section]} == set(noise.PATTERNS)


# ---------------------------------------------------------------- encodings


# The same numbers in other words: JavaScript writes 0.00001 and 1e-7, Python 1e-05 and 1e-07.
DIFFERENT_NUMBERS = {"07302e3030303031": "0531652d3035", "0431652d37": "0531652d3037"}


@pytest.mark.parametrize("vector", vectors("encodings", "encode", "encoding", "value"))
def test_encodes(vector: Vector) -> None:
    encoding = codec(vector["encoding"])
    value = value_of(vector["encoding"], vector["value"])
    data, expected = encoding.encode(value), vector["bytes"]
    if isinstance(expected, str):
        expected = DIFFERENT_NUMBERS.get(expected, expected)
    assert output(data) == expected
    assert encoding.decode(data, 0, len(data)) == (vector.get("decoded", value), len(data))
    assert encoding.decode(b"\xff" + data, 1, 1 + len(data))[1] == 1 + len(data)
    if vector.get("truncated") == "refused":
        for size in range(len(data)):
            with pytest.raises(EncodingError):
                encoding.decode(data, 0, size)
            with pytest.raises(EncodingError):
                encoding.decode(data[:size], 0, size)


@pytest.mark.parametrize("vector", vectors("encodings", "decode", "encoding", "bytes"))
def test_decodes(vector: Vector) -> None:
    data = bytes.fromhex(vector["bytes"])
    value, after = codec(vector["encoding"]).decode(data, 0, len(data))
    assert (plain(value), after) == (vector["value"], vector["consumed"])


@pytest.mark.parametrize("vector", vectors("encodings", "mended", "bytes"))
def test_refuses_what_is_no_utf8(vector: Vector) -> None:
    """The originals put U+FFFD there: two names that differ would become one."""
    data = bytes.fromhex(vector["bytes"])
    with pytest.raises(EncodingError):
        codec(vector["encoding"]).decode(data, 0, len(data))


@pytest.mark.parametrize("vector", vectors("encodings", "refused_values", "encoding", "value"))
def test_refuses_to_encode(vector: Vector) -> None:
    with pytest.raises(EncodingError):
        codec(vector["encoding"]).encode(value_of(vector["encoding"], vector["value"]))


@pytest.mark.parametrize("vector", vectors("encodings", "refused_bytes", "encoding", "bytes"))
def test_refuses_to_decode(vector: Vector) -> None:
    data = bytes.fromhex(vector["bytes"])
    with pytest.raises(EncodingError):
        codec(vector["encoding"]).decode(data, 0, len(data))


# ---------------------------------------------------------------- frames

# What happens here instead, by script and step.
DIFFERENT_STEPS: dict[tuple[str, int], Vector] = {
    # The originals never write such a batch, and read it however deep it nests.
    ("batch inside a batch", 3): {
        "events": [["close", "a", True], ["destroy", "a"]],
        "destroyed": True,
    },
    # The originals deliver what there is of a message that was cut short.
    ("batch cut short in a message", 3): {
        "events": [["message", "a", 1, 5], ["close", "a", True], ["destroy", "a"]],
        "destroyed": True,
    },
    # The originals overlook a close that comes while the pair callback runs: the channel stays.
    ("opened after closed while held", 3): {
        "frames": ["00010105616c70686100"],
        "events": [["open", "a", None], ["close", "a", True], ["destroy", "a"]],
    },
    # For the same reason a close is said again when its open is answered after all.
    ("number waits for the peer after an early close", 5): {"frames": ["000301"]},
}


def expected_of(script: str, number: int, step: Vector) -> Vector:
    """Return what a step must do here."""
    found: Vector = {
        key: step[key] for key in ("frames", "frames_hash", "events", "destroyed") if key in step
    }
    if "frames" in found:
        found["frames"] = [
            replay.unbatched(frame) if isinstance(frame, str) else frame
            for frame in found["frames"]
        ]
    different = DIFFERENT_STEPS.get((script, number), found)
    assert (script, number) not in DIFFERENT_STEPS or different != found, "no difference any more"
    return different


@pytest.mark.parametrize("vector", vectors("frames", "scripts", "name"))
async def test_mux_writes_and_calls(vector: Vector) -> None:
    script = Script()
    for number, step in enumerate(vector["steps"]):
        expected = expected_of(vector["name"], number, step)
        assert await script.step(step) == expected, f"step {number}: {step}"


def written_frames() -> list[str]:
    steps = [step for script in load("frames")["scripts"] for step in script["steps"]]
    frames = [frame for step in steps for frame in step.get("frames", ())]
    return sorted({frame for frame in frames if isinstance(frame, str)})


@pytest.mark.parametrize("frame", written_frames())
def test_frame_codec(frame: str) -> None:
    data = bytes.fromhex(frame)
    parts = replay.bodies(data)
    if data.startswith(b"\x00\x00"):
        assert encode_batch(parts) == data
    else:
        assert [encode_frame(*part) for part in parts] == [data]
    for channel, body in parts:
        if channel != CONTROL:
            continue
        if body[0] == Control.OPEN:
            number, protocol, id, handshake = decode_open(body, 1, len(body))
            assert open_body(number, protocol, id, body[handshake:]) == body
        else:
            make = {Control.REJECT: reject_body, Control.CLOSE: close_body}[Control(body[0])]
            number, _ = uint.decode(body, 1, len(body))
            assert make(number) == body


# ---------------------------------------------------------------- hashes and keys


@pytest.mark.parametrize("vector", vectors("crypto", "hash", "parts"))
def test_hash(vector: Vector) -> None:
    assert crypto.hash(*map(octets, vector["parts"])).hex() == vector["hash"]


@pytest.mark.parametrize("vector", vectors("crypto", "discovery_key", "key"))
def test_discovery_key(vector: Vector) -> None:
    key = bytes.fromhex(vector["key"])
    assert crypto.discovery_key(key).hex() == vector["discovery_key"]


@pytest.mark.parametrize("key", load("crypto")["refused_keys"])
def test_refuses_a_discovery_key(key: str) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        crypto.discovery_key(bytes.fromhex(key))


@pytest.mark.parametrize("vector", vectors("crypto", "namespace", "name", "count"))
def test_namespace(vector: Vector) -> None:
    assert plain(crypto.namespace(vector["name"], vector["count"])) == vector["namespace"]


@pytest.mark.parametrize("vector", vectors("crypto", "key_pair", "seed"))
def test_key_pair(vector: Vector) -> None:
    pair = KeyPair.generate(bytes.fromhex(vector["seed"]))
    assert pair.public_key.hex() == vector["public_key"]
    assert pair.secret_key.hex() == vector["secret_key"]


@pytest.mark.parametrize("vector", vectors("crypto", "stream_id", "is_initiator"))
def test_stream_id(vector: Vector) -> None:
    handshake_hash = bytes.fromhex(vector["handshake_hash"])
    assert cipher.stream_id(vector["is_initiator"], handshake_hash).hex() == vector["id"]


# ---------------------------------------------------------------- Noise


def answer(side: Side, message: bytes) -> None:
    """Read, and write if it is our turn: what is wrong may only show there."""
    side.read(message)
    if side.is_our_turn:
        side.write()


def assert_finished(side: Side, vector: Vector) -> None:
    roles = ["initiator", "responder"]
    own, peer = roles if side.is_initiator else roles[::-1]
    assert side.keys is not None
    assert side.keys.handshake_hash.hex() == vector["handshake_hash"]
    assert side.keys.send.hex() == vector[f"{own}_tx"]
    assert side.keys.receive.hex() == vector[f"{peer}_tx"]
    assert side.remote_public_key is not None
    assert side.remote_public_key.hex() == vector[peer]["public_key"]


@pytest.mark.parametrize("vector", vectors("noise", "transcripts", "pattern"))
def test_noise_transcript(vector: Vector) -> None:
    sides = Side(vector, "initiator"), Side(vector, "responder")
    for turn, message in enumerate(vector["messages"]):
        assert sides[turn % 2].is_our_turn
        assert sides[turn % 2].write().hex() == message
        sides[1 - turn % 2].read(bytes.fromhex(message))
    for side in sides:
        assert_finished(side, vector)


@pytest.mark.parametrize("vector", vectors("noise", "with_payloads", "pattern", "payloads"))
def test_noise_ignores_payloads(vector: Vector) -> None:
    """The peer sends payloads. We never do, so we play the side whose recorded ones are empty."""
    side = Side(vector, "responder" if vector["payloads"][0] else "initiator")
    for message in vector["messages"]:
        if side.is_our_turn:
            assert side.write().hex() == message
        else:
            side.read(bytes.fromhex(message))
    assert_finished(side, vector)


def changed_messages() -> list[Any]:
    plays = {vector["pattern"]: vector for vector in reversed(load("noise")["transcripts"])}
    return [
        pytest.param(
            plays[vector["pattern"]],
            vector,
            id=f"{vector['pattern']}-{vector['message']}-{vector['change']}",
        )
        for vector in load("noise")["changed"]
    ]


@pytest.mark.parametrize(("play", "vector"), changed_messages())
def test_noise_message_changed_on_the_way(play: Vector, vector: Vector) -> None:
    sides = Side(play, "initiator"), Side(play, "responder")
    for turn in range(vector["message"]):
        sides[1 - turn % 2].read(sides[turn % 2].write())
    sender, receiver = sides if vector["message"] % 2 == 0 else sides[::-1]
    sender.write()
    data = bytes.fromhex(vector["bytes"])
    if vector["refused"]:
        with pytest.raises(HandshakeError):
            answer(receiver, data)
    else:
        answer(receiver, data)


@pytest.mark.parametrize("vector", vectors("noise", "dh", "seed"))
def test_diffie_hellman(vector: Vector) -> None:
    own = KeyPair.generate(bytes.fromhex(vector["seed"]))
    assert noise._dh(own, bytes.fromhex(vector["public_key"])).hex() == vector["shared"]


@pytest.mark.parametrize("vector", vectors("noise", "refused_public_keys", "reason"))
def test_refuses_a_public_key(vector: Vector) -> None:
    transcript = load("noise")["transcripts"][0]
    with pytest.raises(HandshakeError):
        answer(Side(transcript, "responder"), bytes.fromhex(vector["public_key"]))


# ---------------------------------------------------------------- the secret stream


@pytest.mark.parametrize("vector", vectors("secretstream", "series", "key"))
def test_cipher(vector: Vector) -> None:
    encryptor, decryptor = ciphers(vector)
    for message in vector["messages"]:
        plaintext = octets(message["plaintext"])
        ciphertext = encryptor.encrypt(plaintext)
        assert output(ciphertext) == message["ciphertext"]
        assert decryptor.decrypt(ciphertext) == plaintext


@pytest.mark.parametrize("vector", vectors("secretstream", "tagged", "key"))
def test_cipher_reads_every_tag(vector: Vector) -> None:
    _, decryptor = ciphers(vector)
    for message in vector["messages"]:
        ciphertext = bytes.fromhex(message["ciphertext"])
        assert decryptor.decrypt(ciphertext).hex() == message["plaintext"]


@pytest.mark.parametrize("vector", vectors("secretstream", "refused", "key"))
def test_cipher_refuses(vector: Vector) -> None:
    for case in vector["cases"]:
        _, decryptor = ciphers(vector)
        *good, bad = map(bytes.fromhex, case["messages"])
        for message in good:
            decryptor.decrypt(message)
        with pytest.raises(ProtocolError):
            decryptor.decrypt(bad)


@pytest.mark.parametrize("chunk", [1, 50, 1_000_000])
@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("vector", vectors("secretstream", "conversations", "pattern"))
async def test_stream_conversation(vector: Vector, role: str, chunk: int) -> None:
    """One side of a recorded conversation: the same bytes leave, the same frames come."""
    own, peer = vector[role], vector["responder" if role == "initiator" else "initiator"]
    side = RecordedSide(vector, role)
    side.receive(bytes.fromhex(peer["sends"]), chunk)
    await settle()
    for frame in own["says"]:
        side.stream.write(bytes.fromhex(frame))
    assert plain(side.frames) == peer["says"]
    assert side.transport.sent.hex() == own["sends"]
    assert side.stream.handshake_hash == bytes.fromhex(vector["handshake_hash"])
    assert side.stream.remote_public_key == static_keys(peer).public_key


# ---------------------------------------------------------------- wakeup


@pytest.mark.parametrize("vector", vectors("wakeup", "encode", "message", "value"))
def test_wakeup_message(vector: Vector) -> None:
    encoding, value = WAKEUP_MESSAGES[vector["message"]], message_of(vector)
    data = encoding.encode(value)
    assert output(data) == vector["bytes"]
    assert encoding.decode(data, 0, len(data)) == (value, len(data))
    assert vector["truncated"] == "refused"
    for size in range(min(len(data), 200)):
        with pytest.raises(EncodingError):
            encoding.decode(data, 0, size)


@pytest.mark.parametrize("vector", vectors("wakeup", "decode", "message", "bytes"))
def test_reads_odd_wakeup_message(vector: Vector) -> None:
    data = bytes.fromhex(vector["bytes"])
    found = WAKEUP_MESSAGES[vector["message"]].decode(data, 0, len(data))
    assert found == (message_of(vector), vector["consumed"])


@pytest.mark.parametrize("vector", vectors("wakeup", "refused_values", "message", "value"))
def test_refuses_to_write_wakeup_message(vector: Vector) -> None:
    with pytest.raises(EncodingError):
        WAKEUP_MESSAGES[vector["message"]].encode(message_of(vector))


@pytest.mark.parametrize("vector", vectors("wakeup", "refused_bytes", "message", "bytes"))
def test_refuses_to_read_wakeup_message(vector: Vector) -> None:
    data = bytes.fromhex(vector["bytes"])
    with pytest.raises(EncodingError):
        WAKEUP_MESSAGES[vector["message"]].decode(data, 0, len(data))


@pytest.mark.parametrize("vector", vectors("crypto", "proof", "capability", "is_initiator"))
def test_proof(vector: Vector) -> None:
    capability = Capability(octets(vector["capability"]), id=bytes(32))
    role, handshake_hash = vector["is_initiator"], bytes.fromhex(vector["handshake_hash"])
    proof = capability.prove(role, handshake_hash)
    assert proof.hex() == vector["proof"]
    assert capability.verify(proof, role, handshake_hash)
    assert not capability.verify(proof, not role, handshake_hash)


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("vector", vectors("wakeup", "conversations", "name"))
async def test_wakeup_conversation(vector: Vector, role: str) -> None:
    """One peer of a recorded conversation: the same messages leave, the same hooks run."""
    peer = Peer(role, bytes.fromhex(vector["handshake_hash"]))
    for number, step in enumerate(vector["steps"]):
        await peer.step(step)
        frames = [bytes.fromhex(frame) for sender, frame in step["frames"] if sender == role]
        sent = [body for frame in peer.stream.take() for body in replay.bodies(frame)]
        assert sent == [body for frame in frames for body in replay.bodies(frame)], number
        events, peer.events = peer.events, []
        assert events == [event for event in step["events"] if event[0] == role], number
    assert not peer.stream.is_gone
    peer.wakeup.destroy()
