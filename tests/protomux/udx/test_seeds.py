"""Schedules of all kinds in virtual time, and the command that plays them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protomux.udx.schedule import Schedule, draw, play
from tests.protomux.udx.seeds import Broken, main, run_seed

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("begin", range(0, 300, 30))
def test_seeds_keep_every_rule(begin: int) -> None:
    broken = [
        found for seed in range(begin, begin + 30) if isinstance(found := run_seed(seed), Broken)
    ]
    assert not broken, "\n".join(f"{each.replay}: {each.error}" for each in broken)


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_schedules_keep_every_rule(random: Random) -> None:
    schedule = draw(random)
    try:
        play(schedule)
    except Exception as error:
        again = f"python -m tests.protomux.udx.seeds --schedule '{schedule}'"
        raise AssertionError(f"{error}\n{again}") from error


def test_a_schedule_reads_as_it_was_written() -> None:
    for seed in range(50):
        schedule = draw(Random(seed))
        assert Schedule.parse(str(schedule)) == schedule


def test_a_seed_does_the_same_again() -> None:
    assert run_seed(7) == run_seed(7)


def test_one_seed_is_shown_and_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["7"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{run_seed(7)}\n"
    assert main(["--schedule", said.err.strip()]) == 0
    assert capsys.readouterr().out == said.out


def test_many_seeds_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["0", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == sum(told["endings"].values()) == 4
    assert told["broken"] == []
    assert main(["0", "4", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.startswith("4 seeds: ")


def test_a_broken_rule_is_told_with_its_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A peer that is given up a little sooner than the ladder of timeouts is high.
    monkeypatch.setattr("protomux.udx.recovery.MAX_TIMEOUTS", 5)
    code = main(["40", "42"])
    said = capsys.readouterr()
    assert code == 1
    assert "given up early" in said.err
    assert "python -m tests.protomux.udx.seeds " in said.err
    assert "broke a rule" in said.out


@pytest.mark.parametrize(
    "arguments", [[], ["5", "5"], ["0", "5", "--jobs", "0"], ["1", "--schedule", "{}"]]
)
def test_what_cannot_be_done_is_refused(arguments: list[str]) -> None:
    with pytest.raises((SystemExit, KeyError)):
        main(arguments)


def test_ctrl_c_ends_it_with_what_was_done() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.protomux.udx.seeds", "0", "1000000", "--jobs", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    with process, os.fdopen(ours, "rb", buffering=0) as shown:
        seen = b""
        while b" of 1000000" not in seen:
            seen += shown.read(100)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"Traceback" not in shown.read(10_000)
    assert " seeds: " in said
