"""The command line, in this process. `test_processes` runs it as users do."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from protomux import KeyPair
from protomux.crypto import discovery_key
from protomux_wakeup.cli import commands, main
from protomux_wakeup.cli.commands import command_line
from protomux_wakeup.cli.keys import CAPABILITY_VARIABLE, KEY_VARIABLE

from .command import environment

KEY = "ab" * 32
SECRET = "01" * 32


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAPABILITY_VARIABLE, SECRET)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def port() -> Iterator[int]:
    """Where `serve` listens in a process of its own; it knows one log."""
    with subprocess.Popen(
        [sys.executable, "-m", "protomux_wakeup", "serve", "--json", "--announce", f"{KEY}:17"],
        env=environment({CAPABILITY_VARIABLE: SECRET}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]
        process.terminate()
        process.stdout.read()
    assert process.returncode == 143


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert "bob   ──▶ alice    connects to 127.0.0.1:" in out
    assert err == ""
    assert main(["demo", "--json"]) == 0
    events = lines(capsys.readouterr().out)
    assert events[0]["who"] == "alice"
    assert events[-1]["event"] == "summary"


def test_demo_can_be_talkative(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-v"]) == 0
    assert logging.getLogger("protomux").handlers == []


def test_lookup(capsys: pytest.CaptureFixture[str], port: int) -> None:
    assert main(["lookup", f"127.0.0.1:{port}"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(f"\n    {KEY}:17\n")
    assert err == ""


def test_lookup_in_json(capsys: pytest.CaptureFixture[str], port: int) -> None:
    assert main(["lookup", f"127.0.0.1:{port}", "--hash", KEY, "--json"]) == 0
    *_, asked, answer = lines(capsys.readouterr().out)
    assert asked["hash"] == KEY
    assert answer["writers"] == [{"key": KEY, "length": 17}]


def test_announce(
    capsys: pytest.CaptureFixture[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["announce", f"127.0.0.1:{port}", "--announce", f"{KEY}:18"]) == 0
    assert capsys.readouterr().out.endswith(f", who took it all\n    {KEY}:18\n")
    reader, writer = os.pipe()
    monkeypatch.setattr(commands, "STDIN", reader)
    os.write(writer, json.dumps({"key": KEY, "length": 19}).encode())
    os.close(writer)
    assert main(["announce", f"127.0.0.1:{port}", "--stdin"]) == 0
    os.close(reader)
    assert capsys.readouterr().out.endswith(f"    {KEY}:19\n")


def test_nobody_proves_the_capability(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv(CAPABILITY_VARIABLE, KEY)
    assert main(["lookup", f"127.0.0.1:{port}", "--timeout", "0.3"]) == 3
    assert capsys.readouterr().err == "error: no peer proved the capability within 0.3 s\n"


class SignalsAtNews(io.StringIO):
    """A stdout that presses Ctrl-C when something is written to it."""

    def flush(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = SignalsAtNews()
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["serve", "--json"]) == 130
    assert [line["event"] for line in lines(stdout.getvalue())] == ["listening", "stopped"]


def test_serve_on_a_unix_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stdout = SignalsAtNews()
    monkeypatch.setattr(sys, "stdout", stdout)
    path = tmp_path / "wakeup.sock"
    assert main(["serve", "--unix", str(path)]) == 130
    assert f"unix:{path}" in stdout.getvalue()
    assert not path.exists()


def test_a_lost_stdout_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    assert main(["serve", "--json"]) == 141


def test_keygen_shows_a_seed_and_its_public_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen"]) == 0
    seed, public = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    assert KeyPair.generate(bytes.fromhex(seed)).public_key.hex() == public
    assert main(["keygen", "--json"]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert list(line) == ["event", "time", "seed", "public_key"]
    assert line["seed"] != seed


def test_keygen_shows_a_capability_and_its_discovery_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["keygen", "--capability"]) == 0
    out = capsys.readouterr().out
    first, second = (line.split()[-1] for line in out.splitlines())
    assert discovery_key(bytes.fromhex(first)).hex() == second
    assert all(len(line) <= 80 for line in out.splitlines())
    assert main(["keygen", "--capability", "--json"]) == 0
    assert list(lines(capsys.readouterr().out)[0]) == [
        "event",
        "time",
        "capability",
        "discovery_key",
    ]


def test_keygen_does_not_show_what_it_writes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "key"
    assert main(["keygen", "--out", str(path), "--json"]) == 0
    (line,) = lines(capsys.readouterr().out)
    seed = path.read_text().strip()
    assert list(line) == ["event", "time", "file", "public_key"]
    assert line["file"] == str(path)
    assert KeyPair.generate(bytes.fromhex(seed)).public_key.hex() == line["public_key"]
    assert main(["keygen", "--out", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path} exists already; --force replaces it\n"
    assert main(["keygen", "--out", str(path), "--force"]) == 0
    assert path.read_text().strip() not in (seed, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keygen", "--force"], "--force is for --out FILE."),
        (["serve", "--unix", "a", "--port", "1"], "--unix is instead of --host and --port."),
        (["serve", "--unix", "a", "--host", "b"], "--unix is instead of --host and --port."),
        (["serve", "--port", "65536"], "65536 is not in the range"),
        (["serve", "--announce", f"{KEY}:x"], f"got '{KEY}:x'"),
        (["serve", "--firewall", "x"], "expected 64 hex digits, got 'x'"),
        (["lookup"], "Missing argument 'HOST:PORT'"),
        (["lookup", "nowhere"], "expected HOST:PORT with a port from 1 to 65535, or unix:PATH"),
        (["lookup", "a:1", "--hash", "x"], "expected 64 hex digits, got 'x'"),
        (["lookup", "a:1", "--remote-key", "x"], "expected 64 hex digits, got 'x'"),
        (["lookup", "a:1", "--timeout", "0"], "expected a number of seconds above 0, got '0'"),
        (["announce", "a:1"], "Nothing to announce: give --announce KEY:LENGTH or --stdin."),
        (["host", "sleep"], "No such command 'sleep'"),
        (["host", "start", "--listen", "x"], "expected HOST:PORT with a port from 0 to 65535"),
        (["host", "start", "--connect", "a:0"], "expected HOST:PORT with a port from 1 to 65535"),
        (["host", "start", "--capability-file", "x"], "--capability-file is for --announce"),
        (["host", "status", "--follow", "--once"], "is for --json"),
        (["host", "stop", "--timeout", "x"], "expected a number of seconds above 0, got 'x'"),
        (["watch", "--as", ""], "expected a name, got ''"),
        (["watch", "--count", "0"], "0 is not in the range"),
        (["sleep"], "No such command 'sleep'"),
        (["demo", "--loud"], "No such option"),
    ],
)
def test_what_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (error,) = lines(err)
    assert error["event"] == "error"
    assert error["exit_code"] == 2


def test_keys_that_are_missing_or_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "nonsense")
    assert main(["serve"]) == 2
    assert "expected a seed of 64 hex digits in the env" in capsys.readouterr().err
    assert main(["lookup", "a:1", "--key-file", str(tmp_path / "missing")]) == 2
    assert "missing: No such file or directory" in capsys.readouterr().err
    monkeypatch.delenv(CAPABILITY_VARIABLE)
    assert main(["announce", "a:1", "--announce", f"{KEY}:1"]) == 2
    assert capsys.readouterr().err == (
        "error: expected a capability: give --capability-file FILE, "
        "or set PROTOMUX_WAKEUP_CAPABILITY\n"
    )


def test_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["lookup", f"127.0.0.1:{port}", "--json"]) == 1
    (error,) = lines(capsys.readouterr().err)
    assert error["message"] == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    assert error["exit_code"] == 1


@pytest.mark.parametrize(
    ("command", "has_exit_codes"),
    [
        ([], True),
        (["demo"], False),
        (["keygen"], False),
        (["serve"], True),
        (["lookup"], True),
        (["announce"], True),
        (["inspect"], True),
        (["replay"], True),
        (["host"], False),
        (["host", "start"], True),
        (["host", "status"], True),
        (["host", "stop"], True),
        (["watch"], True),
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], command: list[str], has_exit_codes: bool) -> None:
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert main([*command, "-h"]) == 0
    assert capsys.readouterr().out == out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert ("    3  no peer proved the capability" in out) is has_exit_codes


@pytest.mark.parametrize("is_installed", [True, False])
def test_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    def version(name: str) -> str:
        if not is_installed:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(commands, "version", version)
    assert main(["--version"]) == 0
    expected = "1.2.3" if is_installed else "(not installed)"
    assert capsys.readouterr().out == f"protomux-wakeup {expected}\n"


def test_help_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "full")

    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", Full())
        assert main(["--help"]) == 1
    assert capsys.readouterr().err == "error: cannot write to stdout: No space left on device\n"


def test_ctrl_c_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_arguments: object, replace: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "write_secret", pressed)
    assert main(["keygen", "--out", "x"]) == 130


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in list(sys.modules):
        if name.startswith("protomux_wakeup.cli."):
            monkeypatch.delitem(sys.modules, name)
        elif name.partition(".")[0] == missing:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo"]) == 1
    assert capsys.readouterr() == (
        "",
        f"The protomux-wakeup command needs {missing}, which is not installed: "
        "pip install 'protomux-wakeup[cli]'\n",
    )


def test_frames_are_inspected_and_replayed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "frames"
    path.write_text("010000 # a message of nobody knows which protocol\n00020\n")
    assert main(["inspect", str(path), "--json"]) == 1
    captured = capsys.readouterr()
    (frame,) = lines(captured.out)
    assert frame["tree"]["children"][2] == {"name": "payload", "start": 2, "end": 3, "value": "00"}
    assert lines(captured.err)[0]["message"].startswith("hex file, byte 55: line 2: ")
    path.write_text("010000\n000207\n")
    assert main(["replay", str(path), "--json", "--format", "hex"]) == 1
    captured = capsys.readouterr()
    assert [line["event"] for line in lines(captured.out)] == [
        "frame_received",
        "frame_sent",  # the open of the topic whose capability is in the environment
        "frame_received",
        "stream_destroyed",
    ]
    *_, error = lines(captured.err)
    assert "invalid reject" in error["message"]


def test_packets_are_inspected_but_not_replayed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "packets"
    path.write_text("ff010000 01000000 02000000 03000000 04000000\n")
    assert main(["inspect", str(path), "--json"]) == 0
    (packet,) = lines(capsys.readouterr().out)
    assert (packet["event"], packet["flags"], packet["stream_id"]) == ("packet", [], 1)
    assert main(["replay", str(path), "--json"]) == 2
    (error,) = lines(capsys.readouterr().err)
    assert error["message"] == "expected a file of frames, got UDX packets in a udx file"
    assert main(["replay", str(path), "--format", "pcap"]) == 2
    assert "Invalid value for '--format'" in capsys.readouterr().err
    path.write_bytes(b"ff01")
    assert main(["inspect", str(path), "--format", "pcap"]) == 1
    assert "expected a pcap or pcapng file" in capsys.readouterr().err


def test_a_record_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "--record", str(tmp_path / "no" / "capture")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("capture: No such file or directory\n")


def test_without_construct_only_what_needs_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("protomux_wakeup.cli.", "protomux.dissect")):
            monkeypatch.delitem(sys.modules, name)
        elif name.partition(".")[0] == "construct":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "construct", None)
    assert main(["keygen"]) == 0
    capsys.readouterr()
    assert main(["inspect", "anything"]) == 1
    assert "needs construct, which is not installed" in capsys.readouterr().err


def test_a_missing_module_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "protomux_wakeup.cli.commands", None)
    with pytest.raises(ModuleNotFoundError):
        main(["demo"])


def test_it_runs_as_a_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["protomux_wakeup", "keygen", "--json"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("protomux_wakeup", run_name="__main__")
    assert caught.value.code == 0
    assert lines(capsys.readouterr().out)[0]["event"] == "keygen"
