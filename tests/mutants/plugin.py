"""Runs chosen tests in the order given, and tells coverage, and in the end the caller, which test runs how long."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHOSEN = os.environ.get("PROXMOM_CHOSEN")
SECONDS = os.environ.get("PROXMOM_SECONDS")
chosen: dict[str, float] = json.loads(Path(CHOSEN).read_text()) if CHOSEN else {}
seconds: defaultdict[str, float] = defaultdict(float)


def pytest_sessionstart() -> None:
    import proxmom

    assert Path(proxmom.__file__).parents[1] == Path.cwd(), proxmom.__file__


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHOSEN:
        order = {name: i for i, name in enumerate(chosen)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """A test of a changed package that takes far longer than before has noticed the change."""
    if SECONDS:
        from coverage import Coverage

        current = Coverage.current()
        assert current is not None
        current.switch_context(item.nodeid)

    def end(*_: object) -> None:
        os._exit(77)

    if CHOSEN:
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, 20 + 10 * chosen[item.nodeid])
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    seconds[report.nodeid] += report.duration


def pytest_sessionfinish() -> None:
    if SECONDS:
        Path(SECONDS).write_text(json.dumps(seconds))
