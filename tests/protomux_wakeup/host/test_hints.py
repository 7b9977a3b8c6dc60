from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protomux.crypto import discovery_key
from protomux.errors import LimitExceeded
from protomux_wakeup import Writer
from protomux_wakeup.host.errors import StoreFailed
from protomux_wakeup.host.hints import HintLimits, HintStore, Pending, StoredTopic, Watch

CAPABILITY = b"\1" * 32
TOPIC = discovery_key(CAPABILITY)
OTHER = b"\2" * 32
FULL = 2**53 - 1


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def pending(store: HintStore, watcher: str = "gui", topic: bytes = TOPIC) -> list[Writer]:
    return store.pending(watcher, topic, most=1_000).hints


@pytest.fixture
def path(place: Path) -> Path:
    return place / "hints.db"


def test_a_hint_waits_until_it_is_acknowledged(path: Path) -> None:
    store = HintStore(path)
    assert store.watch("gui", CAPABILITY) == TOPIC
    assert store.learn(TOPIC, [(key(1), 5), (key(2), 0), (key(3), FULL)]) is True
    assert pending(store) == [Writer(key(1), 5), Writer(key(2), 0), Writer(key(3), FULL)]
    store.acknowledge("gui", TOPIC, [(key(1), 5), (key(3), FULL - 1)])
    assert pending(store) == [Writer(key(2), 0), Writer(key(3), FULL)]
    assert store.learn(TOPIC, [(key(1), 5), (key(2), 0)]) is False
    assert store.learn(TOPIC, [(key(1), 6), (key(1), 4)]) is True
    store.close()
    store.close()
    store = HintStore(path)
    assert pending(store) == [Writer(key(2), 0), Writer(key(3), FULL), Writer(key(1), 6)]
    store.close()


def test_a_log_that_grows_goes_to_the_end(path: Path) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    store.learn(TOPIC, [(key(number), 1) for number in range(5)])
    first = store.pending("gui", TOPIC, most=2)
    assert (first.hints, first.is_all) == ([Writer(key(0), 1), Writer(key(1), 1)], False)
    store.learn(TOPIC, [(key(0), 2), (key(4), 2)])
    rest = store.pending("gui", TOPIC, after=first.through, most=10)
    assert rest.hints == [
        Writer(key(2), 1),
        Writer(key(3), 1),
        Writer(key(0), 2),
        Writer(key(4), 2),
    ]
    assert store.pending("gui", TOPIC, after=rest.through, most=10) == Pending(
        [], rest.through, True
    )
    store.close()


def test_watchers_do_not_know_of_each_other(path: Path) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    store.learn(TOPIC, [(key(1), 5)])
    store.acknowledge("gui", TOPIC, [(key(1), 5)])
    store.acknowledge("indexer", TOPIC, [(key(1), 5)])  # which is none
    store.watch("indexer", CAPABILITY)
    store.watch("gui", CAPABILITY)
    assert pending(store) == []
    assert pending(store, "indexer") == [Writer(key(1), 5)]
    store.unwatch("gui", TOPIC)
    store.watch("gui", CAPABILITY)
    assert pending(store) == [Writer(key(1), 5)]
    store.close()


def test_a_topic_goes_when_nobody_needs_it(path: Path) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    store.watch("indexer", CAPABILITY, is_ephemeral=True)
    store.watch("gui", OTHER)
    assert store.announce(OTHER, [(key(1), 1)]) == [Writer(key(1), 1)]
    store.learn(TOPIC, [(key(1), 5)])
    assert store.ephemeral_watches() == [Watch("indexer", TOPIC)]
    assert store.unwatch("gui", TOPIC) is False
    assert store.unwatch("nobody", TOPIC) is False
    assert store.unwatch("indexer", TOPIC) is True
    assert store.unwatch("gui", discovery_key(OTHER)) is False
    assert store.topics() == [StoredTopic(discovery_key(OTHER), OTHER, 0, 1, 0)]
    with pytest.raises(ValueError, match=r"^expected a topic that is watched or announced, got "):
        store.learn(TOPIC, [(key(1), 5)])
    store.watch("gui", CAPABILITY)
    assert pending(store) == []
    store.close()


