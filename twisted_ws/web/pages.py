"""Plain HTTP on a WebSocket port: channels and their browser client, the demo page, and a 426 for any other service."""

from __future__ import annotations

import gzip
import shlex
from functools import cached_property
from hashlib import sha256
from html import escape
from importlib.metadata import PackageNotFoundError, metadata
from ipaddress import ip_address
from string import Template
from typing import TYPE_CHECKING

from twisted.web.resource import IResource, Resource

from twisted_ws.channels.service import ChannelService
from twisted_ws.services.demo import Demo
from twisted_ws.services.playground import Playground
from twisted_ws.web.channels.cors import Cors, isPreflight
from twisted_ws.web.channels.resource import ChannelsResource
from twisted_ws.web.folder import PageFile
from twisted_ws.web.http.compression import takesGzip
from twisted_ws.web.http.errors import HttpError
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.web.http.site import HttpSite
from twisted_ws.web.scripts import CLIENT, resource
from twisted_ws.wire.loop.transports import hasTLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# A page runs and loads only what this server serves, must not be framed, and does not reveal its address.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
# The browser client is public, and a page of another origin may load it from here.
_CLIENT_HEADERS = {"Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"}
_SCRIPT = "text/javascript; charset=utf-8"
_TYPES = "text/plain; charset=utf-8"  # of TypeScript: its suffix usually stands for a video
# The first segments of the paths of the broadcast site.
_ON_BROADCAST_PORT = (b"broadcaster", b"api", b"healthz", b"readyz")
_HSTS_SECONDS = 365 * 24 * 3600


def pagesSite(
    server: WebSocketServer,
    broadcastURL: str = "",
    needsKey: bool = False,
    hsts: bool = False,
    folder: Mapping[bytes, PageFile] | None = None,
) -> HttpSite:
    """Return the factory for plain HTTP on a WebSocket port: ``server.factory(pagesSite(server))``.

    For the arguments see `PagesResource`.
    """
    pages = PagesResource(server, broadcastURL, needsKey, hsts, folder)
    return HttpSite(pages, server.runtime, hosts=server.hosts, proxies=server.proxies)


