from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from tests.daemon.support import PortsReactor
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.process import ProcessDaemon
from twisted_ws.daemon.settings import Settings
from twisted_ws.daemon.workers.cores import cores
from twisted_ws.daemon.workers.starting import daemonFor
from twisted_ws.daemon.workers.supervisor import Supervisor, oldAtBroadcastSite
from twisted_ws.errors import ConfigurationError


@pytest.fixture(autouse=True)
def descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor limit of the test process stays."""
    monkeypatch.setattr("resource.setrlimit", lambda which, limits: None)


OFF = {"port": "0", "broadcastPort": "off"}


def test_oneProcess() -> None:
    """Without --workers there is one process that does all."""
    assert type(daemonFor(Settings(**OFF))) is ProcessDaemon


@pytest.mark.parametrize(("workers", "count"), [(1, 1), (3, 3), (0, cores())])
def test_supervisor(workers: int, count: int) -> None:
    """With it there is a supervisor with so many slots, 0 for as many as there are cores that this process may use."""
    daemon = daemonFor(Settings(**OFF, workers=workers))
    assert isinstance(daemon, Supervisor)
    assert daemon.count == count


def _supervisor(**settings: Any) -> Supervisor:
    return Supervisor(Settings(**{**OFF, "workers": 2, **settings}), reactor=PortsReactor())


def test_noServicesHere() -> None:
    """A supervisor imports no service: whatever is wrong with one, it is not in the process that must not fail."""
    assert _supervisor().server.services == {}


def test_mistakes() -> None:
    """What the supervisor can see by itself is refused as without workers."""
    with pytest.raises(ConfigurationError, match="There is no port for WebSocket"):
        _supervisor(port="off")
    with pytest.raises(ConfigurationError, match="There is a certificate, but no port for it"):
        _supervisor(certificate="/nowhere")
    with pytest.raises(ConfigurationError, match="--port and --tls-port both use port 8080"):
        _supervisor(port="8080", tlsPort="8080")


def test_certificatesAreTheWorkers() -> None:
    """A supervisor reads the certificate only for a port of its own."""
    _supervisor(tlsPort="0", certificate="/nowhere")
    with pytest.raises(ConfigurationError, match="/nowhere"):
        _supervisor(broadcastTlsPort="0", certificate="/nowhere")


def test_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is ready while a worker is, and draining as soon as workers are asked to leave."""
    supervisor = _supervisor()
    assert supervisor.server.readiness() == "starting"
    monkeypatch.setattr(supervisor.crew, "readiness", lambda: None)
    assert supervisor.server.readiness() is None
    left: Deferred[None] = Deferred()
    monkeypatch.setattr(supervisor.crew, "stop", lambda: left)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    stopped = supervisor.stopService()
    assert supervisor.server.isStopping
    assert supervisor.server.readiness() == "draining"
    assert not stopped.called
    left.callback(None)


def test_anEndpointOfItsOwnKind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that does not listen through the reactor cannot be shared, and that is said."""

    class Own:
        def listen(self, factory: Any) -> Any:
            return succeed(self)

        def getHost(self) -> Any:
            return None

        def stopListening(self) -> None:
            pass

    monkeypatch.setattr(ListenAddress, "endpoint", lambda *arguments: Own())
    with pytest.raises(ConfigurationError, match="--listen own:5 cannot be shared by workers: give a port, unix: or systemd:"):
        _supervisor(port="off", listen=("own:5",)).listen()


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (Settings(), ["allowed-host"]),
        (Settings(broadcastTlsPort="8443"), ["certificate", "allowed-host"]),
        (Settings(broadcastPort="off"), []),
    ],
)
def test_whatTheBroadcastSiteKeeps(old: Settings, told: list[str]) -> None:
    """After new workers have taken changed settings over, those are named of which the broadcast site has the old ones."""
    new = replace(old, allowedHosts=("app.example",), certificate="new.pem", allowedOrigins=("*",))
    assert oldAtBroadcastSite(new, old) == told
    assert oldAtBroadcastSite(old, old) == []
