"""The subprotocol ``twisted-ws.v1``: requests and notices, which are JSON objects with a type."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from twisted_ws.errors import ChannelError
from twisted_ws.message import Message, Start

_LONGEST_REF = 64


Ref = int | str | None


# How many messages.
_Number = Annotated[int, msgspec.Meta(ge=1)]


class _AnyRequest(msgspec.Struct, tag_field="type", kw_only=True):
    """What a client sends.

    Attributes:
        ref: repeated in the answer.
    """

    ref: Ref = None

    def __repr__(self) -> str:
        # A message and a token are nobody's business, and a repr ends up in logs.
        return f"<{type(self).__name__}>"


class SubscribeRequest(_AnyRequest, tag="subscribe"):
    """Subscribe to a channel or pattern, or, with another token, go on with a subscription."""

    channel: str
    after: str | None = None
    presence: bool = False
    token: str | None = None
    last: _Number | None = None


class UnsubscribeRequest(_AnyRequest, tag="unsubscribe"):
    """End a subscription."""

    channel: str


class PublishRequest(_AnyRequest, tag="publish"):
    """Publish a message."""

    channel: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    base64: str | None = None
    key: str | None = None
    idempotencyKey: str | None = None
    token: str | None = None

    def message(self) -> Message:
        """Return the message.

        Raises:
            ChannelError: neither data nor base64, both, or invalid base64.
        """
        if isinstance(self.data, msgspec.Raw) and self.base64 is None:
            return Message.ofData(self.data)
        if self.base64 is None or isinstance(self.data, msgspec.Raw):
            raise ChannelError("bad-request", "A message has either data or base64.")
        return Message.ofBase64(self.base64)


class PresenceRequest(_AnyRequest, tag="presence"):
    """Ask who is on a channel; with a cursor, for the users after those of the previous answer."""

    channel: str
    cursor: str = ""


class HistoryRequest(_AnyRequest, tag="history"):
    """Ask for the newest messages of a channel that are kept, or those before the one with an id."""

    channel: str
    before: str | None = None
    limit: _Number | None = None
    token: str | None = None


class AuthRequest(_AnyRequest, tag="auth"):
    """Renew the credentials: those of the same user, that end later."""

    token: str


class PingRequest(_AnyRequest, tag="ping"):
    """Ask whether the server is there."""


Request = SubscribeRequest | UnsubscribeRequest | PublishRequest | PresenceRequest | HistoryRequest | AuthRequest | PingRequest

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class _Ref(msgspec.Struct):
    ref: Ref = None


_refs = msgspec.json.Decoder(_Ref)


def readRequest(text: str) -> Request:
    """Return the request in a text message.

    Raises:
        ChannelError: there is none; the message says why.
    """
    try:
        request = _requests.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ChannelError("bad-request", str(error)) from None
    if isinstance(request.ref, str) and len(request.ref) > _LONGEST_REF:
        raise ChannelError("bad-request", f"A ref has at most {_LONGEST_REF} characters.")
    return request


def refOf(text: str) -> Ref:
    """Return the ref of a message that could not be read as a request, for the error that answers it."""
    try:
        ref = _refs.decode(text).ref
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return None if isinstance(ref, str) and len(ref) > _LONGEST_REF else ref


def startFields(start: Start) -> dict[str, Any]:
    """Return the fields of a notice that a subscription has begun."""
    place = None if start.position is None else str(start.position)
    return {"channel": start.channel, "id": place, "recovered": start.recovered, "count": start.missed}


def notice(kind: str, ref: Ref = None, **fields: Any) -> bytes:
    """Return the JSON of a notice: its type, the fields, and the ref of the request that it answers."""
    named = {"type": kind, **fields}
    if ref is not None:
        named["ref"] = ref
    return msgspec.json.encode(named)
