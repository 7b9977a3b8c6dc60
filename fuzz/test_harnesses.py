"""Every harness over its corpus and regressions, without Atheris, and the command around them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzz.campaign import CORPUS, REGRESSIONS
from fuzz.harness import TARGETS, load, script
from fuzz.harness.script import Step

ROOT = CORPUS.parent.parent


def inputs(root: Path, target: str) -> list[Path]:
    return sorted(path for path in (root / target).glob("*") if path.is_file())


EACH = pytest.mark.parametrize("target", TARGETS)
FOUND = [
    pytest.param(target, path, id=f"{target}-{path.name}")
    for target in TARGETS
    for path in inputs(REGRESSIONS, target)
]


@EACH
def test_the_corpus_holds_no_finding(target: str) -> None:
    harness = load(target)
    paths = inputs(CORPUS, target)
    assert paths
    for path in paths:
        data = path.read_bytes()
        assert len(data) <= harness.MAX_SIZE
        harness.run(data)


@pytest.mark.parametrize(("target", "path"), FOUND)
def test_what_was_found_once_is_mended(target: str, path: Path) -> None:
    load(target).run(path.read_bytes())


@EACH
def test_inputs_near_the_corpus_hold_no_finding(target: str) -> None:
    choice = random.Random(target)
    harness = load(target)
    seeds = [path.read_bytes() for path in inputs(CORPUS, target)]

    def changed(data: bytes, most: int) -> bytes:
        content = bytearray(data)
        if content:
            content[choice.randrange(len(content))] = choice.randrange(256)
        return bytes(content[:most])

    for _ in range(200):
        data = choice.choice(seeds)
        if harness.OPS is None:
            data = changed(data, harness.MAX_SIZE)
        else:
            data = script.crossed(
                data, choice.choice(seeds), harness.MAX_SIZE, choice.getrandbits(30)
            )
            data = script.mutated(data, harness.MAX_SIZE, choice.getrandbits(30), changed)
        assert len(data) <= harness.MAX_SIZE
        harness.run(data)


def test_a_script_reads_as_it_was_written() -> None:
    steps = [Step(0, b"abc"), Step(200), Step(7, bytes(300))]
    assert script.parse(script.render(5, steps)) == (5, steps)
    assert script.parse(b"") == (0, [])
    assert script.parse(b"\x01\x02\xff\xffab") == (1, [Step(2, b"ab")])


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_reproduce_shows_the_steps_of_an_input() -> None:
    path = inputs(CORPUS, "wakeup")[0]
    done = command("reproduce", "wakeup", path)
    assert done.returncode == 0
    assert "ADD_STREAM" in done.stdout
    assert done.stdout.endswith("no finding\n")


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs Atheris")
def test_run_fuzzes_every_target_and_counts(tmp_path: Path) -> None:
    done = command("run", "--runs", "300", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {each["target"] for each in told["targets"]} == set(TARGETS)
    assert all(each["executions"] >= 300 for each in told["targets"])
    assert not told["total"]["crashes"]


@pytest.mark.skipif(find_spec("atheris") is not None, reason="Atheris is here")
def test_run_says_that_atheris_is_missing() -> None:
    done = command("run", "encoding=1")
    assert done.returncode == 2
    assert "pip install --group fuzz" in done.stderr
