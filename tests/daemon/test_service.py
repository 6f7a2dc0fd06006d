from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from twisted.cred.checkers import FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory
from twisted.logger import capturedLogs, formatEvent
from zope.interface import directlyProvides

from tests.daemon.support import PortsReactor
from tests.web.worlds import Client
from twisted_ws import Reject, UpgradeRequest
from twisted_ws.daemon.expiry import DAY
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import Mount, Settings, merge
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.services.demo import Demo

KEY = "0123456789abcdef"


def _refused(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Daemon(settings, PortsReactor())
    line = str(caught.value)
    assert "\n" not in line
    return line


def _keys(tmp_path: Path, *keys: str) -> str:
    path = tmp_path / "keys"
    path.write_text("".join(f"{key}\n" for key in keys))
    path.chmod(0o600)
    return str(path)


def _certificate(tmp_path: Path) -> str:
    path = tmp_path / "both.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    path.chmod(0o600)
    return str(path)


def _messages(events: list[Any]) -> list[str]:
    return [formatEvent(event) for event in events]


def _fingerprints(events: list[Any]) -> list[str]:
    """Return the certificates that were taken into use."""
    return [event["fingerprint"] for event in events if "fingerprint" in event]


def _factory(reactor: PortsReactor, port: int) -> Any:
    return next(factory for number, factory, *_ in reactor.tcpServers if number == port)


def _page(reactor: PortsReactor, port: int) -> str:
    """Return the page of the demo."""
    return Client(_factory(reactor, port), reactor).get("/").body.decode()


def _publishes(reactor: PortsReactor, key: str) -> int:
    """Return the status of a broadcast."""
    client = Client(_factory(reactor, 8081), reactor)
    return client.post("/broadcaster/broadcast", b"hello", f"Authorization: Bearer {key}").status


# What it is made of.


def test_defaults() -> None:
    """By default, it serves the demo on 8080 and the broadcast site on the loopback address, each with its line in the log."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(), reactor)
    with capturedLogs() as events:
        daemon.privilegedStartService()
    assert reactor.open == [8081, 8080]
    assert reactor.tcpServers[0][3] == "127.0.0.1"
    assert {port[2] for port in reactor.tcpServers} == {Limits().backlog}
    assert isinstance(daemon.server.services["/ws"], Demo)
    assert [message for message in _messages(events) if "://" in message] == [
        "Broadcast site on http://localhost:8081/broadcaster/broadcast",
        "WebSocket on ws://localhost:8080 (on all addresses)",
    ]
    assert "http://localhost:8081/broadcaster/broadcast" in _page(reactor, 8080)


def test_everyPort(tmp_path: Path) -> None:
    """Every kind of port works, plain and TLS, by number or endpoint string; the page shows the plain broadcast URL."""
    reactor = PortsReactor()
    settings = Settings(
        port="tcp:80:interface=127.0.0.1",
        tlsPort="443",
        listen=(f"unix:{tmp_path}/s", "81", "haproxy:tcp:82:interface=127.0.0.1"),
        broadcastTlsPort="8444",
        interface="127.0.0.1",
        certificate=_certificate(tmp_path),
    )
    daemon = Daemon(settings, reactor)
    with capturedLogs() as events:
        daemon.startService()
    assert reactor.open == [8081, 8444, f"{tmp_path}/s", 81, 82, 80, 443]
    messages = _messages(events)
    for expected in (
        "Broadcast site on https://localhost:8444/broadcaster/broadcast",
        f"WebSocket on unix:{tmp_path}/s",
        "WebSocket on wss://localhost:443",
        "WebSocket on ws://localhost:82 (PROXY protocol)",
    ):
        assert expected in [message.replace("0.0.0.0", "localhost") for message in messages]
    assert "http://localhost:8081/broadcaster/broadcast" in _page(reactor, 80)
    assert "https://localhost:8444" not in _page(reactor, 80)


def test_portsOff(tmp_path: Path) -> None:
    """A port that is off does not listen; the broadcast site may be off altogether, but WebSocket may not."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(port="off", listen=("1",), broadcastPort="off"), reactor)
    daemon.startService()
    assert reactor.open == [1]
    assert "/broadcaster/broadcast" not in _page(reactor, 1)
    assert "There is no port for WebSocket" in _refused(Settings(port="off"))


def test_aBroadcastSiteOnAUnixSocket(tmp_path: Path) -> None:
    """The broadcast site may be on a Unix socket, which has no URL: then the page shows none."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(broadcastPort=f"unix:{tmp_path}/b"), reactor)
    with capturedLogs() as events:
        daemon.startService()
    assert f"Broadcast site on unix:{tmp_path}/b" in _messages(events)
    assert "/broadcaster/broadcast" not in _page(reactor, 8080)


def test_theServerIsToldAll() -> None:
    """The server gets limits, origins, proxies, compression and services from the settings."""
    limits = Limits(maxMessageSize=5, backlog=7)
    reactor = PortsReactor()
    daemon = Daemon(
        Settings(
            limits=limits,
            allowedOrigins=("https://app.example",),
            trustedProxies=("10.0.0.0/8",),
            compression=True,
            services=(Mount("/a", "demo"), Mount("/b/{id:int}", "demo")),
        ),
        reactor,
    )
    assert daemon.server.limits is limits
    assert set(daemon.server.services) == {"/a", "/b/{id:int}"}
    daemon.startService()
    assert {port[2] for port in reactor.tcpServers} == {7}
    for wrong in (Settings(allowedOrigins=("app.example",)), Settings(trustedProxies=("x",)), Settings(interface="x")):
        _refused(wrong)


@pytest.mark.parametrize(
    ("settings", "ports"),
    [
        (Settings(port="8081"), "--broadcast-port and --port both use port 8081"),
        (Settings(port="5", tlsPort="5"), "--port and --tls-port both use port 5"),
        (Settings(listen=("8080",)), "--listen and --port both use port 8080"),
    ],
)
def test_theSamePortTwice(tmp_path: Path, settings: Settings, ports: str) -> None:
    """If two of our own ports have the same number, they are named, and no other process is blamed."""
    settings = Settings(
        port=settings.port, tlsPort=settings.tlsPort, listen=settings.listen, stateDirectory=str(tmp_path), interface="127.0.0.1"
    )
    assert _refused(settings) == f"{ports}: change one of them."


# Who may publish.


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        (Settings(broadcastInterface="0.0.0.0"), "--broadcast-port"),
        (Settings(broadcastPort="tcp:8081"), "--broadcast-port"),
        (Settings(broadcastPort="systemd:domain=INET:index=0"), "--broadcast-port"),
        (Settings(broadcastPort="off", broadcastTlsPort="1", broadcastInterface="10.0.0.1"), "--broadcast-tls-port"),
    ],
)
def test_reachableWithoutACredential(tmp_path: Path, settings: Settings, option: str) -> None:
    """Without credentials, a broadcast site that others could reach is refused, and the line says what to do."""
    settings = Settings(
        broadcastPort=settings.broadcastPort,
        broadcastTlsPort=settings.broadcastTlsPort,
        broadcastInterface=settings.broadcastInterface,
        stateDirectory=str(tmp_path),
    )
    line = _refused(settings)
    assert f"({option})" in line
    assert "give --api-key-file or --auth, or --broadcast-interface 127.0.0.1" in line


def test_reachableWithACredential(tmp_path: Path) -> None:
    """With keys or passwords, the broadcast site may be reachable from elsewhere."""
    for settings in (
        Settings(broadcastInterface="0.0.0.0", apiKeyFile=_keys(tmp_path, KEY)),
        Settings(broadcastPort="tcp:8081", checkers=(InMemoryUsernamePasswordDatabaseDontUse(me=b"secret"),)),
    ):
        Daemon(settings, PortsReactor())


def test_thePasswordFile(tmp_path: Path) -> None:
    """A password file that is unreadable, or readable by others, is reported at the start, not at the first login."""
    path = tmp_path / "passwords"
    settings = Settings(checkers=(FilePasswordDB(str(path)),))
    assert _refused(settings) == f"The password file {path} (--auth) cannot be read: No such file or directory."
    os.mkfifo(path)
    assert _refused(settings) == f"The password file {path} (--auth) is not a regular file."
    path.unlink()
    path.write_text("me:secret\n")
    path.chmod(0o644)
    with capturedLogs() as events:
        Daemon(settings, PortsReactor())
    assert f"The secret in {path} is open to other users of this machine: chmod 600 {path}" in _messages(events)
    path.write_text("me:secret\n")
    Daemon(settings, PortsReactor())


# TLS.


def test_aSelfSignedCertificate(tmp_path: Path) -> None:
    """A TLS port without a certificate makes one in the state directory."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(port="off", tlsPort="1", stateDirectory=str(tmp_path)), reactor)
    assert (tmp_path / "self-signed.pem").exists()
    daemon.startService()
    assert [
        each for each in reactor.getDelayedCalls() if each.getTime() - reactor.seconds() == DAY
    ]  # the look at the certificate
    daemon.stopService()
    assert not reactor.getDelayedCalls()


def test_certificatesWithoutAPort(tmp_path: Path) -> None:
    """A certificate that no port uses, and a password without a key store, are mistakes."""
    for settings in (Settings(certificate="x"), Settings(keyStore="x"), Settings(clientCA="x")):
        assert "no port for it" in _refused(settings)
    assert "give --key-store too" in _refused(Settings(keyStorePasswordFile="x"))
    (tmp_path / "p").write_text("secret")
    wrong = Settings(tlsPort="1", keyStore=str(tmp_path / "p"), keyStorePasswordFile=str(tmp_path / "p"))
    assert "not a PKCS #12 file" in _refused(wrong)


def test_clientCA(tmp_path: Path) -> None:
    """With client certificates, a plain port beside the TLS port is worth a warning."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    wanted = {"tlsPort": "1", "clientCA": str(tmp_path / "ca.pem"), "stateDirectory": str(tmp_path)}
    with capturedLogs() as events:
        Daemon(Settings(**wanted), PortsReactor())  # type: ignore[arg-type]
    assert [message for message in _messages(events) if "--client-ca" in message] == [
        "--client-ca applies to TLS ports only: clients without a certificate still get in through --port."
    ]
    with capturedLogs() as events:
        Daemon(Settings(port="off", **wanted), PortsReactor())  # type: ignore[arg-type]
    assert not [message for message in _messages(events) if "--client-ca" in message]


def test_strictTransportSecurity(tmp_path: Path) -> None:
    """Pages ask browsers to stay with TLS only where no plain port is open."""
    place: dict[str, Any] = {"stateDirectory": str(tmp_path), "allowedHosts": ("app.example",)}
    for settings, hsts in (
        (Settings(port="off", tlsPort="1", **place), True),
        (Settings(tlsPort="1", **place), False),
        (Settings(port="off", tlsPort="1", listen=(f"unix:{tmp_path}/s",), **place), False),
    ):
        reactor = PortsReactor()
        Daemon(settings, reactor).startService()
        client = Client(_factory(reactor, 1).wrappedFactory, reactor)
        directlyProvides(client.transport, ISSLTransport)
        client.send(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
        (response,) = client.responses()
        assert (response.status, response.header("strict-transport-security") is not None) == (200, hsts)


# Start and stop.


def test_allPortsOrNone() -> None:
    """When a port is taken, the line says which, and ports that listened already are closed."""
    for start in (Daemon.privilegedStartService, Daemon.startService):
        reactor = PortsReactor(8080)
        daemon = Daemon(Settings(), reactor)
        with pytest.raises(ConfigurationError, match=r"^Another process is listening on port 8080: .* --port\.$"):
            start(daemon)
        assert len(reactor.tcpServers) == 1
        assert reactor.open == []
        assert not daemon.running


def test_startTwice() -> None:
    """The privileged start and the start after it listen once."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(), reactor)
    daemon.privilegedStartService()
    daemon.startService()
    assert reactor.open == [8081, 8080]
    assert daemon.running


def test_anOddEndpoint() -> None:
    """An endpoint that listens later delays nothing, and has no log line."""

    class Late(ListenAddress):
        def endpoint(self, reactor: Any, backlog: int) -> Any:
            return SimpleNamespace(listen=lambda factory: Deferred())

    daemon = Daemon(Settings(), PortsReactor())
    late = Listener(Late("listen", "tcp:5"), Factory(), False, daemon.server, PortsReactor(), 5)
    with capturedLogs() as events:
        daemon.listen([late])
    assert not events


@pytest.mark.parametrize("count", ["1 caller is", "2 callers are"])
def test_drainOrder(count: str) -> None:
    """At a stop, WebSocket ports close first, then the callers leave, and the site with the health checks closes last."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(), reactor)
    daemon.startService()
    drained: Deferred[None] = Deferred()
    order = []

    def stop() -> Deferred[None]:
        order.append(list(reactor.open))
        return drained

    daemon.server.stop = stop  # type: ignore[assignment, method-assign]
    daemon.server.callers = [object()] * int(count.partition(" ")[0])  # type: ignore[assignment]
    ended: list[object] = []
    with capturedLogs() as events:
        daemon.stopService().addCallback(ended.append)
    assert order == [[8081]]
    assert (reactor.open, ended, daemon.running) == ([8081], [], 1)
    assert _messages(events) == [f"stopping: {count} asked to leave"]
    drained.callback(None)
    assert (reactor.open, ended, daemon.running) == ([], [None], 0)


def test_drainOfNobody() -> None:
    """A stop without callers is immediate and silent."""
    reactor = PortsReactor()
    daemon = Daemon(Settings(), reactor)
    daemon.startService()
    ended: list[object] = []
    with capturedLogs() as events:
        daemon.stopService().addCallback(ended.append)
    assert (reactor.open, ended, _messages(events)) == ([], [None], [])


def test_theGlobalReactor() -> None:
    """Without a reactor argument, it uses the global one."""
    assert Daemon(Settings()).server.reactor is globalReactor


def test_reload(tmp_path: Path) -> None:
    """A reload reads keys and certificates; if one is invalid, the old one stays, and the rest is reloaded."""
    keys, certificate = _keys(tmp_path, KEY), _certificate(tmp_path)
    reactor = PortsReactor()
    with capturedLogs() as events:
        daemon = Daemon(Settings(tlsPort="1", certificate=certificate, apiKeyFile=keys), reactor)
    daemon.startService()
    (first,) = _fingerprints(events)
    _keys(tmp_path, KEY + "new", KEY + "newer")
    Path(certificate).write_text("half a file")
    with capturedLogs() as events:
        daemon.reload()
    errors = [event for event in events if event["log_level"].name == "error"]
    assert len(errors) == 1
    assert formatEvent(errors[0]).startswith(f"The old certificate stays in use: The certificate {certificate} ")
    assert "reloaded" not in _messages(events)
    assert not _fingerprints(events)
    assert [_publishes(reactor, key) for key in (KEY, KEY + "new", KEY + "newer")] == [401, 200, 200]
    _certificate(tmp_path)
    _keys(tmp_path)
    with capturedLogs() as events:
        daemon.reload()
    assert _fingerprints(events) not in ([], [first])
    assert _publishes(reactor, KEY + "new") == 200
    assert [message for message in _messages(events) if message.startswith("The old API keys stay in use: ")]
    assert "reloaded" not in _messages(events)
    _keys(tmp_path, KEY)
    with capturedLogs() as events:
        daemon.reload()
    assert _messages(events)[-1] == "reloaded"


def test_reloadOfRules() -> None:
    """A reload lets the rules for channels hold that the file has now; what it does not reach is named."""
    settings = [Settings()]
    daemon = Daemon(settings[0], PortsReactor(), lambda: settings[0])
    service: Any = daemon.server.services["/channels"]
    settings[0] = Settings(
        channelRules={"*": {"subscribe": "ask"}},
        authenticate=("guest",),
    )
    with capturedLogs() as events:
        daemon.reload()
    assert service.permissions.access.decide("subscribe", "a", None) is False
    assert _messages(events) == [
        'channels."*" says ask, but no authenticator of a service of channels has a channels-url: it is refused',
        "A change of authenticate takes effect only after a restart.",
        "reloaded",
    ]


def _comes(daemon: Daemon, *credentials: bytes) -> list[str]:
    """Return who comes with each of these, as the service sees it; "" for whoever is refused."""
    found = []
    for each in credentials:
        request = UpgradeRequest("/ws", (("authorization", f"Basic {b64encode(each).decode()}"),))
        try:
            daemon.server.ask(request, daemon.server.match("/ws"))
            found.append(request.user)
        except Reject:
            found.append("")
    return found


def test_reloadOfAuthenticators(tmp_path: Path) -> None:
    """A reload lets the tables of authenticators hold that the file has now, with the rules: a mistake changes neither."""
    for user in "ann", "bob":
        (tmp_path / user).write_text(f"{user}:secret")
        (tmp_path / user).chmod(0o600)

    def said(rule: str = "users", **options: Any) -> Settings:
        site = {"type": "basic", "file": "ann", **options}
        services = Mount("/ws", "demo"), Mount("/channels", "channels")
        tables: Any = {"services": services, "authenticate": ("site",), "directory": str(tmp_path)}
        return Settings(**tables, channelRules={"*": {"subscribe": rule}}, authenticators={"site": site})

    settings = [said()]
    daemon = Daemon(settings[0], PortsReactor(), lambda: settings[0])
    service: Any = daemon.server.services["/channels"]
    both = b"ann:secret", b"bob:secret"
    assert _comes(daemon, *both) == ["ann", ""]
    for wrong in ({"file": "nowhere"}, {"files": "bob"}, {"type": "basik"}, {"rule": "nobodi", "file": "bob"}):
        settings[0] = said(**{"rule": "anyone", **wrong})
        with capturedLogs() as events:
            daemon.reload()
        assert _messages(events)[-1].startswith("The old rules and authenticators stay in use: ")
        assert _comes(daemon, *both) == ["ann", ""]
        assert service.permissions.access.decide("subscribe", "a", None) is False
    settings[0] = said("anyone", file="bob")
    for _ in range(2):  # the second time, there is nothing to do
        before = daemon.server.authenticators["site"]
        with capturedLogs() as events:
            daemon.reload()
        assert _messages(events) == ["reloaded"]
        assert _comes(daemon, *both) == ["", "bob"]
        assert service.permissions.access.decide("subscribe", "a", None) is True
    assert daemon.server.authenticators["site"] is before


def test_reloadOfDjango(tmp_path: Path) -> None:
    """What a process can have only once needs a restart, and is named; what else has changed holds."""
    (tmp_path / "users").write_text("ann:secret")
    (tmp_path / "users").chmod(0o600)
    tables: Any = {"site": {"type": "basic", "file": "users"}, "shop": {"type": "django", "settings": "shop.settings"}}
    settings = [Settings(services=(Mount("/ws", "demo"),), authenticate=("guest",), directory=str(tmp_path))]
    daemon = Daemon(settings[0], PortsReactor(), lambda: settings[0])
    settings[0] = replace(settings[0], authenticators=tables)
    with capturedLogs() as events:
        daemon.reload()
    assert _messages(events) == ["A change of authenticators.shop takes effect only after a restart.", "reloaded"]
    assert {*daemon.server.authenticators} == {"guest", "site"}


def test_reloadReachesNotAll() -> None:
    """Each setting that has changed and needs a restart is named; without a change, none is."""
    settings = [Settings()]
    daemon = Daemon(settings[0], PortsReactor(), lambda: settings[0])
    for new, names in (
        (Settings(), None),
        (Settings(channelRules={"*": {"subscribe": "anyone"}}), None),
        (Settings(allowedOrigins=("https://a.example",), auditLog="audit"), "allowed-origin, audit-log"),
        (Settings(limits=Limits(maxMessageSize=1000, authFailures=3)), "max-message-size, limits.authFailures"),
        (Settings(services=(Mount("/a", "demo"),)), "services"),
    ):
        settings[0] = new
        with capturedLogs() as events:
            daemon.reload()
        said = [] if names is None else [f"A change of {names} takes effect only after a restart."]
        assert _messages(events) == [*said, "reloaded"]


def test_reloadOfLittle() -> None:
    """Without TLS and keys there is nothing to reload, and nothing goes wrong."""
    with capturedLogs() as events:
        Daemon(Settings(), PortsReactor()).reload()
    assert _messages(events) == ["reloaded"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            Settings(trustedProxies=("127.0.0.1:80",)),
            "--trusted-proxy: '127.0.0.1:80' is not a network: write an address, or a prefix",
        ),
        (Settings(allowedOrigins=("localhost:8000",)), "--allowed-origin: 'localhost:8000' is not an origin: "),
        (Settings(allowedHosts=("a b",)), "--allowed-host: 'a b' is not a host name: "),
        (Settings(services=(Mount("chat", "demo"),)), "--service chat=demo: 'chat' is not a path: "),
        (merge({"services": {"/a": {"target": "demo", "nam": 1}}}, {}), 'services."/a": The service demo '),
    ],
)
def test_namesTheOption(settings: Settings, line: str) -> None:
    """An invalid value is reported with its option."""
    assert _refused(settings).startswith(line)
