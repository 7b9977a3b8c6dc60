"""Which of the twins are in use, and that they can stand for each other."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import subprocess
import sys

import pytest

from protomux import speedups
from protomux.encoding import uint
from protomux.frames import FrameBuilder
from protomux_wakeup import messages
from protomux_wakeup.messages import Writer

COMPILED = pytest.mark.skipif(
    speedups.implementation == "python",
    reason="the compiled twins were not built, or PROTOMUX_PURE is set",
)
IN_USE = """
from protomux import speedups
from protomux.encoding import uint
from protomux_wakeup import messages
print(speedups.implementation, type(uint).__module__, messages.writers_of.__module__)
"""
BLOCKED = "import sys; sys.modules['protomux._speedups'] = None"


def in_use(pure: str | None, before: str = "") -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PROTOMUX_PURE"}
    if pure is not None:
        environment["PROTOMUX_PURE"] = pure
    command = [sys.executable, "-c", before + IN_USE]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()


PYTHON = ["python", "protomux.encoding", "protomux_wakeup.messages"]


@pytest.mark.parametrize("pure", ["1", "yes"])
def test_the_environment_chooses_python(pure: str) -> None:
    assert in_use(pure) == PYTHON


def test_python_is_in_use_where_nothing_was_compiled() -> None:
    assert in_use(None, BLOCKED) == PYTHON


@COMPILED
@pytest.mark.parametrize("pure", [None, "", "0"])
def test_the_compiled_twins_are_in_use_where_they_were_built(pure: str | None) -> None:
    assert in_use(pure) == ["cython", "protomux._speedups", "protomux._speedups"]


def surface(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@COMPILED
def test_the_twins_have_the_same_surface() -> None:
    from protomux import _speedups

    assert {"_Uint", "AnnounceEncoding", "FrameBuilder"} <= set(_speedups.references)
    for name, reference in _speedups.references.items():
        compiled = getattr(importlib.import_module(reference.__module__), name)
        assert isinstance(compiled, type) == isinstance(reference, type)
        if isinstance(reference, type):
            assert isinstance(compiled, type)
            assert issubclass(compiled, getattr(_speedups, name))
            assert surface(compiled) == surface(reference)
        else:
            assert compiled is getattr(_speedups, name)
        assert getattr(_speedups, name).__doc__


def test_what_has_no_twin_stays_as_it_is() -> None:
    def lonely() -> None: ...

    assert speedups.twin(lonely) is lonely


def test_a_decoded_writer_is_one_in_every_way() -> None:
    encoded = messages.announce.encode([(b"k" * 32, 10**9)])
    (found,), _ = messages.announce.decode(encoded, 0, len(encoded))
    made = Writer(b"k" * 32, 10**9)
    assert type(found) is Writer
    assert found == made == (b"k" * 32, 10**9)
    assert hash(found) == hash(made) == hash((b"k" * 32, 10**9))
    assert (found.key, found.length, found._replace(length=1)) == (b"k" * 32, 10**9, (found[0], 1))
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    assert repr(found) == repr(made)


def test_a_long_batch_is_every_body_in_its_order() -> None:
    bodies = [(1 + index // 3, bytes([index % 256]) * (1 + index % 300)) for index in range(2000)]
    builder = FrameBuilder(2**20, 2**20, 2**20)
    expected = bytearray(b"\x00\x00\x01")
    current = 1
    for channel, body in bodies:
        assert builder.add(channel, body) is None
        if channel != current:
            expected += b"\x00" + uint.encode(channel)
            current = channel
        expected += uint.encode(len(body)) + body
        assert builder.size == len(expected)
    assert builder.take() == bytes(expected)
    assert builder.take() is None
