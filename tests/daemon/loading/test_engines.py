from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.daemon.loading import engines
from twisted_ws.daemon.loading.engines import engineMaker
from twisted_ws.daemon.settings import Settings
from twisted_ws.engines.contract import NodeInfo
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.server.server import WebSocketServer


def test_memory():
    """Without --engine, channels are in memory."""
    assert engineMaker(Settings()) is None
    assert engineMaker(Settings(engine="memory:")) is None


def made(settings):
    """Return what an engine's factory is given."""
    return settings


def test_installed(tmp_path, monkeypatch):
    """A scheme names an installed engine, which gets the URL, the password of the file, and what the server has."""
    entry = EntryPoint("kept", f"{__name__}:made", engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda group: [entry])
    password = tmp_path / "password"
    password.write_bytes(b"secret\r\n")
    password.chmod(0o600)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[made.__module__])
    monkeypatch.setattr(engines, "_NEEDED", [])
    make = engineMaker(Settings(engine="kept://there", enginePasswordFile=str(password)))
    server = WebSocketServer()
    found = make(server.runtime)
    assert (found.url, found.password) == ("kept://there", b"secret")
    assert (found.wheel, found.reactor, found.limits) == (server.runtime.wheel, server.reactor, Settings().limits)


class Poor(MemoryEngine):
    """An engine that was written for an earlier version."""

    def __init__(self, settings):
        super().__init__(settings.limits, settings.wheel, settings.wheel.seconds)
        del self.isSlow

    def __getattribute__(self, name):
        if name == "since":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_incomplete(monkeypatch):
    """An engine that lacks something is refused at the start, in one line that says what."""
    entry = EntryPoint("poor", f"{__name__}:Poor", engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda group: [entry])
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Poor.__module__])
    with pytest.raises(ConfigurationError, match=r"^--engine poor: the engine has no isSlow, since, which this version needs"):
        WebSocketServer(engine=engineMaker(Settings(engine="poor:")))


class Three:
    """An engine with three nodes."""

    def nodes(self):
        return succeed([NodeInfo(each, 0, 0.0, "1") for each in "abc"])


class Gone:
    """An engine that has just been lost."""

    def nodes(self):
        return fail(ChannelError("unavailable", "It does not answer."))


@pytest.mark.parametrize(
    ("url", "engine", "lines"),
    [
        ("redis://chat@host", Three(), ["channels over redis://chat@host: 3 nodes"]),
        ("redis://host", Gone(), []),
        ("memory:", Three(), []),
    ],
)
def test_told(url, engine, lines):
    """The log names the engine when it works, with the number of nodes; the one in memory goes without saying."""
    with capturedLogs() as logged:
        Deferred.fromCoroutine(engines.tellEngine(url, engine))
    assert [formatEvent(each) for each in logged] == lines


@pytest.mark.parametrize("url", ["redas://host", "127.0.0.1", "", "://"])
def test_unknown(url):
    """An unknown scheme is refused in one line that names those that there are."""
    with pytest.raises(ConfigurationError, match="memory:, redis:, redis\\+sentinel:, redis\\+unix:, rediss:"):
        engineMaker(Settings(engine=url))


def test_notInstalled(monkeypatch):
    """An engine whose package is missing says what to install."""
    import twisted_ws.engines.redis

    monkeypatch.setattr(twisted_ws.engines, "redis", twisted_ws.engines.redis)  # which is there again afterwards
    monkeypatch.setitem(sys.modules, "hiredis", None)
    for name in [name for name in sys.modules if name.startswith("twisted_ws.engines.redis")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ConfigurationError, match=r"hiredis is not installed\. .*twisted-ws\[redis\]; on Debian, python3-hiredis\.$"
    ):
        engineMaker(Settings(engine="rediss://host"))


def test_mistakes(tmp_path):
    """Options that do not belong together, and files without a password, are refused."""
    empty = tmp_path / "empty"
    empty.write_bytes(b"\n")
    several = tmp_path / "several"
    several.write_bytes(b"user\npassword\n")
    for settings, word in (
        (Settings(enginePasswordFile=str(empty)), "is empty"),
        (Settings(enginePasswordFile=str(several)), "has several lines"),
        (Settings(enginePasswordFile="/nowhere"), "/nowhere"),
        (Settings(engine="memory"), "begins with one of memory:, .*, not 'memory'"),
        (Settings(engine="nothing://user:secret@host"), "begins with one of memory:, .*, not 'nothing'"),
        (Settings(engine="redis://host", historyFile="/tmp/history"), "--history-file"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            engineMaker(settings)
    empty.write_bytes(b"secret")
    with pytest.raises(ConfigurationError, match="needs a server"):
        engineMaker(Settings(enginePasswordFile=str(empty)))
