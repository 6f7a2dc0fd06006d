"""Autobahn's server protocol: its options, and the 101."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer

from twisted_ws.limits import Limits
from twisted_ws.wire.door.handshake import acceptFor
from twisted_ws.wire.websocket.base import BaseConnection
from twisted_ws.wire.websocket.deflate import Deflate, acceptOffer

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n%b\r\n"
)


class _Fired:
    """Replaces Autobahn's Deferreds is_open and is_closed, which nobody waits for."""

    def callback(self, result: object) -> None:
        """Ignore `result`."""


class QuietServerProtocol(BaseConnection, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's bases differ in types
    """Autobahn's server protocol without options for each connection.

    A subclass for one server has them as class attributes, from `serverOptions`, so that no connection copies them, or formats
    them for a debug line.
    """

    is_open = is_closed = _Fired()
    factory: WebSocketServerFactory

    def __init__(self) -> None:
        # Autobahn's own would create two Deferreds, an event table and details of the transport, none of which is used.
        pass

    def makeConnection(self, transport: Any) -> None:
        """Take the transport, and no more: the class has Autobahn's state of a new connection (see `serverOptions`)."""
        self.connected, self.transport = 1, transport

    def acceptHandshake(self, key: str, chosen: str | None, extensions: list[Any], headers: tuple[tuple[str, str], ...]) -> None:
        """Answer a handshake that was already accepted with the 101, and open (RFC 6455 section 4.2.2).

        Autobahn does the same in four times the time.

        Args:
            key: the Sec-WebSocket-Key.
            chosen: the subprotocol, or None.
            extensions: usable offers of permessage-deflate.
            headers: more headers for the 101.
        """
        lines = b""
        if chosen is not None or extensions or headers:
            more = [("Sec-WebSocket-Protocol", chosen)] if chosen is not None else []
            if extensions:
                more.append(("Sec-WebSocket-Extensions", self._accept(extensions)))
            lines = "".join([f"{name}: {value}\r\n" for name, value in (*more, *headers)]).encode("latin-1")
        self.transport.write(_SWITCHING % (acceptFor(key), lines))
        self._onOpen()

    def _accept(self, extensions: list[Any]) -> str:
        """Accept the first offer of permessage-deflate, and return the header's value for the 101 (RFC 7692 section 7.1)."""
        accept = acceptOffer([PerMessageDeflateOffer.parse(parameters) for _, parameters in extensions])
        self._perMessageCompress = Deflate.create_from_offer_accept(True, accept)  # type: ignore[no-untyped-call]
        answer: str = accept.get_extension_string()
        return answer


def serverFactory(limits: Limits, reactor: Any) -> WebSocketServerFactory:
    """Return the Autobahn factory of one server, with every option set in one call.

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
        # Autobahn inflates at most this much and takes the result for the whole message: the extra byte shows that it is too big.
        maxMessagePayloadSize=limits.maxMessageSize + 1,
        autoFragmentSize=0,
        failByDrop=False,
        echoCloseCodeReason=False,
        # The front door and the wheel have these deadlines: Autobahn's timers are floored to whole seconds.
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        tcpNoDelay=True,
        perMessageCompressionAccept=acceptOffer,
        # So does `KeepAlive`: Autobahn takes any data frame for a pong.
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
    """Return the class attributes of a subclass of `QuietServerProtocol` for one server."""
    factory = serverFactory(limits, reactor)
    options: dict[str, Any] = {name: getattr(factory, name) for name in WebSocketServerProtocol.CONFIG_ATTRS}
    # A function on a class would become a method.
    options["perMessageCompressionAccept"] = staticmethod(acceptOffer)
    return {**options, **_initialState(factory, options), "factory": factory}


def _initialState(factory: WebSocketServerFactory, options: dict[str, Any]) -> dict[str, Any]:
    """Return what Autobahn sets on a new connection: some forty attributes, which would take 2 KiB in each."""
    probe = type("Probe", (WebSocketServerProtocol,), {**options, "log": BaseConnection.log})()
    probe.factory = factory
    probe._connectionMade()
    own = vars(probe).keys() - {"factory", "is_closed", "is_open", "_transport_details", "_valid_events", "_listeners"}
    state = {name: getattr(probe, name) for name in own}
    # Unused traffic counters and an unused queue may be shared. A validator must not be.
    started = {"utf8validator": None, "current_frame": None, "inside_message": False, "websocket_version": 13}
    return {**state, **started, "state": WebSocketServerProtocol.STATE_OPEN}
