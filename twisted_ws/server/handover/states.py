"""The state of a caller on its way to another process, as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from twisted_ws.channels.moving import SubscriptionState
from twisted_ws.identity import Grants, Identity
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.websocket.moving import ConnectionState

# Of all that is here and of the frames around it: a process takes nothing of another version. `table.py` says what belongs here.
VERSION = 1


class RequestState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of an `UpgradeRequest`; path parameters follow from where the service is mounted there."""

    target: str
    path: str
    headers: str
    subProtocols: list[str]
    peerAddress: str
    peerPort: int
    isSecure: bool
    isProxied: bool


class IdentityState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of an `Identity`; `info` is msgpack."""

    user: str
    subscribe: list[str]
    publish: list[str]
    scopes: list[str]
    info: bytes
    expiresAt: float | None
    issuedAt: float | None
    tokenId: str | None
    by: str
    isAmbient: bool
    payload: bytes


class CallerState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of a caller.

    Attributes:
        number: up to where it has got what the engine tells all processes (see `Journal`).
        connection: of its connection.
        connectionId, since: see `Caller`.
        subProtocol: see `Caller.negotiatedSubProtocol`.
        request: its handshake.
        identity: who it is; None if nobody was asked.
        user, requestUser, attributes: of the caller and its request, as msgpack.
        said: what onHandOver has returned, as msgpack.
        membership: its part in channels: "", "raw", "json", or "plain" for one that a service has subscribed.
        held: see `BufferedSubscriber.held`.
        subscriptions: in the order in which they began.
        terms: what subscription tokens allow: channel, until, whether to publish, and the token's id.
    """

    number: int
    connection: ConnectionState
    connectionId: str
    since: float
    subProtocol: str | None
    request: RequestState
    identity: IdentityState | None
    user: bytes
    requestUser: bytes
    attributes: bytes
    said: bytes
    membership: str
    held: float
    subscriptions: list[SubscriptionState]
    terms: list[tuple[str, float, bool, str | None]]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(CallerState).decode
unpack = msgspec.msgpack.Decoder().decode


class NotPortable(ValueError):
    """A value that another process would not get as it is here."""


def pack(value: Any, most: int) -> bytes:
    """Return a value as msgpack.

    Args:
        value: the value.
        most: see `Limits.handOverState`.

    Raises:
        NotPortable: it is too large or contains itself; or it has no form; or what comes back is not the same, such as a list for
            a tuple or a dict for a Counter.
    """
    if value is None:
        return _NONE
    other = _otherKind(value, most)
    try:
        packed = encode(value)
        isSame = unpack(packed) == value
    except Exception as error:
        raise NotPortable(f"{type(value).__name__}: {error}") from None
    if other is not None or not isSame:
        raise NotPortable(f"{(other or type(value)).__name__}: it would come back as something else")
    return packed


def _otherKind(value: Any, most: int) -> type[Any] | None:
    """Return a class that msgpack does not know, though what comes back may be equal: an enum's number, the dict of a Counter.

    Raises:
        NotPortable: there is too much of it.
    """
    waiting, left, other = [value], most, None
    while waiting:
        each = waiting.pop()
        kind = type(each)
        left -= EACH
        if kind is str or kind is bytes:
            left -= len(each)
        elif kind is dict or kind is list or kind is tuple:  # the latter as a key; else it is not equal
            if len(each) * EACH > left:
                left = -1
            else:
                waiting += each
                if kind is dict:
                    waiting += each.values()
        elif kind not in _PLAIN:
            other = kind
        if left < 0:
            raise NotPortable(f"more than {most} bytes, or it contains itself")
    return other


# Bytes that each value counts besides its length.
EACH = 64
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_NONE = encode(None)


def requestState(request: UpgradeRequest) -> RequestState:
    """Return what moves of a request."""
    return RequestState(
        request.target,
        request.path,
        request._headers,
        request.subProtocols,
        request.peerAddress,
        request.peerPort,
        request.isSecure,
        request.isProxied,
    )


def requestOf(state: RequestState) -> UpgradeRequest:
    """Return the request."""
    request = UpgradeRequest(
        state.target,
        path=state.path,
        peerAddress=state.peerAddress,
        peerPort=state.peerPort,
        isSecure=state.isSecure,
        isProxied=state.isProxied,
    )
    request._headers = state.headers
    request.subProtocols = state.subProtocols
    return request


def identityState(identity: Identity | None, most: int) -> IdentityState | None:
    """Return what moves of an identity.

    Args:
        identity: the identity.
        most: see `pack`.

    Raises:
        NotPortable: its `info` does not.
    """
    if identity is None:
        return None
    return IdentityState(
        identity.user,
        [*identity.subscribe],
        [*identity.publish],
        [*identity.scopes],
        pack(identity.info, most),
        identity.expiresAt,
        identity.issuedAt,
        identity.tokenId,
        identity.by,
        identity.isAmbient,
        identity.payload,
    )


def identityOf(state: IdentityState | None) -> Identity | None:
    """Return the identity."""
    if state is None:
        return None
    return Identity(
        state.user,
        Grants(state.subscribe),
        Grants(state.publish),
        frozenset(state.scopes),
        unpack(state.info),
        state.expiresAt,
        state.issuedAt,
        state.tokenId,
        state.by,
        state.isAmbient,
        state.payload,
    )
