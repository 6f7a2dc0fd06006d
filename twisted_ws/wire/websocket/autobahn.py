"""What Autobahn is told to do, and to leave to us."""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha1
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer

from twisted_ws.limits import Limits
from twisted_ws.wire.websocket.base import BaseConnection
from twisted_ws.wire.websocket.deflate import Deflate, acceptOffer

__all__ = ["QuietServerProtocol", "serverFactory", "serverOptions"]


_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n%b\r\n"
)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class _Fired:
    """Stands for Autobahn's is_open and is_closed, for which nobody waits."""

    def callback(self, result: object) -> None:
        """Forget `result`."""


class QuietServerProtocol(BaseConnection, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's bases differ in types
    """Autobahn's server protocol without its per-connection options.

    A subclass for one server takes its options from `serverOptions`, as class attributes: so no connection copies them, or
    prints them for a debug line.
    """

    is_open = is_closed = _Fired()
    factory: WebSocketServerFactory

    def __init__(self) -> None:
        # Autobahn's own makes two Deferreds, an event table and details of the transport, none of which is used.
        pass

    def connectionMade(self) -> None:
        """Begin: Autobahn's state of a new connection stands on the class (see `serverOptions`) until it changes."""

    def acceptHandshake(self, key: str, chosen: str | None, extensions: list[Any], headers: tuple[tuple[str, str], ...]) -> None:
        """Answer a handshake that was judged already with the 101, and open (RFC 6455 section 4.2.2).

        Autobahn's own way is the same in four times the time.

        Args:
            key: the Sec-WebSocket-Key.
            chosen: the subprotocol, or None.
            extensions: offers of permessage-deflate that can be taken.
            headers: more headers for the 101.
        """
        lines = b""
        if chosen is not None or extensions or headers:
            more = [("Sec-WebSocket-Protocol", chosen)] if chosen is not None else []
            if extensions:
                more.append(("Sec-WebSocket-Extensions", self._accept(extensions)))
            lines = "".join([f"{name}: {value}\r\n" for name, value in (*more, *headers)]).encode("latin-1")
        accept = b2a_base64(sha1(key.encode() + _GUID).digest(), newline=False)
        self.transport.write(_SWITCHING % (accept, lines))
        self._onOpen()

    def _accept(self, extensions: list[Any]) -> str:
        """Take the first offer of permessage-deflate, and return what the 101 says of it (RFC 7692 section 7.1)."""
        accept = acceptOffer([PerMessageDeflateOffer.parse(parameters) for _, parameters in extensions])
        self._perMessageCompress = Deflate.create_from_offer_accept(True, accept)  # type: ignore[no-untyped-call]
        answer: str = accept.get_extension_string()
        return answer


def serverFactory(limits: Limits, reactor: Any) -> WebSocketServerFactory:
    """Return the Autobahn factory of one server, every option set in one call.

    (A second call of setProtocolOptions would silently change options that it does not name.)
    """
    factory = WebSocketServerFactory(server=None, reactor=reactor)
    factory.setProtocolOptions(
        versions=[13],
        webStatus=False,
        utf8validateIncoming=True,
        requireMaskedClientFrames=True,
        maskServerFrames=False,
        applyMask=True,
        maxFramePayloadSize=limits.maxMessageSize,
        # It asks zlib for no more than this, and takes what zlib still has of the message for its end: a byte too many shows it.
        maxMessagePayloadSize=limits.maxMessageSize + 1,
        autoFragmentSize=0,
        failByDrop=False,
        echoCloseCodeReason=False,
        # These deadlines are the front door's and the wheel's: Autobahn's timers are floored to whole seconds.
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        tcpNoDelay=True,
        perMessageCompressionAccept=acceptOffer,
        # The wheel's too: Autobahn takes any data frame for a pong.
        autoPingInterval=0,
        autoPingTimeout=0,
        serveFlashSocketPolicy=False,
        # The front door has judged the Origin.
        allowedOrigins=["*"],
        allowNullOrigin=True,
        trustXForwardedFor=0,
    )
    return factory


def serverOptions(limits: Limits, reactor: Any) -> dict[str, Any]:
    """Return the class attributes that make a subclass of `QuietServerProtocol` the protocol of one server."""
    factory = serverFactory(limits, reactor)
    options: dict[str, Any] = {name: getattr(factory, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
    # A function on a class would become a method.
    options["perMessageCompressionAccept"] = staticmethod(acceptOffer)
    return {**options, **_initialState(factory, options), "factory": factory}


def _initialState(factory: WebSocketServerFactory, options: dict[str, Any]) -> dict[str, Any]:
    """Return what Autobahn sets on a new connection: some forty attributes, which would cost each one 2 KiB."""
    probe = type("Probe", (WebSocketServerProtocol,), {**options, "log": BaseConnection.log})()
    probe.factory = factory
    probe._connectionMade()
    own = vars(probe).keys() - {"factory", "is_closed", "is_open", "_transport_details", "_valid_events", "_listeners"}
    state = {name: getattr(probe, name) for name in own}
    # Counts of traffic that nobody asks for, and a queue that is not used: both may be shared. A validator must not be.
    started = {"utf8validator": None, "current_frame": None, "inside_message": False, "websocket_version": 13}
    return {**state, **started, "state": WebSocketServerProtocol.STATE_OPEN}
