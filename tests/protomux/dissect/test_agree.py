"""The dissector and the fast codec, asked the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import agree
from fuzz.twins import ALL_CASES, CASES, Case, Disagreement, mutated
from protomux import EncodingError, Protomux, encoding
from protomux.dissect import Conversation, Direction, build, compact, dissect, frames
from tests.golden.replay import RecordingStream

ROOT = Path(__file__).parents[3]
EACH = pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
RANDOMS = st.randoms(use_true_random=False)


@EACH
@given(random=RANDOMS)
def test_both_write_and_read_the_same(case: Case, random: Random) -> None:
    case.check_value(case.make(random))


@EACH
@given(random=RANDOMS, before=st.binary(max_size=4), after=st.binary(max_size=4))
def test_both_read_changed_bytes_alike(
    case: Case, random: Random, before: bytes, after: bytes
) -> None:
    data = mutated(random, case.encode(case.make(random)))
    case.check_bytes(before + data + after, len(before), len(before) + len(data))


@EACH
@given(data=st.binary())
def test_both_read_any_bytes_alike(case: Case, data: bytes) -> None:
    case.check_bytes(data)


@EACH
@given(random=RANDOMS)
def test_what_is_before_the_first_wrong_byte_is_right(case: Case, random: Random) -> None:
    data = mutated(random, case.encode(case.make(random)))
    problem = dissect(case.format, data).problem
    if problem is not None:
        cut = dissect(case.format, data[: problem.offset]).problem
        assert cut is None or cut.offset == problem.offset


@EACH
@given(random=RANDOMS, cut=st.integers(0))
def test_parts_lie_inside_each_other_in_order(case: Case, random: Random, cut: int) -> None:
    data = mutated(random, case.encode(case.make(random)))
    found = dissect(case.format, data, 0, cut % (len(data) + 1))
    for _, node in found.root.walk():
        assert node.is_whole or found.problem is not None
        position = node.start
        for child in node.children:
            assert position <= child.start <= child.end <= node.end
            position = child.end


@EACH
@given(
    value=st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.booleans()
    | st.lists(st.integers())
    | st.builds(object)
    | st.dictionaries(st.sampled_from(["flags", "version", "key", "type"]), st.integers())
)
def test_any_value_is_written_or_refused(case: Case, value: Any) -> None:
    try:
        data = build(case.format, value)
    except EncodingError:
        return
    assert dissect(case.format, data).problem is None


@given(data=st.binary(), random=RANDOMS, is_made=st.booleans())
async def test_a_mux_refuses_what_the_dissector_refuses(
    data: bytes, random: Random, is_made: bool
) -> None:
    if is_made:
        case = CASES[-1 - random.randrange(2)]
        data = mutated(random, case.encode(case.make(random)))
    errors: list[Exception | None] = []

    class Stream(RecordingStream):
        def abort(self, error: Exception | None = None) -> None:
            errors.append(error)

    stream = Stream(True, bytes(64))
    Protomux(stream)
    stream.receive(data)
    problem = Conversation().read(Direction.IN, data).problem
    payload_problem = problem is not None and dissect(frames.frame, data).problem is None
    if problem is not None and not payload_problem:
        assert errors != []
    else:
        assert not any(isinstance(error, EncodingError) for error in errors)


def test_a_short_run() -> None:
    tallies = agree.run(3000, seed=1)
    assert [tally.name for tally in tallies] == [case.name for case in ALL_CASES]
    assert sum(tally.valid for tally in tallies) == 3000
    assert all(tally.refused for tally in tallies if tally.name != "raw")


def run_agree(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz.agree", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command() -> None:
    done = run_agree("--count", "200", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(each["changed"] for each in json.loads(done.stdout)["formats"]) == 200
    done = run_agree("--count", "100", "--seed", "7")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split()[:3] == ["all", "100", "100"]
    done = run_agree("--count", "0")
    assert done.returncode == 2
    assert "--count" in done.stderr


def test_a_disagreement_is_told_with_its_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    different = CASES[0]._replace(format=compact.fixed(1))
    with pytest.raises(Disagreement, match="uint of fd"):
        different.check_value(300)
    monkeypatch.setattr(agree, "ALL_CASES", (different,))
    assert agree.main(["--count", "50"]) == 1
    assert capsys.readouterr().out.startswith("seed 0: uint of ")
    assert agree.main(["--count", "50", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["disagreement"].startswith("uint of ")


def test_a_count_that_is_refused_is_no_whole_part() -> None:
    found = dissect(compact.array(compact.uint), encoding.uint.encode(encoding.MAX_ARRAY + 1))
    assert found.problem is not None
    (count,) = found.root.children
    assert not count.is_whole
