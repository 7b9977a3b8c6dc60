from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from protomux import KeyPair
from protomux_wakeup.cli.keys import (
    CAPABILITY_VARIABLE,
    KEY_VARIABLE,
    read_capability,
    read_key_pair,
    write_secret,
)
from protomux_wakeup.cli.process import Exit, Failure

from .recorder import Recorder

SECRET = bytes(range(32))


@pytest.fixture
def report() -> Recorder:
    return Recorder()


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_capability_comes_from_a_file(tmp_path: Path, report: Recorder) -> None:
    path = private(tmp_path / "capability", f"  {SECRET.hex()}\n\n")
    assert read_capability(path, {}, report) == SECRET
    assert report.complaints == []


def test_a_capability_comes_from_the_environment(report: Recorder) -> None:
    assert read_capability(None, {CAPABILITY_VARIABLE: SECRET.hex().upper()}, report) == SECRET


def test_the_file_is_in_front_of_the_environment(tmp_path: Path, report: Recorder) -> None:
    path = private(tmp_path / "capability", SECRET.hex())
    assert read_capability(path, {CAPABILITY_VARIABLE: "00" * 32}, report) == SECRET


@pytest.mark.parametrize("environment", [{}, {CAPABILITY_VARIABLE: ""}])
def test_without_a_capability_the_error_says_where_to_put_it(
    environment: dict[str, str], report: Recorder
) -> None:
    with pytest.raises(Failure, match="give --capability-file FILE, or set PROTOMUX_") as caught:
        read_capability(None, environment, report)
    assert caught.value.code == Exit.USAGE


def test_a_key_pair_comes_from_a_seed(tmp_path: Path, report: Recorder) -> None:
    path = private(tmp_path / "key", SECRET.hex())
    assert read_key_pair(path, {}, report) == KeyPair.generate(SECRET)
    assert read_key_pair(None, {KEY_VARIABLE: SECRET.hex()}, report) == KeyPair.generate(SECRET)


def test_without_a_seed_the_key_pair_is_random(report: Recorder) -> None:
    assert read_key_pair(None, {}, report) != read_key_pair(None, {}, report)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "0 characters"),
        (SECRET.hex()[1:], "63 characters"),
        ("x" * 64, "64 other characters"),
        ("x" * 100_000, "1024 characters"),
        (SECRET.hex() + "\n" + SECRET.hex(), "129 characters"),
    ],
)
def test_a_wrong_secret_is_not_repeated(
    tmp_path: Path, report: Recorder, text: str, found: str
) -> None:
    path = private(tmp_path / "key", text)
    with pytest.raises(Failure) as caught:
        read_key_pair(path, {}, report)
    assert str(caught.value) == f"expected a seed of 64 hex digits in {path}, got {found}"
    assert caught.value.code == Exit.USAGE


def test_a_wrong_secret_in_the_environment(report: Recorder) -> None:
    with pytest.raises(Failure, match=f"in the environment variable {KEY_VARIABLE}, got 5 char"):
        read_key_pair(None, {KEY_VARIABLE: "hello"}, report)


def test_a_file_that_cannot_be_read(tmp_path: Path, report: Recorder) -> None:
    path = tmp_path / "missing"
    with pytest.raises(Failure) as caught:
        read_capability(path, {}, report)
    assert str(caught.value) == f"cannot read a capability from {path}: No such file or directory"
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_touch_gets_a_warning(
    tmp_path: Path, report: Recorder, mode: int
) -> None:
    path = private(tmp_path / "key", SECRET.hex())
    path.chmod(mode)
    assert read_key_pair(path, {}, report) == KeyPair.generate(SECRET)
    (complaint,) = report.complaints
    assert complaint.kind == "warning"
    assert complaint.message == (
        f"others have access to {path}: expected mode 0600, got {mode:04o}"
    )


def test_a_pipe_has_no_mode_to_warn_of(report: Recorder) -> None:
    reader, writer = os.pipe()
    os.write(writer, SECRET.hex().encode())
    os.close(writer)
    os.fchmod(reader, 0o666)
    assert read_capability(Path(f"/dev/fd/{reader}"), {}, report) == SECRET
    os.close(reader)
    assert report.complaints == []


def test_a_written_secret_can_be_read_by_its_owner_only(tmp_path: Path, report: Recorder) -> None:
    path = tmp_path / "key"
    write_secret(path, SECRET, replace=False)
    assert path.read_text() == SECRET.hex() + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_capability(path, {}, report) == SECRET
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_not_written_over_another(tmp_path: Path) -> None:
    path = private(tmp_path / "key", "precious")
    with pytest.raises(Failure, match=r"key exists already; --force replaces it$"):
        write_secret(path, SECRET, replace=False)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_replaces_another_if_it_is_to(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, SECRET, replace=True)
    assert path.read_text() == SECRET.hex() + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "key"
    with pytest.raises(Failure, match=f"^cannot write {path}: No such file or directory$"):
        write_secret(path, SECRET, replace=False)
