from __future__ import annotations

import pytest

from protomux_wakeup import Writer
from protomux_wakeup.cli.values import (
    MAX_LENGTH,
    count_of,
    format_writer,
    hex_of,
    parse_key,
    parse_seconds,
    parse_writer,
    short,
)

KEY = "0123456789abcdef" * 4


def test_a_key_is_64_hex_digits() -> None:
    assert parse_key(KEY) == parse_key(KEY.upper()) == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    "text", ["", "ab", KEY[1:], KEY + "0", KEY[:-1] + "g", KEY[:-1] + "\n", " " + KEY[1:], "é" * 64]
)
def test_no_other_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected 64 hex digits, got "):
        parse_key(text)


@pytest.mark.parametrize("length", [0, 17, MAX_LENGTH])
def test_a_writer_as_text_and_back(length: int) -> None:
    writer = parse_writer(f"{KEY}:{length}")
    assert writer == Writer(bytes.fromhex(KEY), length)
    assert format_writer(writer) == f"{KEY}:{length}"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"{KEY}:",
        f":{KEY}",
        f"{KEY}:-1",
        f"{KEY}:1.5",
        f"{KEY}:+1",
        f"{KEY}:1_0",
        f"{KEY}:{MAX_LENGTH + 1}",
        f"{KEY}:{'9' * 5000}",
        f"{KEY}:٣",
        f"{KEY}:1:2",
        f"{KEY[1:]}:1",
    ],
)
def test_no_other_writer(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected KEY:LENGTH, .* from 0 to 9007199254740991"):
        parse_writer(text)


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0.25", 0.25), ("1e3", 1000.0)])
def test_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "ten", ""])
def test_no_other_seconds(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a number of seconds above 0, got "):
        parse_seconds(text)


def test_short_forms() -> None:
    assert short(bytes.fromhex(KEY)) == "0123456789ab…"
    assert short(None) == "?"
    assert hex_of(bytes.fromhex(KEY)) == KEY
    assert hex_of(None) is None
    assert [count_of(number, "log") for number in (0, 1, 2)] == ["0 logs", "1 log", "2 logs"]
    assert count_of(2, "other process") == "2 other processes"
