from __future__ import annotations

import functools
import gc
import importlib.metadata
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from hostile import processes
from tests.live import nursery
from tests.memory import Behind
from tests.moments import memoryForAll, settle, spareReader

# A promise is not about time: an example may take longer on a busy machine.
settings.register_profile("busy", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("busy")

# Who runs the tests may have turned a signal off (nohup, & in a script), and the programs that they start would inherit that. A
# handler is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

# Before each test, pytest asks which Twisted this is, and would parse its metadata 10,000 times; some tests load hundreds of
# services, each of which looks through all that is installed.
importlib.metadata.version = functools.cache(importlib.metadata.version)
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)

# The modules that take longest. They begin first: one that begins last keeps all workers but one idle at the end.
_LONGEST = (
    "tests/browser/test_everywhere.py",
    "tests/browser/test_site.py",
    "tests/live/test_secrets.py",
    "tests/daemon/test_upgrade_live.py",
    "tests/daemon/test_handover_live.py",
    "tests/live/test_delays.py",
    "tests/live/test_vanished.py",
    "tests/test_packaging.py",
    "tests/web/api/test_openapi.py",
    "tests/live/test_slow_subscribers.py",
    "tests/test_docs.py",
    "tests/commands/connect/test_connect_live.py",
    "tests/live/test_proxies.py",
    "tests/daemon/test_workers_live.py",
    "tests/live/test_start_errors.py",
    "tests/live/test_tls_failures.py",
    "tests/outbox/test_live.py",
    "tests/commands/test_broadcast_live.py",
    "tests/wire/lane/test_transport.py",
    "tests/test_held.py",
    "tests/channels/test_resume.py",
    "tests/wire/speedups/test_differential.py",
)

# The modules whose tests share nothing, and take long: any worker may do any of them.
_APART = {
    "tests/channels/test_resume.py",
    "tests/client/test_others.py",
    "tests/client/test_programs.py",
    "tests/client/test_sync.py",
    "tests/commands/terminal/test_terminal_live.py",
    "tests/commands/test_runner.py",
    "tests/daemon/test_handover_live.py",
    "tests/daemon/test_live.py",
    "tests/daemon/test_upgrade_live.py",
    "tests/daemon/test_workers_life.py",
    "tests/live/test_abuse.py",
    "tests/live/test_clock.py",
    "tests/live/test_descriptors.py",
    "tests/live/test_event_clients.py",
    "tests/live/test_faults.py",
    "tests/live/test_garbage.py",
    "tests/live/test_hostile.py",
    "tests/live/test_life.py",
    "tests/live/test_main_job.py",
    "tests/live/test_openid.py",
    "tests/live/test_secrets.py",
    "tests/live/test_slow_subscribers.py",
    "tests/live/test_vanished.py",
    "tests/test_docs.py",
    "tests/test_held.py",
    "tests/wire/lane/test_transport.py",
    "tests/wire/speedups/test_differential.py",
}


# The modules that share browsers, which take seconds to start: one worker does all that need a Firefox too, another one the rest.
_TOGETHER = {
    f"tests/browser/test_{name}.py": worker
    for worker, names in {
        "Firefox": ("admin", "everywhere", "first_message", "subscription_tokens", "tokens"),
        "Chromium": (
            *("client", "demo_page", "examples", "howto", "openid", "playground"),
            *("site", "state_and_stream", "upgrade", "web_application"),
        ),
    }.items()
    for name in names
}


class _Scheduling(LoadScopeScheduling):
    """Keeps the tests of a module together, but for those that share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return nodeid if module in _APART else _TOGETHER.get(module, module)


def pytest_configure(config: pytest.Config) -> None:
    """Let workers live through tests that are short of memory, and say only what is news: it costs as much as short tests."""
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":  # not that of xdist.remote, whose source is run anew in a worker
            spareReader(plugin.channel.gateway._io)
            plugin.sendevent = functools.partial(_sendNews, plugin.sendevent)


def _sendNews(send: Callable[..., None], name: str, **given: Any) -> None:
    isRoutine = name == "testreport" and given["data"]["outcome"] == "passed" and given["data"]["when"] != "call"
    if not isRoutine and name not in ("logstart", "logfinish"):
        send(name, **given)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """Distribute the tests to the workers."""
    return _Scheduling(config, log)


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


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Let the reader of a worker go on."""
    memoryForAll()


@pytest.fixture
def behind() -> Iterator[Behind]:
    """A TCP connection whose peer is behind with reading."""
    found = Behind()
    yield found
    found.end()


@pytest.fixture
def hostileForked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes of `hostile` forked from the nursery."""
    plain = processes.start

    def start(command: Sequence[str], descriptors: int = 0, **options: Any) -> Any:
        return (nursery.start if nursery.mayFork(command, options) else plain)(command, descriptors, **options)

    monkeypatch.setattr(processes, "start", start)


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """Spare the collector of cycles what modules have loaded."""
    settle()
