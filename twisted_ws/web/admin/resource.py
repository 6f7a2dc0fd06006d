"""The admin page: its files, as the broadcast site serves them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from twisted_ws.web.api.guard import GuardedResource
from twisted_ws.web.http.errors import HttpError, notAllowed
from twisted_ws.web.pages import File
from twisted_ws.web.scripts import CLIENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.internet.defer import Deferred

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


class AdminResource(GuardedResource):
    """Everything below ``/admin/``."""

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Find what the path means, and check the method."""
        path = b"/".join(request.postpath or ()).decode("latin-1")
        request.found = pageFiles().get(path)
        if not request.postpath:  # without the slash, the page would look for its files elsewhere
            request.found = _ToPage()
        if request.found is None:
            raise HttpError(404, "There is nothing here.")
        if request.method not in request.found.allowedMethods:
            raise notAllowed(request.found.allowedMethods)
        return None

    def render(self, request: HttpRequest) -> Any:
        """Answer with what was found."""
        return request.found.render(request)


class _ToPage(File):
    """Leads to the page."""

    def __init__(self) -> None:
        super().__init__(b"", "text/plain; charset=utf-8", {})

    def render_GET(self, request: HttpRequest) -> bytes:
        """Answer with the address of the page."""
        request.setResponseCode(308)
        request.say("Location", "/admin/")
        return b""
