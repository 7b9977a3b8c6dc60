from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from protomux_wakeup.host.backends.engine import Launch
from protomux_wakeup.host.backends.errors import Superseded
from protomux_wakeup.host.backends.store import BackendStore, StoredBackend, StoredToken
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    HardTerminating,
    Loading,
    Ready,
    Scheduled,
    SpawnConfig,
    Starting,
    Terminated,
    Terminating,
    TerminationKind,
    TerminationReason,
    Waiting,
)
from protomux_wakeup.host.errors import StoreFailed
from tests.protomux_wakeup.host.backends.world import command, news, request

TIME = "2026-01-01T00:00:00.000Z"
REASON = TerminationReason.SWEPT
STATES: dict[BackendStatus, BackendState] = {
    state.status: state
    for state in (
        Scheduled(time=TIME),
        Loading(time=TIME),
        Starting(time=TIME),
        Waiting(time=TIME),
        Ready(time=TIME),
        Terminating(time=TIME, termination_reason=REASON),
        HardTerminating(time=TIME, termination_reason=REASON),
        Terminated(
            time=TIME,
            termination_reason=REASON,
            termination_kind=TerminationKind.HARD,
            exit_error=True,
        ),
    )
}
SCHEDULED = STATES[BackendStatus.SCHEDULED]
READY = STATES[BackendStatus.READY]
TERMINATED = STATES[BackendStatus.TERMINATED]


@pytest.fixture
def path(place: Path) -> Path:
    return place / "backends.db"


def launch(backend_id: str, key: str = "k", fencing_token: int = 1) -> Launch:
    return Launch(
        backend_id=backend_id,
        key=key,
        fencing_token=fencing_token,
        term=3,
        request=request(key, user="ann", auth={"a": [1, None]}, lifetime_limit_seconds=5),
        command=command("run", "it"),
        news=(news(1), news(2, 2**53 - 1)),
    )


def add(store: BackendStore, backend_id: str, key: str = "k") -> Launch:
    wanted = launch(backend_id, key, store.fencing_token(1))
    store.add_backend(wanted, "default", 12.5, SCHEDULED)
    return wanted


# Managers


def test_a_manager_of_an_earlier_term_is_refused(path: Path) -> None:
    store = BackendStore(path)
    store.open(7)
    store.open(7)
    with pytest.raises(Superseded, match=r"^expected a term of 7 or later, got 6$"):
        store.open(6)
    store.close()
    store = BackendStore(path)
    with pytest.raises(Superseded):
        store.open(6)
    store.open(1_800_000_000_000)
    with pytest.raises(Superseded, match=r"^expected a term of 1800000000000 or later, got 7$"):
        store.open(7)
    store.close()


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    store = BackendStore(path)
    add(store, "a")
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    store.close()
    store.close()


# Backends


def test_a_backend_comes_back_as_it_was(path: Path) -> None:
    store = BackendStore(path)
    first = add(store, "a", "first")
    second = add(store, "b", "second")
    assert store.move("a", READY)
    store.close()
    store = BackendStore(path)
    assert store.backends() == [
        StoredBackend("a", "first", "default", 12.5, first, [SCHEDULED, READY]),
        StoredBackend("b", "second", "default", 12.5, second, [SCHEDULED]),
    ]
    store.close()


