"""Autobahn's client protocol: its options, and permessage-deflate."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from autobahn.websocket.protocol import WebSocketProtocol

from twisted_ws.client.errors import BadHandshake
from twisted_ws.frames import FIN, RSV1, maskedFrame
from twisted_ws.limits import Limits
from twisted_ws.wire.door.handshake import Extension
from twisted_ws.wire.websocket.base import BaseConnection
from twisted_ws.wire.websocket.deflate import COMPRESS_FROM, Deflate, isWindowBits


class _Role:
    """Replaces Autobahn's factory, with all that a protocol reads of it; a real one would reseed Python's random numbers."""

    isServer = False
    proxy = None


class QuietClientProtocol(BaseConnection, WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn's bases differ in types
    """Autobahn's client protocol, from the 101 on: it parses frames, checks UTF-8 and inflates."""

    # Its options.
    logOctets = logFrames = trackTimings = False
    utf8validateIncoming = True
    applyMask = True
    acceptMaskedServerFrames = False
    maskClientFrames = True
    failByDrop = False
    autoFragmentSize = 0
    # Autobahn's timers are floored to whole seconds, and take any data frame for a pong.
    openHandshakeTimeout = closeHandshakeTimeout = serverConnectionDropTimeout = 0
    autoPingInterval = autoPingTimeout = 0

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.factory = _Role()
        self.limits = limits
        self.maxFramePayloadSize = limits.maxMessageSize
        # Autobahn inflates at most this much and takes the result for the whole message: the extra byte shows that it is too big.
        self.maxMessagePayloadSize = limits.maxMessageSize + 1

    def begin(self, deflate: PerMessageDeflate | None) -> None:
        """Put Autobahn into its state after the handshake."""
        WebSocketProtocol._connectionMade(self)
        self.inside_message = False
        self.current_frame = None
        self.websocket_version = 13
        self._perMessageCompress = deflate  # type: ignore[assignment]  # Autobahn's own annotation is None
        self.state = self.STATE_OPEN

    def connectionMade(self) -> None:
        """Do nothing: `begin` follows."""

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Refuse: Autobahn sends nothing itself."""
        raise AssertionError("Autobahn sends nothing itself")


def offer() -> str:
    """Return the offer of permessage-deflate (RFC 7692 section 7.1)."""
    return str(PerMessageDeflateOffer(accept_no_context_takeover=True, accept_max_window_bits=True).get_extension_string())


def agreed(extensions: tuple[Extension, ...], offered: bool) -> PerMessageDeflate | None:
    """Return the compression that the server agreed to, None for none.

    Raises:
        BadHandshake: the server uses an extension that was not offered, or parameters that RFC 7692 forbids.
    """
    if not extensions:
        return None
    if not offered or [name for name, _ in extensions] != ["permessage-deflate"]:
        raise BadHandshake("the server uses an extension that was not offered")
    parameters = extensions[0][1]
    try:
        response = PerMessageDeflateResponse.parse(parameters)
        valid = all(value is True or isWindowBits(str(value)) for values in parameters.values() for value in values)
    except Exception:
        # Autobahn raises plain Exceptions for invalid parameters.
        valid = False
    if not valid:
        raise BadHandshake("the server's answer to permessage-deflate has invalid parameters")
    deflate: PerMessageDeflate = Deflate.create_from_response_accept(False, PerMessageDeflateResponseAccept(response))  # type: ignore[no-untyped-call]
    return deflate


def messageFrame(deflate: Any, opcode: int, payload: bytes) -> bytes:
    """Return the frame of a message; a short one goes uncompressed.

    Args:
        deflate: from `agreed`.
        opcode: 1 text, 2 binary.
        payload: the message.
    """
    if deflate is None or len(payload) < COMPRESS_FROM:
        return maskedFrame(opcode, payload)
    deflate.start_compress_message()
    return maskedFrame(opcode, deflate.compress_message_data(payload) + deflate.end_compress_message(), FIN | RSV1)
