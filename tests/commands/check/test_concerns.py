from __future__ import annotations

from typing import Any

import pytest

from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.access.publishers.scopes import EVERYTHING, Scopes
from twisted_ws.commands.check import concerns
from twisted_ws.commands.check.findings import Finding, Port, ServiceFound
from twisted_ws.daemon.settings import Mount, Settings
from twisted_ws.limits import Limits

PUBLIC = Port("port", "websocket", "8080", "", tls=False, public=True)
LOCAL = Port("port", "websocket", "8080", "127.0.0.1", tls=False, public=False)
SECURE = Port("tls-port", "websocket", "8443", "", tls=True, public=True)
COUNTING = Port("metrics-port", "metrics", "tcp:9181", "", tls=False, public=True)
PUBLISHING = Port("broadcast-port", "broadcast", "8081", "", tls=False, public=True)


def service(authenticate: list[str] | None, decides: bool = False) -> ServiceFound:
    return ServiceFound("/ws", "demo", authenticate, [], decides)


def codes(findings: Any) -> list[str]:
    found: list[Finding] = list(findings)
    assert all("\n" not in each.text for each in found)
    return [each.code for each in found]


@pytest.mark.parametrize(
    ("ports", "services", "settings", "expected"),
    [
        ([PUBLIC], [service(None)], Settings(), ["no-authentication"]),
        ([LOCAL], [service(None)], Settings(), []),
        ([PUBLIC], [service(None, decides=True)], Settings(), []),
        ([SECURE], [service(None)], Settings(clientCA="ca.pem"), []),
        ([SECURE, PUBLIC], [service(None)], Settings(clientCA="ca.pem"), ["no-authentication"]),
        ([PUBLIC], [service(["jwt"])], Settings(), ["plain-credentials"]),
        ([SECURE], [service(["jwt"])], Settings(), []),
        ([PUBLIC], [service(["guest"])], Settings(), []),
        ([PUBLIC], [service(["jwt"])], Settings(trustedProxies=("10.0.0.0/8",)), []),
        ([LOCAL, PUBLISHING], [service(None)], Settings(), ["plain-broadcast"]),
        ([SECURE, COUNTING], [service(["jwt"])], Settings(), ["open-metrics"]),
    ],
)
def test_whatIsOpen(ports: list[Port], services: list[ServiceFound], settings: Settings, expected: list[str]) -> None:
    """Services for anybody and credentials in clear text are a concern where other machines come, and only there."""
    assert codes(concerns.ofListening(ports, services, settings)) == expected


@pytest.mark.parametrize(
    ("authenticate", "tables", "origins", "expected"),
    [
        (("site",), {"site": {"type": "signed-cookie"}}, ("*",), ["any-origin-with-cookies"]),
        (("site",), {"site": {"type": "jwt", "sources": ["cookie:session"]}}, ("*",), ["any-origin-with-cookies"]),
        (("site",), {"site": {"type": "jwt"}}, ("*",), []),
        (("site",), {"site": {"type": "signed-cookie"}}, ("https://app.example",), []),
        ((), {"site": {"type": "signed-cookie"}}, ("*",), []),
        ((r"jwt:secret-file=k:sources=cookie\:session",), {}, ("*",), ["any-origin-with-cookies"]),
        (("basic:file=p",), {}, ("*",), ["any-origin-with-cookies"]),
    ],
)
def test_anyOriginWithCookies(
    authenticate: tuple[str, ...], tables: dict[str, Any], origins: tuple[str, ...], expected: list[str]
) -> None:
    """The origin * is a concern with authenticators in use that take what browsers send by themselves."""
    for settings in (
        Settings(authenticate=authenticate, authenticators=tables, allowedOrigins=origins),
        Settings(services=(Mount("/ws", "demo", authenticate=authenticate),), authenticators=tables, allowedOrigins=origins),
    ):
        assert codes(concerns.ofCookies(settings)) == expected


def test_keys() -> None:
    """A key without a scope is a concern, and so is one that has ended; one that is said to be for everything is not."""
    keys = [
        (1, KeyHolder("shop", EVERYTHING), True),
        (2, KeyHolder("ops", Scopes(["admin"])), True),
        (3, KeyHolder("old", Scopes(["broadcast"])), False),
    ]
    found = list(concerns.ofKeys(keys))
    assert [(each.code, each.text.split(" (")[0]) for each in found] == [
        ("key-without-scope", "the API key shop"),
        ("key-ended", "the API key old"),
    ]


@pytest.mark.parametrize(
    ("days", "hasBegun", "expected"),
    [
        (20.1, True, []),
        (19.9, True, ["certificate-expires"]),
        (0.1, True, ["certificate-expires"]),
        (-0.1, True, ["certificate-expired"]),
        (90, False, ["certificate-not-yet"]),
    ],
)
def test_certificates(days: float, hasBegun: bool, expected: list[str]) -> None:
    """A certificate is a concern in its last 20 days, after its end, and before its beginning."""
    assert codes(concerns.ofCertificate("c.pem", days, hasBegun)) == expected


def test_selfSigned() -> None:
    """A self-signed certificate is a concern where other machines come."""
    assert codes(concerns.ofSelfSigned([PUBLIC, SECURE, SECURE])) == ["self-signed"]
    assert codes(concerns.ofSelfSigned([PUBLIC, LOCAL])) == []


@pytest.mark.parametrize(("network", "expected"), [("0.0.0.0/0", 1), ("::/0", 1), ("10.0.0.0/8", 0), ("unix", 0), ("::1", 0)])
def test_proxies(network: str, expected: int) -> None:
    """To trust the whole internet as a proxy is a concern."""
    assert len(codes(concerns.ofProxies(Settings(trustedProxies=(network,))))) == expected


def test_descriptors() -> None:
    """More connections than descriptors are a concern; as many as there are descriptors is the default, and none."""
    assert codes(concerns.ofDescriptors(Settings(limits=Limits(maxConnections=1000)), 1024)) == ["descriptors"]
    assert codes(concerns.ofDescriptors(Settings(limits=Limits(maxConnections=900)), 1024)) == []
    assert codes(concerns.ofDescriptors(Settings(), 1024)) == []
