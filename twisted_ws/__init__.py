"""A pluggable WebSocket service server on Twisted and Autobahn."""

from twisted_ws.caller import Caller
from twisted_ws.errors import (
    BindingError,
    CloseCode,
    ConfigurationError,
    ConnectionClosed,
    HandlerError,
    InvalidPayload,
    MessageTooBig,
    PeerError,
    PolicyViolation,
    ProtocolError,
    ServiceError,
    SlowConsumer,
    TransportError,
    WebSocketError,
)
from twisted_ws.limits import Limits
from twisted_ws.service import CloseFrame, WebSocketService, dispatches
from twisted_ws.upgrade import Headers, Reject, UpgradeRequest

__all__ = [
    "BindingError",
    "Caller",
    "CloseCode",
    "CloseFrame",
    "ConfigurationError",
    "ConnectionClosed",
    "HandlerError",
    "Headers",
    "InvalidPayload",
    "Limits",
    "MessageTooBig",
    "PeerError",
    "PolicyViolation",
    "ProtocolError",
    "Reject",
    "ServiceError",
    "SlowConsumer",
    "TransportError",
    "UpgradeRequest",
    "WebSocketError",
    "WebSocketService",
    "dispatches",
]

__version__ = "0.1.0"
