"""A pluggable WebSocket service server on Twisted and Autobahn."""

from typing import TYPE_CHECKING

from twisted_ws.access.rules import channelToken
from twisted_ws.caller import Caller
from twisted_ws.errors import (
    BindingError,
    ChannelError,
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
from twisted_ws.identity import Grants, Identity
from twisted_ws.limits import Limits
from twisted_ws.message import Position, Published, Start
from twisted_ws.service import CloseFrame, Stay, WebSocketService, dispatches
from twisted_ws.upgrade import Headers, Reject, UpgradeRequest

if TYPE_CHECKING:
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.server.server import WebSocketServer

__all__ = [
    "BindingError",
    "Caller",
    "ChannelError",
    "ChannelService",
    "CloseCode",
    "CloseFrame",
    "ConfigurationError",
    "ConnectionClosed",
    "Grants",
    "HandlerError",
    "Headers",
    "Identity",
    "InternalError",
    "InvalidPayload",
    "Limits",
    "MessageTooBig",
    "Overloaded",
    "PeerError",
    "PolicyViolation",
    "Position",
    "ProtocolError",
    "Published",
    "Reject",
    "ServiceError",
    "SlowConsumer",
    "Start",
    "Stay",
    "TransportError",
    "UpgradeRequest",
    "WebSocketError",
    "WebSocketServer",
    "WebSocketService",
    "channelToken",
    "dispatches",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # A program that only defines a service, or asks twistd for its options, should not wait for Autobahn to load.
    if name == "WebSocketServer":
        from twisted_ws.server.server import WebSocketServer

        return WebSocketServer
    if name == "ChannelService":
        from twisted_ws.channels.service import ChannelService

        return ChannelService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
