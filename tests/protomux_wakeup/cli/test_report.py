from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from rich.text import Text

from protomux_wakeup import Writer
from protomux_wakeup.cli.console import TextReporter, clock, elapsed
from protomux_wakeup.cli.report import JsonReporter, Reporter, library_log

from .recorder import Recorder

KEY = "0123456789abcdef" * 4
WRITER = Writer(bytes.fromhex(KEY), 17)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        raise self._error


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def err() -> io.StringIO:
    return io.StringIO()


def tell(report: Reporter) -> None:
    report.say(
        "peer_added",
        "0123456789ab… has come",
        {"peer": KEY, "number": 1, "nothing": None},
        details=["one detail"],
        writers=[WRITER],
    )


def test_json_is_one_object_a_line(out: io.StringIO, err: io.StringIO) -> None:
    report = JsonReporter(out, err)
    tell(report)
    report.say("stopped", "by somebody")
    report.fail("went wrong", {"exit_code": 1})
    first, second = map(json.loads, out.getvalue().splitlines())
    assert list(first) == ["event", "time", "peer", "number", "nothing", "writers"]
    assert first["event"] == "peer_added"
    assert first["writers"] == [{"key": KEY, "length": 17}]
    assert first["time"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(first["time"])
    assert timedelta(0) <= age + timedelta(milliseconds=1) < timedelta(minutes=1)
    assert list(second) == ["event", "time"]
    error = json.loads(err.getvalue())
    assert (error["event"], error["message"], error["exit_code"]) == ("error", "went wrong", 1)


def test_text_is_plain_where_there_is_no_terminal(out: io.StringIO, err: io.StringIO) -> None:
    report = TextReporter(lambda: "12:00:00", out, err)
    tell(report)
    report.warn("look out", {"unseen": 1})
    assert out.getvalue() == (
        f"12:00:00  peer added         0123456789ab… has come\n    one detail\n    {KEY}:17\n"
    )
    assert err.getvalue() == "warning: look out\n"


def test_text_has_no_time_and_no_label_where_it_needs_none(out: io.StringIO) -> None:
    report = TextReporter(out=out, err=out)
    report.say("keygen", "seed  1", label="")
    report.say("keygen", "starts here", label="alice ──▶ bob")
    assert out.getvalue() == "seed  1\nalice ──▶ bob      starts here\n"


def test_lines_are_never_broken_and_text_is_no_markup(out: io.StringIO) -> None:
    report = TextReporter(out=out, err=out)
    report.say("listening", "[::1]:4000 [bold]:smile:" + " word" * 60)
    assert out.getvalue() == f"{'listening':<17}  [::1]:4000 [bold]:smile:{' word' * 60}\n"


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    report = TextReporter(elapsed(), terminal, terminal)
    tell(report)
    report.fail("went wrong")
    shown = terminal.getvalue()
    assert f"\x1b[36m{KEY}\x1b[0m:\x1b[1;32m17\x1b[0m" in shown
    assert "\x1b[36m0123456789ab…\x1b[0m" in shown
    assert "\x1b[1;31merror\x1b[0m: went wrong" in shown


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    report = TextReporter(out=terminal, err=terminal)
    tell(report)
    report.fail("went wrong")
    assert "\x1b[3" not in terminal.getvalue()
    assert "\x1b[1;3" not in terminal.getvalue()


def test_where_there_is_no_unicode_arrows_are_made_of_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report = TextReporter(out=file, err=file)
    report.say("x", "0123456789ab…", label="a ──▶ b ◀── c")
    report.fail("gone …")
    file.seek(0)
    assert file.read() == f"{'a --> b <-- c':<17}  0123456789ab..\nerror: gone ..\n"


def test_a_terminal_shows_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    report = TextReporter(out=terminal, err=terminal)
    with report.waiting("waiting for [a peer]"):
        pass
    assert "waiting for [a peer]" in terminal.getvalue()


def test_pictures_take_the_place_of_each_other_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    report = TextReporter(out=terminal, err=terminal)
    assert report.can_redraw
    report.say("state", "", picture=Text("before"))
    with report.redrawing():
        report.say("state", "", picture=Text("first"))
        report.say("state", "", picture=Text("second"))
        report.say("news", "in between")
    report.say("state", "", picture=Text("after"))
    before, shown = terminal.getvalue().split("first")
    assert before.startswith("before\n")
    up = "\x1b[2K"  # erases the line of the first
    assert up in shown[: shown.index("second")]
    assert shown.index("in between") < shown.rindex("second") < shown.index("after")


def test_pictures_follow_each_other_elsewhere(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for file in (out, Terminal()):
        report = TextReporter(out=file, err=file)
        assert not report.can_redraw
        with report.redrawing():
            report.say("state", "", picture=Text("first"))
            report.say("state", "", picture=Text("second"))
        assert file.getvalue() == "first\nsecond\n"
    lines = io.StringIO()
    with JsonReporter(lines, lines).redrawing():
        assert not JsonReporter(lines, lines).can_redraw
        JsonReporter(lines, lines).say("state", "", {"a": 1}, picture=Text("first"))
    assert json.loads(lines.getvalue())["a"] == 1


def test_others_do_not(out: io.StringIO) -> None:
    for report in (TextReporter(out=out, err=out), JsonReporter(out, out)):
        with report.waiting("waiting for a peer"):
            pass
    assert out.getvalue() == ""


@pytest.mark.parametrize("kind", [JsonReporter, TextReporter])
@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full")])
def test_a_lost_stdout_is_noted_once(
    kind: type[JsonReporter | TextReporter], error: OSError
) -> None:
    lost: list[str] = []
    report = kind(out=Full(error), err=Full(error))
    tell(report)
    assert isinstance(report.lost, type(error))
    report = kind(out=Full(error), err=Full(error))
    report.on_lost = lambda: lost.append("lost")
    tell(report)
    tell(report)
    assert lost == ["lost"]
    report.fail("nobody hears this")


def test_stamps() -> None:
    datetime.strptime(clock(), "%H:%M:%S")
    stamp = elapsed()
    number, unit = stamp().split()
    assert 0 <= float(number) < 1000
    assert unit == "ms"
    assert len(stamp()) == len(stamp())


def raised() -> RuntimeError:
    try:
        raise RuntimeError("a hook did that")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("name", ["protomux", "protomux_wakeup"])
def test_the_library_log_is_quiet_unless_asked(name: str) -> None:
    report = Recorder()
    log = logging.getLogger(name)
    before = (log.level, log.propagate, list(log.handlers))
    with library_log(report, is_verbose=False):
        log.debug("detail")
        log.error("failed for %r", "x", exc_info=raised())
    assert [tuple(complaint) for complaint in report.complaints] == [
        ("error", "failed for 'x': RuntimeError: a hook did that", {"logger": name})
    ]
    assert (log.level, log.propagate, list(log.handlers)) == before


def test_the_library_log_tells_all_if_asked() -> None:
    report = Recorder()
    log = logging.getLogger("protomux")
    with library_log(report, is_verbose=True):
        log.debug("detail %d", 1)
        log.error("failed", exc_info=raised())
    detail, failed = report.complaints
    assert (detail.kind, detail.message) == ("debug", "detail 1")
    assert failed.message.startswith("failed: RuntimeError: a hook did that\nTraceback ")
    assert failed.message.endswith("RuntimeError: a hook did that")
