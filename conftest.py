"""What holds for all tests. Knows no test."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Final

import pytest
from coverage import CoverageData, CoverageException
from hypothesis import settings

MEASURED: Final = pytest.StashKey[str | None]()
"""What makes a child process measure its coverage; for tests in which it does no harm."""

_VARIABLE: Final = "COVERAGE_PROCESS_CONFIG"

_LONGEST: Final = (
    "fuzz/test_mux_machine.py",
    "fuzz/test_stack_machine.py",
    "tests/protomux_wakeup/host/test_takeover.py",
    "tests/test_bench.py",
)
"""They begin first, or one process would be at work on them when all others are done."""

settings.register_profile("shared", deadline=None)  # the machine may have other things to do
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long in front."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Take away what child processes were killed over while they wrote down their coverage."""
    result = yield
    if not hasattr(session.config, "workerinput"):
        for path in sorted(session.config.rootpath.glob(".coverage.*")):
            try:
                CoverageData(str(path)).read()
            except CoverageException:
                path.unlink()
    return result


@pytest.fixture(scope="session", autouse=True)
def _unmeasured(pytestconfig: pytest.Config) -> Iterator[None]:
    """Let child processes be as quick and as quiet as they are without us."""
    found = pytestconfig.stash[MEASURED] = os.environ.pop(_VARIABLE, None)
    yield
    if found is not None:
        os.environ[_VARIABLE] = found


@pytest.fixture
def measured(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes measure their coverage, as this one does."""
    found = pytestconfig.stash[MEASURED]
    if found is not None:
        monkeypatch.setenv(_VARIABLE, found)
