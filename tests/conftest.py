from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.memory import Behind
from tests.moments import settle

# A promise is not about time: an example may take longer on a busy machine.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# Who runs the tests may have turned a signal off (nohup, & in a script), and the programs that they start would inherit that. A
# handler is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

# The modules that take longest. They begin first: one that begins last keeps all workers but one idle at the end.
_LONGEST = (
    "tests/test_docs.py",
    "tests/browser/test_everywhere.py",
    "tests/web/api/test_openapi.py",
    "tests/live/test_vanished.py",
    "tests/commands/test_connect_live.py",
    "tests/live/test_start_errors.py",
    "tests/wire/lane/test_transport.py",
    "tests/test_held.py",
    "tests/channels/test_resume.py",
    "tests/wire/speedups/test_differential.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect the tests without the collector of cycles: all that is made stays, and it would look through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture
def behind() -> Iterator[Behind]:
    """A TCP connection whose peer is behind with reading."""
    found = Behind()
    yield found
    found.end()


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """Spare the collector of cycles what modules have loaded."""
    settle()