class PagesResource(Resource):
    """The root of a WebSocket port's plain HTTP.

    The path of a `ChannelService` is served by `ChannelsResource`, that of any other service gets 426 (RFC 9110 section
    15.5.22), and any other path 404. While a `ChannelService` is mounted, its browser client is at ``/twisted-ws.js`` (and
    ``.mjs``, ``.d.ts``); while a `Demo` is, ``/`` is a page that talks to it.

    Args:
        server: whose services these are.
        broadcastURL: where to POST a broadcast, shown on the page; "" shows nothing.
        needsKey: whether that needs an API key.
        hsts: whether pages over TLS ask browsers to return only over TLS (RFC 6797). That applies to every port of the host, so
            set it only if no plain port is open. It is never sent for localhost or an IP address.
        folder: more files, by their paths (see `twisted_ws.web.folder`); they come first.
    """

    def __init__(
        self,
        server: WebSocketServer,
        broadcastURL: str = "",
        needsKey: bool = False,
        hsts: bool = False,
        folder: Mapping[bytes, PageFile] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._server = server
        self._page = Template(resource("demo.html").decode())
        self._docs = _docs()
        self.broadcastURL = broadcastURL
        self._needsKey = needsKey
        self._files = {
            b"/demo.js": File(resource("demo.js"), _SCRIPT, _PAGE_HEADERS, hsts),
            b"/page.js": File(resource("page.js"), _SCRIPT, _PAGE_HEADERS, hsts),
            b"/playground.js": File(resource("playground.js"), _SCRIPT, _PAGE_HEADERS, hsts),
            b"/demo.css": File(resource("demo.css"), "text/css; charset=utf-8", _PAGE_HEADERS, hsts),
            b"/favicon.ico": File(resource("favicon.svg"), "image/svg+xml", _PAGE_HEADERS, hsts),
        }
        self._folder = {path: File(each.content, each.kind, {}, hsts) for path, each in (folder or {}).items()}
        self._client = {
            f"/{name}".encode("ascii"): File(content, _TYPES if name.endswith(".ts") else _SCRIPT, _CLIENT_HEADERS)
            for name, content in CLIENT.items()
        }
        self._hsts = hsts
        self._channels = ChannelsResource(server)
        self._cors = Cors(server.origins, server.namedOrigins)

    def getChild(self, path: bytes, request: HttpRequest) -> IResource:
        """Return the resource for the whole path of `request`: services are mounted by whole paths, not by segments."""
        if request.path in self._folder:
            return self._folder[request.path]
        file = self._files.get(request.path)
        if (file is not None or request.path == b"/") and (demo := self._demoPath()) is not None:
            return file or self._demoPage(demo)
        if request.path in self._client and self._channelPath() is not None:
            return self._client[request.path]
        match = request.found = self._server.match(request.path.decode("ascii"))
        if match is None:
            return Nothing(self._cors)
        return self._channels if isinstance(match.value.service, ChannelService) else UpgradeRequired(self._cors)

    def _demoPath(self) -> str | None:
        for path, service in self._server.services.items():
            if isinstance(service, Demo) and "{" not in path:
                return path
        return None

    def _channelPath(self) -> str | None:
        """Return where the browser client connects: the playground if there is one; "" if all paths have parameters."""
        found = {path: service for path, service in self._server.services.items() if isinstance(service, ChannelService)}
        plain = sorted((path for path in found if "{" not in path), key=lambda path: not isinstance(found[path], Playground))
        return plain[0] if plain else "" if found else None

    def _demoPage(self, path: str) -> HttpResource:
        curl = _curl(self.broadcastURL, self._needsKey) if self.broadcastURL else ""
        channels = self._channelPath()
        page = self._page.substitute(
            path=escape(path.rstrip("/") + "/subscribe"),
            channels=escape(channels or ""),
            noChannels="" if channels else "hidden",
            curl=escape(curl),
            hidden="" if curl else "hidden",
            docs=escape(self._docs),
        )
        return File(page.encode(), "text/html; charset=utf-8", _PAGE_HEADERS, self._hsts)


class _NoChannels(HttpResource):
    """The answer to a page that looks for channels where there are none; a page that may connect may read it.

    Args:
        cors: knows which pages may.
    """

    def __init__(self, cors: Cors) -> None:
        super().__init__()
        self._cors = cors

    def admit(self, request: HttpRequest) -> None:
        """Check only the method, because the whole path was compared; a preflight is let through."""
        request.postpath = []
        self._cors.show(request)
        if not isPreflight(request):
            self.refuse(request)

    def refuse(self, request: HttpRequest) -> None:
        """Refuse a request that is not a preflight, by its head.

        Raises:
            HttpError: the answer.
        """
        super().admit(request)

    def render_OPTIONS(self, request: HttpRequest) -> bytes:
        """Answer a preflight, or name the methods."""
        self._cors.preflight(request)
        return super().render_OPTIONS(request)


class Nothing(_NoChannels):
    """A path without a service."""

    def refuse(self, request: HttpRequest) -> None:
        """Refuse every method."""
        where = ": this is on the broadcast port (by default 8081)" if request.path.split(b"/")[1] in _ON_BROADCAST_PORT else ""
        raise HttpError(404, f"There is nothing here{where}.")


class UpgradeRequired(_NoChannels):
    """A plain request to a service that only speaks WebSocket, at or below its path."""

    def render_GET(self, request: HttpRequest) -> bytes:
        """Say what to do instead."""
        request.say("Upgrade", "websocket")
        request.say("Connection", "Upgrade")
        request.say("Sec-WebSocket-Version", "13")
        request.setResponseCode(426, b"Upgrade Required")
        return b"This is a WebSocket service: connect with a WebSocket client (ws:// or wss://), not with plain HTTP.\n"


class File(HttpResource):
    """A file that browsers cache, and revalidate on every use.

    Args:
        content: its bytes.
        kind: its type.
        fields: more headers of the answer.
        hsts: see `PagesResource`.
    """

    def __init__(self, content: bytes, kind: str, fields: Mapping[str, str], hsts: bool = False) -> None:
        super().__init__()
        self._content = content
        self._fields = {"Content-Type": kind, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", **fields}
        self._tag = sha256(content).hexdigest()[:24]
        self._hsts = hsts

    @cached_property
    def _compressed(self) -> bytes:
        return gzip.compress(self._content, mtime=0)

    def admit(self, request: HttpRequest) -> None:
        """Check only the method, because the whole path was compared."""
        request.postpath = []
        super().admit(request)

    def render_GET(self, request: HttpRequest) -> bytes:
        """Return the file, with what browsers need to cache it."""
        request.operation = "page"
        for name, value in self._fields.items():
            request.say(name, value)
        # Weak, because the compressed file has the same (RFC 9110 section 8.8.1).
        request.say("ETag", f'W/"{self._tag}"')
        if self._hsts and hasTLS(request.transport) and _hasName(request.fields.get("host", "")):
            request.say("Strict-Transport-Security", f"max-age={_HSTS_SECONDS}")
        if f'"{self._tag}"' in request.fields.get("if-none-match", ""):
            request.setResponseCode(304)
            return b""
        if takesGzip(request.fields.get("accept-encoding", "")):
            request.say("Content-Encoding", "gzip")
            return self._compressed
        return self._content


def _docs() -> str:
    """Return where the documentation is: what the distribution says, else its page in the index, which shows the README."""
    try:
        named = metadata("twisted-ws").get_all("Project-URL", [])
    except PackageNotFoundError:  # the package is used without being installed
        named = []
    urls: dict[str, str] = dict(each.split(", ", 1) for each in named)
    return urls.get("Documentation", "https://pypi.org/project/twisted-ws/")


def _curl(url: str, needsKey: bool) -> str:
    """Return the command that broadcasts."""
    key = '-H "Authorization: Bearer $KEY" ' if needsKey else ""
    return f'curl {key}-d "Hello!" {shlex.quote(url)}'


def _hasName(host: str) -> bool:
    """Return whether a Host header has a DNS name that is not this machine's own."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost" or name.endswith(".localhost") or not name:
        return False
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return True
    return False
