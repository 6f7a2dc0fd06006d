from __future__ import annotations

import pytest

import twisted_ws
from twisted_ws import errors
from twisted_ws.errors import (
    BindingError,
    CloseCode,
    ConfigurationError,
    ConnectionClosed,
    HandlerError,
    InternalError,
    InvalidPayload,
    MessageTooBig,
    Overloaded,
    PeerError,
    PolicyViolation,
    ProtocolError,
    ServiceError,
    SlowConsumer,
    TransportError,
    WebSocketError,
)


@pytest.mark.parametrize(
    ("kind", "code", "reason", "peersFault"),
    [
        (ProtocolError, 1002, "protocol error", True),
        (BindingError, 1003, "bad data", True),
        (InvalidPayload, 1007, "invalid payload", True),
        (PolicyViolation, 1008, "policy violation", True),
        (MessageTooBig, 1009, "message too big", True),
        (SlowConsumer, 1013, "too slow", True),
        (Overloaded, 1013, "overloaded", False),
        (TransportError, None, "", True),
        (HandlerError, 1011, "internal error", False),
        (InternalError, 1011, "internal error", False),
    ],
)
def test_codes(kind, code, reason, peersFault):
    """Each kind of failure has its close code, a fixed reason, and somebody who is to blame."""
    error = kind("a detail for the log")
    assert (error.code, error.reason, str(error)) == (code, reason, "a detail for the log")
    assert isinstance(error, WebSocketError)
    assert isinstance(error, PeerError) is peersFault


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("too many messages", "too many messages"),
        ("x" * 200, "x" * 123),
        ("ü" * 100, "ü" * 61),  # 122 bytes: a character is not cut in two
        ("bad \ud800", "bad ?"),
        ("", ""),
    ],
)
def test_reasonsFitIntoAFrame(reason, kept):
    """A reason is cut to the 123 bytes of a Close frame, between characters."""
    assert PolicyViolation("detail", reason).reason == kept
    assert len(PolicyViolation("detail", reason).reason.encode()) <= 123


def test_moreAttributes():
    """A binding error names the field, a handler error the event."""
    assert BindingError("no", field="items[0].price").field == "items[0].price"
    assert BindingError("no", "bad data: price").reason == "bad data: price"
    assert HandlerError("no", "onOpen").event == "onOpen"


@pytest.mark.parametrize(
    ("error", "text", "code", "reason"),
    [
        (ConnectionClosed(), "the connection is closed (1006)", 1006, ""),
        (
            ConnectionClosed(CloseCode.GOING_AWAY, "server stops"),
            "the connection is closed (1001: server stops)",
            1001,
            "server stops",
        ),
    ],
)
def test_connectionClosed(error, text, code, reason):
    """A write that failed says with which code and reason the connection ended."""
    assert (str(error), error.statusCode, error.reason) == (text, code, reason)
    assert type(error.statusCode) is int
    assert not isinstance(error, WebSocketError)


def test_operators():
    """A service that cannot be mounted is a mistake of configuration."""
    assert issubclass(ServiceError, ConfigurationError)


def test_publicNames():
    """Every error can be imported from the package itself, and every public name of the package exists."""
    assert set(errors.__all__) <= set(twisted_ws.__all__)
    for name in twisted_ws.__all__:
        assert getattr(twisted_ws, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        twisted_ws.nonsense  # noqa: B018 - the look-up is the test
