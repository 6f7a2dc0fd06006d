from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from tests.memory import SteadyClock
from tests.web.conftest import Connection, Response
from twisted_ws.channels.service import ChannelService
from twisted_ws.server.routes import Match
from twisted_ws.server.server import Mounted
from twisted_ws.services.demo import Demo
from twisted_ws.services.playground import Playground
from twisted_ws.web.pages import pagesSite
from twisted_ws.web.scripts import CLIENT
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.websocket.runtime import Runtime

URL = "http://localhost:8081/broadcaster/broadcast"


class Server:
    """The part of a server that the pages need."""

    def __init__(self, **services: object) -> None:
        self.runtime = Runtime(SteadyClock())
        self.hosts, self.proxies = AllowedHosts(), TrustedProxies()
        self.origins = self.namedOrigins = AllowedOrigins()
        self.services = {"/" + path.replace("_", "/"): service for path, service in services.items()}
        self.asked: list[str] = []

    def match(self, path: str) -> Match[Mounted] | None:
        self.asked.append(path)
        for mounted, service in self.services.items():
            if path == mounted or path.startswith(mounted.rstrip("/") + "/"):
                return Match(Mounted(service, None, frozenset()), {}, [])
        return None


class Page(HTMLParser):
    """Collects what a page refers to and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.text: dict[str, str] = {}
        self._stack: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.references += [str(named[name]) for name in ("href", "src", "action", "data") if name in named]
        assert not [name for name in named if name.startswith("on") or name == "style"]
        self.attributes[named.get("id") or tag] = named
        if tag not in ("meta", "link", "input"):
            self._stack.append((tag, named.get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._stack and self._stack[-1][0] in ("script", "style"):
            self.scripts.append(data)
        if self._stack and self._stack[-1][1]:
            self.text[str(self._stack[-1][1])] = data


def get(server: Server, path: str, *headers: str, method: str = "GET", host: str = "localhost:8080", **options: Any) -> Response:
    connection = Connection(pagesSite(server, **options))  # type: ignore[arg-type]
    if "x-tls" in headers:
        alsoProvides(connection.transport, ISSLTransport)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *[h for h in headers if h != "x-tls"], "", ""]
    return connection.ask("\r\n".join(lines).encode("latin-1"))


@pytest.fixture
def server() -> Server:
    """A server with the demo and something else."""
    return Server(ws=Demo(), rooms=object())


@pytest.mark.parametrize("path", ["/ws", "/ws/subscribe", "/ws/", "/ws/a/b?c=d", "/rooms/x"])
def test_upgradeRequired(server: Server, path: str) -> None:
    """A plain GET of a service's path says which protocol is spoken there."""
    response = get(server, path)
    assert response.status == 426
    assert response.header("upgrade") == "websocket"
    assert response.headers["connection"] == ["Upgrade"]
    assert response.header("content-type") == "text/plain; charset=utf-8"
    assert b"WebSocket" in response.body
    assert server.asked == [path.partition("?")[0]]
    head = get(server, path, method="HEAD")
    assert (head.status, head.header("content-length")) == (426, str(len(response.body)))


@pytest.mark.parametrize("path", ["/ws", "/", "/demo.js"])
def test_methods(server: Server, path: str) -> None:
    """The pages cannot be written to."""
    response = get(server, path, "Content-Length: 0", method="POST")
    assert (response.status, response.header("allow")) == (405, "GET, HEAD, OPTIONS")
    assert get(server, path, method="OPTIONS").status == 204


