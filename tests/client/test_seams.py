"""The private names of Autobahn and Twisted that the client uses: a release that changes one fails here first."""

from __future__ import annotations

import inspect

import pytest
from autobahn.twisted.websocket import WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateResponse
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.base import ReactorBase
from twisted.protocols.tls import TLSMemoryBIOFactory

from twisted_ws.client.websocket.autobahn import QuietClientProtocol
from twisted_ws.limits import Limits


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # Overridden: Autobahn calls them.
        (WebSocketClientProtocol, "processData", []),
        (WebSocketClientProtocol, "_onMessageBegin", ["isBinary"]),
        (WebSocketClientProtocol, "_onMessageFrameBegin", ["length"]),
        (WebSocketClientProtocol, "onFrameData", ["payload"]),
        (WebSocketClientProtocol, "_onMessageFrameData", ["payload"]),
        (WebSocketClientProtocol, "_onMessageFrameEnd", []),
        (WebSocketClientProtocol, "_onMessageEnd", []),
        (WebSocketClientProtocol, "_onPing", ["payload"]),
        (WebSocketClientProtocol, "_onPong", ["payload"]),
        (WebSocketClientProtocol, "onCloseFrame", ["code", "reasonRaw"]),
        (WebSocketClientProtocol, "_fail_connection", ["code", "reason"]),
        (WebSocketClientProtocol, "sendData", ["data", "sync", "chopsize"]),
        # Called.
        (WebSocketProtocol, "_connectionMade", []),
        (PerMessageDeflateResponse, "parse", ["params"]),
        (PerMessageDeflate, "create_from_response_accept", ["is_server", "accept"]),
        (PerMessageDeflate, "start_compress_message", []),
        (PerMessageDeflate, "compress_message_data", ["data"]),
        (PerMessageDeflate, "end_compress_message", []),
    ],
)
def test_methods(owner, name, parameters):
    """A method that is overridden or called is there, with these parameters."""
    found = [each for each in inspect.signature(getattr(owner, name)).parameters if each != "self"]
    assert found == parameters


def test_options():
    """Each option of Autobahn's client protocol is set, so that none keeps an unexamined default."""
    # Those of the handshake, of its pings and of masking what it sends itself: it does none of these here.
    unused = {"tcpNoDelay", "echoCloseCodeReason", "autoPingSize", "autoPingRestartOnAnyTraffic", "version"}
    unused |= {"perMessageCompressionOffers", "perMessageCompressionAccept"}
    protocol = QuietClientProtocol(Limits(maxMessageSize=1000))
    for name in set(WebSocketClientProtocol.CONFIG_ATTRS) - unused:
        assert hasattr(protocol, name), name
    with pytest.raises(AssertionError):
        protocol.sendData(b"x")


def test_twisted():
    """What a reactor in a thread of its own, and TLS below a protocol, need of Twisted is there."""
    assert ReactorBase._registerAsIOThread is True
    assert TLSMemoryBIOFactory.protocol is not None