def test_one_that_cannot_be_read_has_ended(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = BackendStore(path)
    wrong = launch("a", "first")
    config = SpawnConfig(max_idle_seconds=2**31)  # nothing checks what is made here
    wrong = replace(wrong, request=replace(wrong.request, spawn=config))
    store.add_backend(wrong, "default", 12.5, SCHEDULED)
    right = add(store, "b", "second")
    found, other = store.backends()
    assert "backend a cannot be read" in caplog.text
    assert (found.launch, found.states[0], other.launch) == (None, SCHEDULED, right)
    (end,) = found.states[1:]
    assert isinstance(end, Terminated)
    assert end.termination_reason is TerminationReason.INTERNAL_ERROR
    assert store.backends() == [found, other]
    assert [each.state for each in store.states_after(0, 9) if each.backend_id == "a"] == (
        found.states
    )
    add(store, "c", "first")
    store.close()


def test_of_one_that_has_ended_nothing_is_kept_of_what_it_ran(path: Path) -> None:
    store = BackendStore(path)
    add(store, "a")
    with pytest.raises(StoreFailed, match=r"UNIQUE constraint failed: backend.key"):
        add(store, "b")
    assert store.move("a", TERMINATED)
    (ended,) = store.backends()
    assert ended == ("a", "k", "default", 12.5, None, [SCHEDULED, TERMINATED])
    add(store, "b")
    assert [each.launch is None for each in store.backends()] == [True, False]
    store.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT launch FROM backend WHERE id = 'a'").fetchall() == [(None,)]
    db.close()


def test_fencing_tokens_grow_and_are_not_used_again(path: Path) -> None:
    store = BackendStore(path)
    assert store.fencing_token(1_000) == 1_000
    add(store, "a", "first")
    last = 0
    for number, least in enumerate([50, 1_000, 7, 7, 2**53]):
        token = store.fencing_token(least)
        assert token > last
        assert token >= least
        last = token
        store.add_backend(launch(f"b{number}", f"k{number}", token), None, 1.0, SCHEDULED)
        store.forget(f"b{number}")
        store.close()
        store = BackendStore(path)
    store.close()


def test_nothing_is_known_of_others(path: Path) -> None:
    store = BackendStore(path)
    assert store.backends() == []
    assert store.states_after(0, 10) == []
    assert store.move("x", READY) is False
    assert store.token(b"x") is None
    assert store.ended(but=0) == []
    store.forget("x")
    store.extend_token(b"x", 5.0)
    store.add_token(b"x", StoredToken("x", None, None, 5.0), 0.0)
    assert store.token(b"x") is None
    store.close()


# Tokens


def test_tokens(path: Path) -> None:
    store = BackendStore(path)
    add(store, "a")
    add(store, "b", "other")
    ann = StoredToken("a", "ann", {"roles": ["x", {"y": None}]}, 100.0)
    bob = StoredToken("b", None, None, 50.0)
    store.add_token(b"1", ann, 0.0)
    store.add_token(b"2", bob, 0.0)
    assert (store.token(b"1"), store.token(b"2")) == (ann, bob)
    store.extend_token(b"1", 200.0)
    store.close()
    store = BackendStore(path)
    assert store.token(b"1") == ann._replace(expires=200.0)
    store.add_token(b"3", ann, 49.9)
    assert store.token(b"2") == bob
    store.add_token(b"4", ann, 50.0)
    assert store.token(b"2") is None
    store.move("a", TERMINATED)
    assert [store.token(digest) for digest in (b"1", b"3", b"4")] == [None] * 3
    store.add_token(b"5", bob, 0.0)
    store.forget("b")
    assert store.token(b"5") is None
    store.close()


# Beside a plain model

IDS = st.sampled_from(["a", "b", "c", "d"])


class StoreMachine(RuleBasedStateMachine):
    """A store, beside a list of what was written, which is what the next process has to find."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        self.store = BackendStore(self.place / "backends.db")
        self.states: list[tuple[str, BackendState]] = []
        self.numbers: list[int] = []
        self.last = 0
        self.ended: list[str] = []

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.place)

    def of(self, backend_id: str) -> list[BackendState]:
        return [state for id, state in self.states if id == backend_id]

    def note(self, backend_id: str, state: BackendState) -> None:
        self.states.append((backend_id, state))
        found = self.store.states_after(self.last, 10)
        assert len(found) == 1
        assert found[0].number > self.last
        self.last = found[0].number
        self.numbers.append(self.last)

    @rule(backend_id=IDS)
    def add(self, backend_id: str) -> None:
        if not self.of(backend_id):
            add(self.store, backend_id, f"key of {backend_id}")
            self.note(backend_id, SCHEDULED)

    @rule(backend_id=IDS, status=st.sampled_from(BackendStatus))
    def move(self, backend_id: str, status: BackendStatus) -> None:
        before = self.of(backend_id)
        is_later = bool(before) and before[-1].status.is_before(status)
        assert self.store.move(backend_id, STATES[status]) is is_later
        if is_later:
            self.note(backend_id, STATES[status])
            if status is BackendStatus.TERMINATED:
                self.ended.append(backend_id)

    @precondition(lambda self: self.ended)
    @rule()
    def forget(self) -> None:
        oldest = self.ended.pop(0)
        self.store.forget(oldest)
        kept = [index for index, (id, _) in enumerate(self.states) if id != oldest]
        self.numbers = [self.numbers[index] for index in kept]
        self.states = [self.states[index] for index in kept]

    @rule()
    def come_back_after_a_kill(self) -> None:
        """What is in the files now is what the next process finds."""
        copy = Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp"))
        for file in self.place.iterdir():
            shutil.copyfile(file, copy / file.name)
        self.store.close()
        shutil.rmtree(self.place)
        self.place = copy
        self.store = BackendStore(self.place / "backends.db")

    @invariant()
    def both_agree(self) -> None:
        assert [(id, state) for _, id, state in self.store.states_after(0, 1_000)] == self.states
        assert [each.number for each in self.store.states_after(0, 1_000)] == self.numbers
        for index, number in enumerate(self.numbers):
            found = self.store.states_after(number, 2)
            assert [(id, state) for _, id, state in found] == self.states[index + 1 : index + 3]
        for stored in self.store.backends():
            assert stored.states == self.of(stored.backend_id)
            assert (stored.launch is None) is (stored.backend_id in self.ended)
        assert {each.backend_id for each in self.store.backends()} == {id for id, _ in self.states}
        for but in range(4):
            older = self.ended[: max(0, len(self.ended) - but)]
            assert self.store.ended(but=but) == older


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