@pytest.mark.parametrize("path", ["/nothing", "/wsx", "/ws%2Fx", "/demo.html", "/static/demo.js", "/healthz", "/%2e%2e/x"])
def test_notFound(server: Server, path: str) -> None:
    """Any other path is a 404; a path is decoded once."""
    response = get(server, path)
    assert (response.status, response.json["error"]) == (404, "not-found")
    assert server.asked == [path]
    where = ": this is on the broadcast port (by default 8081)" if path == "/healthz" else ""
    assert response.json["message"] == f"There is nothing here{where}."


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/ws", 426)])
def test_aPageMayReadThatThereAreNoChannels(server: Server, path: str, status: int) -> None:
    """A page of an allowed origin may read why there are no channels, and may try to publish."""
    server.origins = AllowedOrigins(["https://app.example"])
    response = get(server, path, "Origin: https://app.example")
    assert (response.status, response.header("access-control-allow-origin")) == (status, "https://app.example")
    assert response.header("vary") == "Origin"
    asked = ("Origin: https://app.example", "Access-Control-Request-Method: POST")
    preflight = get(server, path, *asked, "Access-Control-Request-Headers: idempotency-key", method="OPTIONS")
    assert (preflight.status, preflight.header("access-control-allow-origin")) == (204, "https://app.example")
    assert "Idempotency-Key" in preflight.header("access-control-allow-headers")
    posted = get(server, path, "Origin: https://app.example", "Content-Length: 0", method="POST")
    assert (posted.status, posted.header("access-control-allow-origin")) == (404 if status == 404 else 405, "https://app.example")
    for origin in ("https://evil.example", "null"):
        refused = get(server, path, f"Origin: {origin}")
        assert (refused.status, "access-control-allow-origin" in refused.headers) == (status, False)
        headers = get(server, path, f"Origin: {origin}", asked[1], method="OPTIONS").headers
        assert not [name for name in headers if name.startswith("access-control-")]


def test_noDemo() -> None:
    """Without a demo service, there is no page."""
    for path in ("/", "/demo.js", "/playground.js", "/demo.css", "/favicon.ico"):
        assert get(Server(rooms=object()), path).status == 404


def test_demoUnderParameter() -> None:
    """A demo whose path has parameters cannot be linked to, so it has no page."""
    server = Server()
    server.services = {"/rooms/{room}": Demo()}
    assert get(server, "/").status == 404


def test_page(server: Server) -> None:
    """The page names where the demo is mounted and the command that broadcasts, and loads nothing from elsewhere."""
    response = get(server, "/", broadcastURL=URL)
    assert (response.status, response.header("content-type")) == (200, "text/html; charset=utf-8")
    page = Page(response.body.decode())
    assert page.attributes["body"]["data-path"] == "/ws/subscribe"
    assert page.text["curl"] == f'curl -d "Hello!" {URL}'
    assert sorted(page.references) == ["/demo.css", "/demo.js", "/favicon.ico", "/playground.js", page.attributes["docs"]["href"]]
    assert "".join(page.scripts).strip() == ""
    assert page.attributes["html"]["lang"] == "en"
    assert page.attributes["log"]["role"] == "log"
    assert get(server, "/?x=y").status == 200


@pytest.mark.parametrize(("mounted", "path"), [("a_b", "/a/b/subscribe"), ("", "/subscribe"), ("a&b", "/a&b/subscribe")])
def test_pageElsewhere(mounted: str, path: str) -> None:
    """The page finds the demo wherever it is mounted, and nothing in that path can become markup."""
    server = Server(**{mounted: Demo()})
    assert Page(get(server, "/").body.decode()).attributes["body"]["data-path"] == path
    hostile = Server()
    hostile.services = {'/"><script>alert(1)</script>': Demo()}
    page = get(hostile, "/").body
    assert b"<script>" not in page
    assert Page(page.decode()).attributes["body"]["data-path"] == '/"><script>alert(1)</script>/subscribe'


def test_command(server: Server) -> None:
    """The command is safe to paste, names the key where one is needed, and is not shown where there is no broadcast site."""

    def command(**options: Any) -> str:
        return Page(get(server, "/", **options).body.decode()).text["curl"]

    assert command(broadcastURL=URL, needsKey=True) == f'curl -H "Authorization: Bearer $KEY" -d "Hello!" {URL}'
    assert command(broadcastURL="http://a/; rm -rf <x>").endswith(" 'http://a/; rm -rf <x>'")
    page = get(server, "/").body.decode()
    assert re.search(r'<section class="card" aria-labelledby="push" hidden>', page)
    assert "curl -d" not in page
    assert "hidden>" not in re.findall(r"<section[^>]*>", get(server, "/", broadcastURL=URL).body.decode())[1]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/demo.js", "text/javascript; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/playground.js", "text/javascript; charset=utf-8"),
        ("/demo.css", "text/css; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml"),
    ],
)
def test_files(server: Server, path: str, kind: str) -> None:
    """The page's files have the right types."""
    response = get(server, path)
    assert (response.status, response.header("content-type")) == (200, kind)
    assert response.header("content-length") == str(len(response.body)) != "0"


