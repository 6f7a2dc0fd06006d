from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from tests.daemon.support import PortsReactor
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.process import ProcessDaemon
from twisted_ws.daemon.settings import Mount, Settings
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


_TICKET = {"type": "ticket", "secret-file": "secret"}
_MESSAGE = {"type": "jwt", "secret-file": "secret", "sources": ["message"]}


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"site": _TICKET}, "authenticators.rooms is still needed"),
        ({"rooms": _TICKET}, "authenticators.site is still needed"),
        ({"site": _TICKET, "rooms": _TICKET, "jwt": _TICKET}, "authenticators.jwt: there is another of this name, from a flag"),
        ({"site": _TICKET, "rooms": _MESSAGE}, "name guest, or the source message"),
        ({"site": _TICKET, "rooms": {**_TICKET, "secret-file": "nowhere"}}, "nowhere"),
    ],
)
def test_authenticatorsOfAllOrNone(tmp_path: Path, tables: Any, why: str) -> None:
    """Authenticators that no worker could have change nothing in the supervisor either, so no later worker gets them."""
    (tmp_path / "secret").write_text("0123456789" * 4)
    (tmp_path / "secret").chmod(0o600)
    flag = f"jwt:secret-file={tmp_path}/secret"
    rooms = Mount("/rooms", "demo", authenticate=("rooms", "guest"))
    settings = Settings(
        **{**OFF, "workers": 2},
        services=(rooms,),
        authenticate=("site", flag),
        authenticators={"site": _TICKET, "rooms": _TICKET},
        directory=str(tmp_path),
    )
    again = [settings]
    supervisor = Supervisor(settings, reactor=PortsReactor(), again=lambda: again[0])
    before = supervisor.server.authenticators
    again[0] = replace(settings, authenticators=tables)
    with capturedLogs() as events:
        supervisor.reload()
    assert [event["log_format"].format(**event) for event in events if why in str(event.get("reason"))]
    assert supervisor.server.authenticators == before
    again[0] = replace(settings, authenticators={**settings.authenticators, "more": _TICKET})
    supervisor.reload()
    assert {*supervisor.server.authenticators} == {"guest", "site", "rooms", "more"}


def test_namesOfFlags(tmp_path: Path) -> None:
    """A flag's authenticator has the same name in the supervisor, which makes few of them, as in workers, which have all."""
    (tmp_path / "secret").write_text("0123456789" * 4)
    (tmp_path / "secret").chmod(0o600)
    flags = (f"ticket:secret-file={tmp_path}/secret",) * 2
    taken = {"ticket": {"type": "jwt", "secret-file": "secret"}}
    made: dict[str, Any] = {"authenticate": flags, "authenticators": taken, "directory": str(tmp_path)}
    assert {*_supervisor(**made).server.authenticators} == {"guest", "ticket2", "ticket3"}
    worker = ProcessDaemon(Settings(**OFF, **made), reactor=PortsReactor())
    assert {*worker.server.authenticators} == {"guest", "ticket", "ticket2", "ticket3"}
