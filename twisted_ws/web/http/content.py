"""The content of a POST as a message: text, JSON or binary, by its Content-Type."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from twisted_ws.message import Kind, Message
from twisted_ws.web.http.errors import HttpError

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest

_CHARSET = re.compile(r";[ \t]*charset=\"?([^\";]*)", re.IGNORECASE)
IDEMPOTENCY_KEY = r"[!-~]{1,128}"
_isIdempotencyKey = re.compile(IDEMPOTENCY_KEY).fullmatch


def contentType(request: HttpRequest) -> str:
    """Return the media type of the body, without parameters, in lower case; "" for none.

    Raises:
        HttpError: 400 if there are two.
    """
    return _typeOf(request)[0]


def _typeOf(request: HttpRequest) -> tuple[str, bool]:
    if request.bodyType is not None:
        return request.bodyType
    found = request.head.values.get("content-type", ("",))
    if len(found) > 1:
        raise HttpError(400, "The request has more than one Content-Type header.")
    request.bodyType = _bodyType(found[0])
    return request.bodyType


@lru_cache(64)  # most publishers use one type
def _bodyType(text: str) -> tuple[str, bool]:
    """Return the media type in a Content-Type, and whether its charset is UTF-8."""
    charset = _CHARSET.search(text)
    isUtf8 = charset is None or charset[1].strip().lower() in ("utf-8", "utf8", "us-ascii")
    return text.partition(";")[0].strip().lower(), isUtf8


def checkBodyType(request: HttpRequest) -> None:
    """Refuse a body that cannot be passed on as it is.

    Raises:
        HttpError: 415; 400 for two types.
    """
    if "content-encoding" in request.head.values and request.fields["content-encoding"].strip().lower() != "identity":
        raise HttpError(415, "The body must not be compressed.", headers={"Accept-Encoding": "identity"})
    kind, isUtf8 = _typeOf(request)
    if kind.startswith("multipart/"):
        raise HttpError(415, "The body is sent on as it is, so it must not be a multipart form (with curl: -d, not -F).")
    if not isUtf8:
        raise HttpError(415, "Text must be UTF-8.")


def messageOf(request: HttpRequest) -> Message:
    """Return the body of a POST to a channel as a message.

    An empty body is a message if its type says so, as a page's ``fetch`` does; otherwise it is more likely a script's mistake.

    Raises:
        HttpError: 400 for an empty body of another type, for text that is not UTF-8, and for invalid JSON.
    """
    body, kind = request.content.read(), contentType(request)
    if not body and kind not in ("text/plain", "application/octet-stream"):
        raise HttpError(400, "The body is empty: nothing was sent.", "empty-body")
    if kind == "application/octet-stream":
        return Message(Kind.BINARY, body)
    if kind == "application/json":
        try:
            msgspec.json.decode(body, type=msgspec.Raw)  # without making objects: a megabyte may have half a million
            if not body.isascii():
                body.decode()  # which msgspec leaves to the code that makes texts of it
        except (ValueError, RecursionError):
            raise HttpError(400, "The body is not valid JSON.") from None
        return Message(Kind.JSON, body)
    return textMessage(body)


def textMessage(body: bytes) -> Message:
    """Return a body as a text message.

    Raises:
        HttpError: 400 for a body that is not UTF-8.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            hint = "The body is not UTF-8; binary needs Content-Type: application/octet-stream."
            raise HttpError(400, hint, "not-utf-8") from None
    return Message(Kind.TEXT, body)


def idempotencyKey(request: HttpRequest) -> str | None:
    """Return the Idempotency-Key of a request, or None.

    Raises:
        HttpError: 400 if it is malformed or repeated.
    """
    found = request.fields.getAll("idempotency-key")
    if not found:
        return None
    if len(found) > 1 or not _isIdempotencyKey(found[0]):
        raise HttpError(400, "An Idempotency-Key has 1 to 128 visible ASCII characters.")
    return found[0]
