"""What Autobahn is told to do, and to leave to us."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.utf8validator import Utf8Validator

from twisted_ws.limits import Limits
from twisted_ws.wire.deflate import acceptOffer

__all__ = ["QuietServerProtocol", "serverFactory", "serverOptions"]


class _Mute:
    """Autobahn's logger: says nothing, for what it would say holds the peer's own words."""

    def _drop(self, *args: object, **kwargs: object) -> None:
        """Drop one line."""

    debug = info = warn = error = critical = trace = failure = _drop


class _Fired:
    """Stands for Autobahn's is_open and is_closed, for which nobody waits."""

    def callback(self, result: object) -> None:
        """Forget `result`."""


class QuietServerProtocol(WebSocketServerProtocol):
    """Autobahn's server protocol without its logging, its per-connection options, and its ends of a connection.

    A subclass for one server takes its options from `serverOptions`, as class attributes: so no connection copies them, or
    prints them for a debug line.
    """

    log = _Mute()
    is_open = is_closed = _Fired()
    CONFIG_ATTRS: list[str] = []  # noqa: RUF012 - as Autobahn declares it
    autobahnFactory: WebSocketServerFactory
    transport: Any
    current_frame: Any
    utf8validator: Any
    _isMessageCompressed = False

    def __init__(self) -> None:
        # Autobahn's own __init__ makes two Deferreds, an event table and details of the transport, none of which is used.
        self.factory = self.autobahnFactory

    def connectionMade(self) -> None:
        """Begin: Autobahn's state of a new connection stands on the class (see `serverOptions`) until it changes."""

    def feed(self, data: bytes) -> None:
        """Have Autobahn parse `data`."""
        if self.utf8validator is None:
            # Most connections never need one: the lane takes their messages.
            self.utf8validator = Utf8Validator()
        self._dataReceived(data)

    def acceptHandshake(
        self, key: str, offered: list[str], chosen: str | None, extensions: list[Any], headers: dict[str, list[str]]
    ) -> None:
        """Have Autobahn answer a handshake that was judged already: it writes the 101 and calls `_onOpen`.

        Args:
            key: the Sec-WebSocket-Key.
            offered: the subprotocols that the client offers.
            chosen: one of them, or None.
            extensions: offers of permessage-deflate that can be taken.
            headers: more headers for the 101.
        """
        self.websocket_protocols = offered
        self.websocket_extensions = extensions
        self._wskey = key
        self.succeedHandshake((chosen, headers))
        # A connection lives for hours; what only its handshake needed does not.
        for name in ("protocols", "protocol_in_use", "extensions", "extensions_in_use"):
            delattr(self, f"websocket_{name}")
        del self._wskey, self.http_response_data

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write the 101, the only thing that Autobahn itself sends here."""
        # Autobahn has it in UTF-8; the values of headers are Latin-1, here as in every other answer.
        self.transport.write(data.decode().encode("latin-1"))


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
        maxMessagePayloadSize=limits.maxMessageSize,
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
    return {**options, **_initialState(factory, options), "autobahnFactory": factory}


def _initialState(factory: WebSocketServerFactory, options: dict[str, Any]) -> dict[str, Any]:
    """Return what Autobahn sets on a new connection: some forty attributes, which would cost each one 2 KiB."""
    probe = type("Probe", (WebSocketServerProtocol,), {**options, "log": _Mute()})()
    probe.factory = factory
    probe._connectionMade()
    own = vars(probe).keys() - {"factory", "is_closed", "is_open", "_transport_details", "_valid_events", "_listeners"}
    state = {name: getattr(probe, name) for name in own}
    # Counts of traffic for which nobody asks, and a queue that is not used: both may be shared. A validator must not be.
    return {**state, "utf8validator": None, "current_frame": None, "inside_message": False, "websocket_version": 13}