def test_what_is_announced_only_grows(path: Path) -> None:
    store = HintStore(path)
    assert store.announce(CAPABILITY, []) == []
    assert store.topics() == []
    first = [(key(1), 5), (key(2), 0), (key(1), 7), (key(1), 6)]
    assert store.announce(CAPABILITY, first) == [Writer(key(1), 7), Writer(key(2), 0)]
    assert store.announce(CAPABILITY, first) == []
    assert store.announce(CAPABILITY, [(key(1), 6), (key(2), 1)]) == [Writer(key(2), 1)]
    assert store.announced(TOPIC) == [Writer(key(1), 7), Writer(key(2), 1)]
    store.close()


def test_a_topic_has_room_for_so_many_logs(path: Path) -> None:
    store = HintStore(path, limits=HintLimits(keys=3))
    store.watch("gui", CAPABILITY)
    store.learn(TOPIC, [(key(1), 1), (key(2), 1)])
    with pytest.raises(LimitExceeded, match=r"^expected at most 3 logs in a topic, one more came$"):
        store.learn(TOPIC, [(key(1), 9), (key(3), 1), (key(4), 1)])
    assert pending(store) == [Writer(key(1), 1), Writer(key(2), 1)]
    store.learn(TOPIC, [(key(1), 9), (key(3), 1)])
    store.learn(TOPIC, [(key(2), 9), (key(3), 9)])
    store.announce(CAPABILITY, [(key(number), 1) for number in range(3)])
    with pytest.raises(LimitExceeded):
        store.announce(CAPABILITY, [(key(0), 2), (key(3), 1)])
    store.commit()
    assert len(pending(store)) == 3
    assert store.announced(TOPIC) == [Writer(key(number), 1) for number in range(3)]
    store.close()


def test_a_topic_has_room_for_so_many_watchers(path: Path) -> None:
    store = HintStore(path, limits=HintLimits(watchers=2, name=8))
    store.watch("a", CAPABILITY)
    store.watch("b", CAPABILITY)
    store.watch("b", CAPABILITY)
    with pytest.raises(LimitExceeded, match=r"^expected at most 2 watchers of a topic"):
        store.watch("c", CAPABILITY)
    store.watch("c", OTHER)
    for name in ("", "x" * 9, "a\nb", "\0"):
        with pytest.raises(ValueError, match=r"^expected the name of a watcher to have 1 to 8 "):
            store.watch(name, b"\3" * 32)
    assert [topic.watchers for topic in store.topics()] == [2, 1]
    store.close()


@pytest.mark.parametrize("writer", [(b"\1" * 31, 1), (b"\1" * 32, -1), (b"\1" * 32, 2**53)])
def test_no_other_writers(path: Path, writer: tuple[bytes, int]) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    for method in (store.learn, store.announce):
        with pytest.raises(ValueError, match=r"^expected a key of 32 bytes and a length from 0"):
            method(TOPIC if method == store.learn else CAPABILITY, [(key(1), 1), writer])
    with pytest.raises(ValueError, match=r"^expected a key of 32 bytes and a length from 0"):
        store.acknowledge("gui", TOPIC, [writer])
    assert pending(store) == []
    store.close()


def test_the_file_is_for_its_owner_alone_and_the_seed_stays(path: Path) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    store.commit()
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    seed = store.seed
    assert len(seed) == 32
    assert repr(CAPABILITY) not in repr(store.topics())
    store.close()
    path.chmod(0o644)
    store = HintStore(path)
    assert store.seed == seed
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


# Files that are none


def test_a_file_of_a_later_version(path: Path) -> None:
    HintStore(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StoreFailed, match=r"hints.db to be of version 1 or earlier, .* version 7"):
        HintStore(path)


def test_another_database(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE cookies (name TEXT)")
    db.close()
    with pytest.raises(StoreFailed, match=r"^expected a file of ours at .* another database$"):
        HintStore(path)


def test_no_database(path: Path) -> None:
    path.write_bytes(b"what else can be in a file" * 1000)
    with pytest.raises(StoreFailed, match=r"hints.db: file is not a database$"):
        HintStore(path)


def test_a_damaged_file(path: Path) -> None:
    store = HintStore(path)
    store.watch("gui", CAPABILITY)
    store.learn(TOPIC, [(key(number), 1) for number in range(1000)])
    store.close()
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 64] = b"\xa5" * 64
    path.write_bytes(data)
    with pytest.raises(StoreFailed, match=r"hints.db"):
        HintStore(path)


