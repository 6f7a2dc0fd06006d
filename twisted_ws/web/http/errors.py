"""Errors as answers: a status, and JSON that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from twisted_ws.errors import ChannelError
from twisted_ws.web.http.response import jsonBody

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest

# When to retry at a server that is draining or full: by then a load balancer has checked /readyz again.
_RETRY_SECONDS = 5
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
    """Raised to answer a request with an error: ``{"error": <slug>, "message": <sentence>}``, and `more`.

    Attributes:
        status: the HTTP status.
        message: one fixed sentence for the peer; it contains nothing that the peer sent.
        slug: what went wrong, for programs; by default the word for the status, such as "not-found".
        headers: more response headers; a tuple makes several lines.
        more: more members of the body.
        hint: what the operator's log says in addition to the message, or "".
        isLogged: whether the log gets a line for each request that is refused so.
    """

    def __init__(
        self,
        status: int,
        message: str,
        slug: str = "",
        headers: Mapping[str, str | tuple[str, ...]] | None = None,
        more: Mapping[str, str] | None = None,
        hint: str = "",
        isLogged: bool = True,
    ) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.hint = hint
        self.isLogged = isLogged
        # A service may refuse with any status.
        self.slug = slug or _SLUGS.get(status) or ("forbidden" if status < 500 else "unavailable")
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @property
    def phrase(self) -> bytes:
        """The reason phrase; Twisted's table lacks some statuses."""
        try:
            return HTTPStatus(self.status).phrase.encode("ascii")
        except ValueError:
            return b"Refused"

    def body(self) -> bytes:
        """Return the body of the response."""
        message = self.message.encode(errors="replace").decode()  # a service's may have lone surrogates
        return jsonBody({"error": self.slug, "message": message, **self.more})


def retryAfter(seconds: float = _RETRY_SECONDS) -> dict[str, str]:
    """Return the Retry-After header (RFC 9110 section 10.2.3): whole seconds, rounded up, at least 1."""
    return {"Retry-After": str(max(math.ceil(seconds), 1))}


def notAllowed(methods: tuple[bytes, ...], more: str = "") -> HttpError:
    """Return a 405 that names the allowed methods, followed by `more`."""
    allowed = b", ".join(methods).decode("ascii")
    return HttpError(405, f"This resource takes {allowed}{more}.", headers={"Allow": allowed})


def nothing(request: HttpRequest, readers: str = "", others: str = "") -> HttpError:
    """Return a 404 that tells readers (GET and HEAD), and others, where to look instead."""
    return HttpError(404, f"There is nothing here{readers if request.method in (b'GET', b'HEAD') else others}.")


def httpError(error: ChannelError) -> HttpError:
    """Return the answer to a request about a channel that was refused."""
    headers = None
    if error.retryAfter is not None:
        headers = retryAfter(error.retryAfter)
    elif error.status in (429, 503):
        headers = retryAfter()
    more = {} if error.channel is None else {"channel": error.channel}
    if error.reason:
        more["reason"] = error.reason
    return HttpError(error.status, error.message, error.code, headers, more)


def late() -> HttpError:
    """Return the answer to a request that took too long."""
    return HttpError(503, "The service did not decide in time.", headers=retryAfter())
