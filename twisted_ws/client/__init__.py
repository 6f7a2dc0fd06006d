"""A WebSocket client that bounds what a server can do to it, names what went wrong, and reconnects by itself.

Begin with `connect`; `twisted_ws.client.sync` is the same for scripts without a reactor. Importing this installs no reactor.
"""

from twisted_ws.client.client import WebSocketClient
from twisted_ws.client.connecting import Connecting, connect
from twisted_ws.client.credentials.oauth2 import OAuth2
from twisted_ws.client.credentials.signed import SignedToken
from twisted_ws.client.errors import (
    BadHandshake,
    ConnectError,
    ConnectFailed,
    HandshakeRefused,
    HandshakeTimeout,
    InvalidURL,
    ProxyRefused,
    PublishError,
    ReadTimeout,
    Redirected,
    TLSFailed,
    UnexpectedMessage,
    UntrustedCertificate,
    WriteBufferFull,
    WrongName,
)
from twisted_ws.client.http.credentials import Basic, Bearer
from twisted_ws.client.http.response import Response
from twisted_ws.client.publishing import AgentPublisher
from twisted_ws.client.retry import Retry
from twisted_ws.errors import (
    ConfigurationError,
    ConnectionClosed,
    InvalidPayload,
    MessageTooBig,
    ProtocolError,
    TransportError,
    WebSocketError,
)
from twisted_ws.wire.tls.stores import Store

__all__ = [
    "AgentPublisher",
    "BadHandshake",
    "Basic",
    "Bearer",
    "ConfigurationError",
    "ConnectError",
    "ConnectFailed",
    "Connecting",
    "ConnectionClosed",
    "HandshakeRefused",
    "HandshakeTimeout",
    "InvalidPayload",
    "InvalidURL",
    "MessageTooBig",
    "OAuth2",
    "ProtocolError",
    "ProxyRefused",
    "PublishError",
    "ReadTimeout",
    "Redirected",
    "Response",
    "Retry",
    "SignedToken",
    "Store",
    "TLSFailed",
    "TransportError",
    "UnexpectedMessage",
    "UntrustedCertificate",
    "WebSocketClient",
    "WebSocketError",
    "WriteBufferFull",
    "WrongName",
    "connect",
]