@pytest.mark.parametrize("path", ["/", "/demo.js", "/twisted-ws.js"])
def test_unchanged(server: Server, path: str) -> None:
    """A browser revalidates a file each time, and gets it again only if it has changed, compressed if it accepts that."""
    server.services["/channels"] = ChannelService()
    whole = get(server, path)
    tag = str(whole.header("etag"))
    assert (whole.header("cache-control"), whole.header("vary")) == ("no-cache", "Accept-Encoding")
    for known in (tag, f'"other", {tag}'):
        again = get(server, path, f"If-None-Match: {known}")
        assert (again.status, again.body, again.header("etag"), again.header("cache-control")) == (304, b"", tag, "no-cache")
    assert get(server, path, 'If-None-Match: W/"other"').body == whole.body
    packed = get(server, path, "Accept-Encoding: br, gzip")
    assert (packed.header("content-encoding"), packed.header("etag")) == ("gzip", tag)
    assert gzip.decompress(packed.body) == whole.body
    assert whole.header("content-encoding") is None
    if path == "/":
        assert get(server, path, broadcastURL=URL).header("etag") != tag


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/twisted-ws.js", "text/javascript; charset=utf-8"),
        ("/twisted-ws.mjs", "text/javascript; charset=utf-8"),
        ("/twisted-ws.d.ts", "text/plain; charset=utf-8"),
    ],
)
def test_browserClient(server: Server, path: str, kind: str) -> None:
    """The browser client is served if there are channels, for pages of every origin."""
    assert get(server, path).status == 404
    for mounted in ("/channels", "/channels/{channel}"):
        response = get(Server(**{mounted.strip("/"): ChannelService()}), path)
        assert (response.status, response.header("content-type"), response.header("cache-control")) == (200, kind, "no-cache")
        assert response.header("cross-origin-resource-policy") == "cross-origin"
        assert response.header("access-control-allow-origin") == "*"
        assert response.header("content-security-policy") is None
        assert response.body == CLIENT[path[1:]]


def test_playground(server: Server) -> None:
    """The page knows where the channels are, preferably the playground; it has none if every path has a parameter."""

    def found() -> tuple[str | None, bool]:
        page = Page(get(server, "/", broadcastURL=URL).body.decode())
        return page.attributes["body"]["data-channels"], "hidden" in page.attributes["playground"]

    assert found() == ("", True)
    server.services["/channels/{channel}"] = ChannelService()
    assert found() == ("", True)
    server.services["/channels"] = ChannelService()
    assert found() == ("/channels", False)
    server.services["/play&ground"] = Playground()
    assert found() == ("/play&ground", False)


@pytest.mark.parametrize("path", ["/", "/demo.js", "/demo.css", "/favicon.ico"])
def test_pageHeaders(server: Server, path: str) -> None:
    """A page runs only what this server serves, must not be framed, and has a type that is not guessed."""
    response = get(server, path)
    policy = str(response.header("content-security-policy"))
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert response.header("x-content-type-options") == "nosniff"
    assert response.header("x-frame-options") == "DENY"
    assert response.header("referrer-policy") == "no-referrer"
    assert response.header("cache-control") == "no-cache"
    assert response.header("strict-transport-security") is None


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("ws.example", True),
        ("ws.example:8443", True),
        ("localhost", False),
        ("localhost:8443", False),
        ("app.localhost:8443", False),
        ("192.0.2.1", False),
        ("192.0.2.1:8443", False),
        ("[2001:db8::1]", False),
        ("[2001:db8::1]:8443", False),
    ],
)
def test_strictTransport(server: Server, host: str, sent: bool) -> None:
    """Strict transport security is only announced if configured, over TLS, and under a public host name."""
    value = get(server, "/", "x-tls", host=host, hsts=True).header("strict-transport-security")
    assert value == ("max-age=31536000" if sent else None)
    assert get(server, "/", host=host, hsts=True).header("strict-transport-security") is None
    assert get(server, "/", "x-tls", host=host).header("strict-transport-security") is None


def test_keepAlive(server: Server) -> None:
    """A connection serves more than one request."""
    connection = Connection(pagesSite(server))  # type: ignore[arg-type]
    for _ in range(3):
        assert connection.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").header("connection") is None
    assert not connection.closing


def test_template(server: Server) -> None:
    """No placeholder is left in the page."""
    assert b"$path" not in get(server, "/").body
    assert not re.search(rb"\$[a-zA-Z]", get(server, "/").body)