def test_no_place_for_a_file(place: Path) -> None:
    with pytest.raises(StoreFailed, match=r"^cannot open .*/none/hints.db: No such file"):
        HintStore(place / "none" / "hints.db")
    (place / "link.db").symlink_to(place / "hints.db")
    with pytest.raises(StoreFailed, match=r"^cannot open .*/link.db: Too many levels"):
        HintStore(place / "link.db")


# Other processes


def child(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLDER = """
import sys
from protomux_wakeup.host.hints import HintStore
store = HintStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(path: Path) -> None:
    with child(HOLDER, path) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(StoreFailed, match=r"hints.db: database is locked$"):
                HintStore(path)
        finally:
            process.kill()
    HintStore(path).close()


COMMITTER = """
import sys
from protomux.crypto import discovery_key
from protomux_wakeup.host.hints import HintStore
capability = b"\\1" * 32
topic = discovery_key(capability)
store = HintStore(sys.argv[1])
store.watch("gui", capability)
for number in range(10**9):
    key = (number % 5000).to_bytes(32, "big")
    store.learn(topic, [(key, number)])
    store.announce(capability, [(key, number)])
    if number % 3 == 0:
        store.acknowledge("gui", topic, [(key, number)])
    store.commit()
    print(number, flush=True)
"""


@pytest.mark.parametrize("commits", [1, 40, 6000])
def test_what_was_committed_survives_sigkill(path: Path, commits: int) -> None:
    with child(COMMITTER, path) as process:
        assert process.stdout is not None
        for _ in range(commits):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    last = int(said[-1]) if said else commits - 1
    store = HintStore(path)
    announced = dict(store.announced(TOPIC))
    store.watch("another", CAPABILITY)
    known = dict(store.pending("another", TOPIC, most=10_000).hints)
    unknown = dict(store.pending("gui", TOPIC, most=10_000).hints)
    for number in range(max(0, last - 4999), last + 1):
        name = key(number % 5000)
        # One commit more may have been made, and not been told of.
        assert known[name] >= number
        assert announced[name] == known[name]
        if known[name] == number:
            assert (name in unknown) is (number % 3 != 0)
    assert len(known) <= last + 2
    store.close()


# Beside a plain model

KEYS = st.integers(0, 5).map(key)
LENGTHS = st.sampled_from([0, 1, 2, 3, 100, FULL])
WRITERS = st.lists(st.tuples(KEYS, LENGTHS), max_size=6)
WATCHERS = st.sampled_from(["gui", "indexer", "übersicht"])
CAPABILITIES = st.sampled_from([CAPABILITY, OTHER])
LIMITS = HintLimits(keys=4, watchers=2)


class Model:
    """A store of dicts."""

    def __init__(self) -> None:
        # Of each topic; hints in order of arrival.
        self.hints: dict[bytes, dict[bytes, int]] = {}
        self.announced: dict[bytes, dict[bytes, int]] = {}
        self.watches: dict[bytes, dict[str, tuple[bool, dict[bytes, int]]]] = {}

    def copy(self) -> Model:
        copy = Model()
        copy.hints = {topic: dict(hints) for topic, hints in self.hints.items()}
        copy.announced = {topic: dict(logs) for topic, logs in self.announced.items()}
        copy.watches = {
            topic: {name: (flag, dict(known)) for name, (flag, known) in watches.items()}
            for topic, watches in self.watches.items()
        }
        return copy

    def add(self, topic: bytes) -> None:
        for table in (self.hints, self.announced, self.watches):
            table.setdefault(topic, {})


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.store = HintStore(self.place / "hints.db", limits=LIMITS)
        self.model = Model()
        self.committed = Model()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.place)

    @rule(watcher=WATCHERS, capability=CAPABILITIES, is_ephemeral=st.booleans())
    def watch(self, watcher: str, capability: bytes, is_ephemeral: bool) -> None:
        topic = discovery_key(capability)
        watches = self.model.watches.get(topic, {})
        if watcher not in watches and len(watches) >= LIMITS.watchers:
            with pytest.raises(LimitExceeded):
                self.store.watch(watcher, capability, is_ephemeral=is_ephemeral)
            return
        assert self.store.watch(watcher, capability, is_ephemeral=is_ephemeral) == topic
        self.model.add(topic)
        known = watches[watcher][1] if watcher in watches else {}
        self.model.watches[topic][watcher] = is_ephemeral, known

    @precondition(lambda self: self.model.hints)
    @rule(watcher=WATCHERS, data=st.data())
    def unwatch(self, watcher: str, data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from(list(self.model.hints)))
        self.model.watches[topic].pop(watcher, None)
        is_over = not self.model.watches[topic] and not self.model.announced[topic]
        assert self.store.unwatch(watcher, topic) is is_over
        if is_over:
            for table in (self.model.hints, self.model.announced, self.model.watches):
                del table[topic]

    @precondition(lambda self: self.model.hints)
    @rule(writers=WRITERS, data=st.data())
    def learn(self, writers: list[tuple[bytes, int]], data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from(list(self.model.hints)))
        hints = self.model.hints[topic]
        if len(hints.keys() | dict(writers).keys()) > LIMITS.keys:
            with pytest.raises(LimitExceeded):
                self.store.learn(topic, writers)
            return
        before = list(hints.items())
        for name, length in writers:
            if length > hints.get(name, -1):
                hints.pop(name, None)
                hints[name] = length
        assert self.store.learn(topic, writers) is (list(hints.items()) != before)

    @rule(writers=WRITERS, capability=CAPABILITIES)
    def announce(self, writers: list[tuple[bytes, int]], capability: bytes) -> None:
        topic = discovery_key(capability)
        before = self.model.announced.get(topic, {})
        if len(before.keys() | dict(writers).keys()) > LIMITS.keys:
            with pytest.raises(LimitExceeded):
                self.store.announce(capability, writers)
            return
        after = dict(before)
        for name, length in writers:
            after[name] = max(length, after.get(name, 0))
        grown = {name: length for name, length in after.items() if length > before.get(name, -1)}
        assert dict(self.store.announce(capability, writers)) == grown
        if writers:
            self.model.add(topic)
            self.model.announced[topic] = after

    @precondition(lambda self: self.model.hints)
    @rule(watcher=WATCHERS, writers=WRITERS, data=st.data())
    def acknowledge(
        self, watcher: str, writers: list[tuple[bytes, int]], data: st.DataObject
    ) -> None:
        topic = data.draw(st.sampled_from(list(self.model.hints)))
        self.store.acknowledge(watcher, topic, writers)
        _, known = self.model.watches[topic].get(watcher, (False, {}))
        for name, length in writers:
            if name in self.model.hints[topic]:
                known[name] = max(length, known.get(name, 0))

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.committed = self.model.copy()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.committed = self.model.copy()
        self.store = HintStore(self.place / "hints.db", limits=LIMITS)

    @rule()
    def come_back_after_a_kill(self) -> None:
        """What is in the files now is what the next process finds."""
        copy = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        for file in self.place.iterdir():
            shutil.copyfile(file, copy / file.name)
        self.store.close()
        shutil.rmtree(self.place)
        self.place = copy
        self.store = HintStore(self.place / "hints.db", limits=LIMITS)
        self.model = self.committed.copy()

    @invariant()
    def both_agree(self) -> None:
        model = self.model
        assert {
            topic.id: (topic.hints, topic.announced, topic.watchers)
            for topic in self.store.topics()
        } == {
            topic: (len(hints), len(model.announced[topic]), len(model.watches[topic]))
            for topic, hints in model.hints.items()
        }
        ephemeral = {
            Watch(watcher, topic)
            for topic, watches in model.watches.items()
            for watcher, (is_ephemeral, _) in watches.items()
            if is_ephemeral
        }
        assert set(self.store.ephemeral_watches()) == ephemeral
        for topic, watches in model.watches.items():
            assert dict(self.store.announced(topic)) == model.announced[topic]
            for watcher, (_, known) in watches.items():
                expected = [
                    (name, length)
                    for name, length in model.hints[topic].items()
                    if length > known.get(name, -1)
                ]
                for most in (1, 3, 100):
                    assert self.by_parts(watcher, topic, most) == expected

    def by_parts(self, watcher: str, topic: bytes, most: int) -> list[Writer]:
        found: list[Writer] = []
        after = 0
        while True:
            part = self.store.pending(watcher, topic, after=after, most=most)
            found += part.hints
            after = part.through
            if part.is_all:
                return found


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
