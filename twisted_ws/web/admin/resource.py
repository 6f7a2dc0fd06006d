"""The admin page: its files, and its login."""

from __future__ import annotations

import base64
import socket
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET

from twisted_ws import __version__
from twisted_ws.access.publishers.sessions import Session, cookieName, cookiesIn
from twisted_ws.web.api.guard import NOBODY, GuardedResource
from twisted_ws.web.http.coroutines import failed
from twisted_ws.web.http.errors import HttpError, notAllowed
from twisted_ws.web.http.response import jsonBody
from twisted_ws.web.pages import File
from twisted_ws.web.scripts import CLIENT
from twisted_ws.wire.door.hosts import MISDIRECTED, isMisdirected, remedy
from twisted_ws.wire.loop.transports import isOnLoopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted_ws.web.http.request import HttpRequest

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# The page runs and loads only what this server serves, writes text and never markup, and cannot be framed or opened by another.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@cache
def pageFiles() -> Mapping[str, File]:
    """Return the files of the page by name, with the browser client; "" is the page itself."""
    found = {}
    for each in files("twisted_ws.web").joinpath("static", "admin").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None and each.is_file():
            found[each.name] = File(each.read_bytes(), kind, _HEADERS)
    found[""] = found.pop("index.html")
    found["twisted-ws.mjs"] = File(CLIENT["twisted-ws.mjs"], _TYPES["mjs"], _HEADERS)
    return found


# The requests of a session, by path.
_METHODS = {"session": (b"GET", b"HEAD", b"OPTIONS"), "login": (b"POST", b"OPTIONS"), "logout": (b"POST", b"OPTIONS")}
# Bytes of a login: a key has a few dozen.
_LOGIN = 4096


class Said(Struct):
    """Who is logged in, and what for."""

    user: str | None
    login: tuple[str, ...]
    may: list[str]
    expires: float | None
    version: str
    name: str


class Login(Struct, forbid_unknown_fields=True):
    """Who wants to log in: a key, or a user with a password."""

    key: str = ""
    user: str = ""
    password: str = ""

    @property
    def authorization(self) -> str:
        """The header that says the same."""
        if self.key:
            return f"Bearer {self.key}"
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode("utf-8", "surrogatepass")).decode("ascii")


class AdminResource(GuardedResource):
    """Everything below ``/admin/``: the files of the page, which are no secret, and the session of whoever is logged in."""

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Find what the path means, and check the method and where the request comes from."""
        path = b"/".join(request.postpath or ()).decode("latin-1")
        methods = _METHODS.get(path)
        request.found = path if methods else pageFiles().get(path)
        if not request.postpath:  # without the slash, the page would look for its files elsewhere
            request.found = _ToPage()
        if request.found is None:
            raise HttpError(404, "There is nothing here.")
        allowed = methods or request.found.allowedMethods
        if request.method not in allowed:
            raise notAllowed(allowed)
        # A page from another name would be a copy whose owner sees what is typed into it.
        if isMisdirected(request.head, request.transport, self._server.hosts, self._server.proxies):
            raise HttpError(421, MISDIRECTED, hint=remedy(request.head, request.transport))
        if request.method == b"POST":
            self.requirePage(request)
        return None

    def render(self, request: HttpRequest) -> Any:
        """Answer with what was found."""
        if not isinstance(request.found, str) or request.method == b"OPTIONS":
            return self.render_OPTIONS(request) if isinstance(request.found, str) else request.found.render(request)
        if request.found == "login":
            return self._logIn(request)
        if request.found == "logout":
            return self._logOut(request)
        return self._say(request, self.session(request))

    def _say(self, request: HttpRequest, session: Session | None) -> bytes:
        """Say who is logged in."""
        request.say("Content-Type", "application/json")
        needs = self._credentials.requiresCredentials
        holder = session.holder if session is not None else None if needs else NOBODY
        expires = None
        if session is not None:
            expires = round(self._server.runtime.unixTime() + session.expires - self._server.reactor.seconds(), 3)
        takes = self._credentials.takes if needs else ()
        if holder is None:
            said = Said(None, takes, [], None, __version__, socket.gethostname())
        else:
            said = Said(holder.name, takes, holder.scopes.may(), expires, __version__, socket.gethostname())
        return jsonBody(said)

    def _logIn(self, request: HttpRequest) -> int | bytes:
        if not self._credentials.requiresCredentials:
            return self._say(request, None)
        if not (request.isSecure() or isOnLoopback(request.transport) or _isLoopback(request.head.host)):
            raise HttpError(403, "A key would cross the network unencrypted: use TLS, or a tunnel to this machine (ssh -L).")
        body = request.content.read(_LOGIN + 1)
        if len(body) > _LOGIN:
            raise HttpError(413, "This is too long for a login.")
        try:
            login = msgspec.json.decode(body, type=Login)
        except (msgspec.DecodeError, UnicodeError, RecursionError):  # whose text could repeat a part of a key
            raise HttpError(400, "The body must be a JSON object with a key, or a user and a password.") from None
        asked = self._credentials.logIn(login.authorization, request.peerAddress)
        asked.addCallbacks(self._begin, self.unknown, callbackArgs=(request,), errbackArgs=(request,))
        asked.addCallbacks(request.answer, failed, errbackArgs=(request,))
        request.whenGone = asked.cancel
        return NOT_DONE_YET

    def _begin(self, made: tuple[str, Session], request: HttpRequest) -> bytes:
        cookie, session = made
        request.by = session.holder
        if not session.holder.scopes.may():
            self._credentials.sessions.end(cookie)
            self.note(request, "login", 403)
            raise HttpError(403, "This key is not for the admin page: that needs the scope admin, or read:*.")
        self.note(request, "login", 200)
        self._setCookie(request, cookie, round(session.expires - self._server.reactor.seconds()))
        return self._say(request, session)

    def _logOut(self, request: HttpRequest) -> bytes:
        session = self.session(request)
        if session is not None:
            request.by = session.holder
            self.note(request, "logout", 204)
        for header in request.head.values.get("cookie", ()):
            for cookie in cookiesIn(header, request.isSecure()):
                self._credentials.sessions.end(cookie)
        self._setCookie(request, "", 0)
        request.setResponseCode(204)
        return b""

    def _setCookie(self, request: HttpRequest, value: str, seconds: int) -> None:
        isSecure = request.isSecure()
        secure = "Secure; " if isSecure else ""
        cookie = f"{cookieName(isSecure)}={value}; Path=/; Max-Age={seconds}; HttpOnly; {secure}SameSite=Strict"
        request.say("Set-Cookie", cookie)


def _isLoopback(host: str) -> bool:
    """Return whether a browser that asked for `host` asked its own machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in ("localhost", "127.0.0.1", "[::1]") or name.lower().endswith(".localhost")


class _ToPage(File):
    """Leads to the page."""

    def __init__(self) -> None:
        super().__init__(b"", "text/plain; charset=utf-8", {})

    def render_GET(self, request: HttpRequest) -> bytes:
        """Answer with the address of the page."""
        request.setResponseCode(308)
        request.say("Location", "/admin/")
        return b""
