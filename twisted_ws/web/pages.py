"""Plain HTTP on a WebSocket port: channels, a word to those who forgot the upgrade, and the demo page."""

from __future__ import annotations

import shlex
from html import escape
from importlib.resources import files
from ipaddress import ip_address
from string import Template
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource, Resource

from twisted_ws.services.channels import ChannelService
from twisted_ws.services.demo import Demo
from twisted_ws.web.answers import Endpoint, HttpError
from twisted_ws.web.site import HttpSite
from twisted_ws.web.visits import ChannelEndpoint
from twisted_ws.wire.transports import hasTLS

if TYPE_CHECKING:
    from twisted_ws.server import WebSocketServer
    from twisted_ws.web.request import HttpRequest

__all__ = ["PagesResource", "pagesSite"]

# Only what this server itself serves runs or is loaded in a page, nobody may frame it, and nothing of its address leaves.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
_HSTS_SECONDS = 365 * 24 * 3600


def pagesSite(
    server: WebSocketServer,
    broadcastURL: str = "",
    needsKey: bool = False,
    hsts: bool = False,
    reactor: Any = None,
) -> HttpSite:
    """Return the factory for plain HTTP on a WebSocket port: ``server.factory(pagesSite(server))``.

    The front door has counted its connections. For the arguments see `PagesResource`.
    """
    return HttpSite(PagesResource(server, broadcastURL, needsKey, hsts), server.limits, reactor=reactor, sharesPort=True)


class PagesResource(Resource):
    """The root of a WebSocket port's plain HTTP.

    A path of a `ChannelService` is read and written to (see `ChannelEndpoint`), one of any other service gets 426 (RFC 9110
    section 15.5.22), and every other one 404. While a `Demo` is mounted, ``/`` is a
    page that talks to it.

    Args:
        server: whose services these are.
        broadcastURL: where to POST a broadcast, for the page to show; "" shows nothing.
        needsKey: whether that needs an API key.
        hsts: whether pages over TLS ask browsers to come back only over TLS (RFC 6797). It counts for every port of the host:
            so only where no plain port is open. Never for localhost or an IP address.
    """

    def __init__(self, server: WebSocketServer, broadcastURL: str = "", needsKey: bool = False, hsts: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._server = server
        self._page = Template(_read("demo.html").decode())
        self.broadcastURL = broadcastURL
        self._needsKey = needsKey
        self._files: dict[bytes, Endpoint] = {
            b"/demo.js": File(_read("demo.js"), "text/javascript; charset=utf-8", hsts),
            b"/demo.css": File(_read("demo.css"), "text/css; charset=utf-8", hsts),
            b"/favicon.ico": File(_read("favicon.svg"), "image/svg+xml", hsts),
        }
        self._hsts = hsts

    def getChild(self, path: bytes, request: HttpRequest) -> IResource:
        """Return what answers the whole path of `request`; services are mounted by whole paths, not by segments.

        Raises:
            HttpError: 404.
        """
        demo = self._demoPath()
        if demo is not None:
            if request.path == b"/":
                return self._demoPage(demo)
            if request.path in self._files:
                return self._files[request.path]
        service = self._server.find(request.path.decode("ascii"))
        if isinstance(service, ChannelService):
            return ChannelEndpoint(self._server)
        if service is not None:
            return UpgradeRequired()
        raise HttpError(404, "There is nothing here.")

    def _demoPath(self) -> str | None:
        for path, service in self._server.services.items():
            if isinstance(service, Demo) and "{" not in path:
                return path
        return None

    def _demoPage(self, path: str) -> Endpoint:
        curl = _curl(self.broadcastURL, self._needsKey) if self.broadcastURL else ""
        page = self._page.substitute(
            path=escape(path.rstrip("/") + "/subscribe"), curl=escape(curl), hidden="" if curl else "hidden"
        )
        return File(page.encode(), "text/html; charset=utf-8", self._hsts)


class UpgradeRequired(Endpoint):
    """A plain request for what only speaks WebSocket."""

    def admit(self, request: HttpRequest) -> None:
        """Check the method only: a service answers every path below its own."""
        request.postpath = []
        super().admit(request)

    def render_GET(self, request: HttpRequest) -> bytes:
        """Say what to do instead."""
        headers = request.responseHeaders
        headers.setRawHeaders(b"Upgrade", [b"websocket"])
        headers.setRawHeaders(b"Connection", [b"Upgrade"])
        headers.setRawHeaders(b"Sec-WebSocket-Version", [b"13"])
        request.setResponseCode(426, b"Upgrade Required")
        return b"This is a WebSocket service: connect with a WebSocket client (ws:// or wss://), not with plain HTTP.\n"


class File(Endpoint):
    """A file of a page."""

    def __init__(self, content: bytes, kind: str, hsts: bool) -> None:
        super().__init__()
        self._content = content
        self._kind = kind
        self._hsts = hsts

    def admit(self, request: HttpRequest) -> None:
        """Check the method only: the whole path was compared."""
        request.postpath = []
        super().admit(request)

    def render_GET(self, request: HttpRequest) -> bytes:
        """Return the file, with what browsers should know about it."""
        headers = request.responseHeaders
        headers.setRawHeaders("Content-Type", [self._kind])
        for name, value in _PAGE_HEADERS.items():
            headers.setRawHeaders(name, [value])
        if self._hsts and hasTLS(request.transport) and _hasName(request.fields.get("host", "")):
            headers.setRawHeaders("Strict-Transport-Security", [f"max-age={_HSTS_SECONDS}"])
        return self._content


def _read(name: str) -> bytes:
    return files("twisted_ws.web").joinpath("static", name).read_bytes()


def _curl(url: str, needsKey: bool) -> str:
    """Return the command that broadcasts."""
    key = '-H "Authorization: Bearer $KEY" ' if needsKey else ""
    return f'curl {key}-d "Hello!" {shlex.quote(url)}'


def _hasName(host: str) -> bool:
    """Say whether a Host header has a DNS name that is not this machine's own."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost" or name.endswith(".localhost") or not name:
        return False
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return True
    return False
