"""What the HTTP edges answer: errors as JSON, and resources that decide before a body is read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource, Resource

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.web.http_headers import Headers

    from twisted_ws.web.http.request import HttpRequest

__all__ = [
    "RETRY_SECONDS",
    "Directory",
    "Endpoint",
    "HttpError",
    "flat",
    "jsonBody",
    "notAllowed",
    "nothing",
    "responseHead",
    "retryAfter",
    "spaced",
]

# When to come back to a server that is draining or full: by then a load balancer has looked at /readyz again.
RETRY_SECONDS = 5

_SLUGS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    411: "length-required",
    413: "too-large",
    414: "target-too-long",
    415: "unsupported-media-type",
    417: "expectation-failed",
    421: "misdirected",
    429: "too-many-requests",
    431: "head-too-large",
    500: "internal-error",
    501: "not-implemented",
    503: "unavailable",
    505: "version-not-supported",
}


class HttpError(Exception):
    """Raised to answer a request with an error: ``{"error": <slug>, "message": <sentence>}``, and what `more` has.

    Attributes:
        status: the HTTP status.
        message: one fixed sentence for the peer; nothing the peer sent is in it.
        slug: what went wrong, for programs; by default what belongs to the status, as "not-found".
        headers: more response headers; a value with several header lines is a tuple.
        more: more members of the body.
        hint: what the operator's log should say beyond the message; "" for nothing.
    """

    def __init__(
        self,
        status: int,
        message: str,
        slug: str = "",
        headers: Mapping[str, str | tuple[str, ...]] | None = None,
        more: Mapping[str, str] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.hint = hint
        # A service may refuse with any status.
        self.slug = slug or _SLUGS.get(status) or ("forbidden" if status < 500 else "unavailable")
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def phrase(self) -> bytes:
        """The reason phrase; Twisted's own table lacks some statuses."""
        try:
            return HTTPStatus(self.status).phrase.encode("ascii")
        except ValueError:
            return b"Refused"

    def body(self) -> bytes:
        """Return the body of the response."""
        return jsonBody({"error": self.slug, "message": self.message, **self.more})


def jsonBody(value: object) -> bytes:
    """Return one line of JSON."""
    return json.dumps(value).encode("ascii") + b"\n"


# Longer JSON is for programs.
LEGIBLE = 16 * 1024


def spaced(body: bytes) -> bytes:
    """Return encoded JSON as one line for people to read, with spaces, as `jsonBody` has it; a long one as it is."""
    if len(body) > LEGIBLE:
        return body + b"\n"
    try:
        return msgspec.json.format(body, indent=0) + b"\n"
    except RecursionError:  # somebody's message is a thousand lists in each other
        return body + b"\n"


def retryAfter(seconds: float) -> dict[str, str]:
    """Return the Retry-After header (RFC 9110 section 10.2.3): whole seconds, rounded up, at least 1."""
    return {"Retry-After": str(max(math.ceil(seconds), 1))}


def notAllowed(methods: tuple[bytes, ...], more: str = "") -> HttpError:
    """Return the 405 that names what is allowed, and `more` behind that."""
    allowed = b", ".join(methods).decode("ascii")
    return HttpError(405, f"This resource takes {allowed}{more}.", headers={"Allow": allowed})


class Endpoint(Resource):
    """A leaf of the resource tree that is asked when the head of a request is in, before its body is read.

    Subclasses have ``render_GET`` and so on, as with any Twisted resource, and may raise `HttpError` from these and from `admit`.

    Attributes:
        allowedMethods: the methods that it takes; every other one is a 405.
    """

    isLeaf = True
    allowedMethods: tuple[bytes, ...] = (b"GET", b"HEAD", b"OPTIONS")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Return None, or a Deferred, when the request may go on; a body is asked for and read only then.

        Raises:
            HttpError: the answer to the request (the Deferred may fail with one, too).
        """
        if request.postpath:
            raise HttpError(404, "There is nothing here.")
        if request.method not in self.allowedMethods:
            raise notAllowed(self.allowedMethods)
        return None

    def render(self, request: HttpRequest) -> bytes | int:
        """Answer by the method, which `admit` has let pass."""
        answer: bytes | int = getattr(self, f"render_{request.method.decode()}")(request)
        return answer

    def render_OPTIONS(self, request: HttpRequest) -> bytes:
        """Say what this resource takes; nothing about other origins, which therefore may not read it."""
        request.setResponseCode(204)
        request.say("Allow", b", ".join(self.allowedMethods).decode("ascii"))
        return b""


class Directory(Endpoint):
    """An inner node: has children, and is nothing itself.

    Args:
        elsewhere: where a reader should look instead, as ": there".
    """

    isLeaf = False

    def __init__(self, elsewhere: str = "") -> None:
        super().__init__()
        self._elsewhere = elsewhere

    def admit(self, request: HttpRequest) -> None:
        """Refuse: this is no resource."""
        raise nothing(request, self._elsewhere)

    def getChild(self, path: bytes, request: HttpRequest) -> IResource:
        """Refuse a child that was not put here."""
        raise nothing(request, self._elsewhere)


def nothing(request: HttpRequest, elsewhere: str = "") -> HttpError:
    """Return a 404 that tells readers (GET and HEAD) what lies elsewhere."""
    return HttpError(404, f"There is nothing here{elsewhere if request.method in (b'GET', b'HEAD') else ''}.")


def _now() -> bytes:
    """Return the time as the Date header has it."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(second: int) -> bytes:
    date: bytes = datetimeToString(second)
    return date


# What an answer says that says nothing of its own; the same as of any other.
_TEXT = (
    b"%b %d %b\r\nDate: %b\r\nContent-Length: %d\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n%b"
)


def responseHead(version: bytes, code: int, reason: bytes, said: dict[str, str], length: int | None, closes: bool) -> bytes:
    """Return the head of a response with its empty line: with what each one has to say, and without what none should.

    Args:
        version: "HTTP/1.1" or "HTTP/1.0".
        code: the status.
        reason: its phrase.
        said: what it says of its own, by names in their usual spelling; the rest is added.
        length: bytes of its body, which is text where it says nothing else; None where it has none, or an unknown number.
        closes: whether the connection ends after it.
    """
    end = b"Connection: close\r\n\r\n" if closes else b"\r\n"
    if length and not said:
        return _TEXT % (version, code, reason, _now(), length, end)
    said.setdefault("Date", _now().decode("ascii"))
    if length is not None:
        said["Content-Length"] = str(length)
    if length:
        said.setdefault("Content-Type", "text/plain; charset=utf-8")
    said["X-Content-Type-Options"] = "nosniff"
    said.setdefault("Cache-Control", "no-store")
    lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
    return b"%b %d %b\r\n%b%b" % (version, code, reason, lines.encode("latin-1"), end)


def flat(headers: Headers) -> dict[str, str]:
    """Return what `responseHead` takes for headers as twisted.web has them, each with as many lines as it has values."""
    said = {}
    for name, values in headers.getAllRawHeaders():
        text = name.decode("latin-1")
        if values:
            said[text] = f"\r\n{text}: ".join([value.decode("latin-1") for value in values])
    said.pop("Server", None)
    return said
