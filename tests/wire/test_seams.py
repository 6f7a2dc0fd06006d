"""The private names of Autobahn and Twisted that the wire uses: a release that changes one fails here first."""

from __future__ import annotations

import inspect

import pytest
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION, PerMessageDeflate, PerMessageDeflateOffer
from autobahn.websocket.compress_deflate import PerMessageDeflateMixin
from autobahn.websocket.protocol import FrameHeader
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet import abstract, tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import verify

from tests.memory import MemoryTransport, clientFrame
from tests.wire.stock import Stock
from tests.wire.support import WireHost
from twisted_ws.limits import Limits
from twisted_ws.message import TEXT
from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.websocket.autobahn import QuietServerProtocol, serverFactory, serverOptions
from twisted_ws.wire.websocket.connection import WebSocketConnection


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # Overridden: Autobahn calls them.
        (WebSocketServerProtocol, "_onOpen", []),
        (WebSocketServerProtocol, "processData", []),
        (WebSocketServerProtocol, "_onMessageBegin", ["isBinary"]),
        (WebSocketServerProtocol, "_onMessageFrameBegin", ["length"]),
        (WebSocketServerProtocol, "_onMessageFrameData", ["payload"]),
        (WebSocketServerProtocol, "_onMessageFrameEnd", []),
        (WebSocketServerProtocol, "_onMessageEnd", []),
        (WebSocketServerProtocol, "_onPing", ["payload"]),
        (WebSocketServerProtocol, "_onPong", ["payload"]),
        (WebSocketServerProtocol, "onCloseFrame", ["code", "reasonRaw"]),
        (WebSocketServerProtocol, "_fail_connection", ["code", "reason"]),
        (WebSocketServerProtocol, "sendData", ["data", "sync", "chopsize"]),
        # Called.
        (WebSocketServerProtocol, "_connectionMade", []),
        (WebSocketServerProtocol, "succeedHandshake", ["res"]),
        (PerMessageDeflateOffer, "parse", ["params"]),
        (PerMessageDeflate, "start_compress_message", []),
        (PerMessageDeflate, "compress_message_data", ["data"]),
        (PerMessageDeflate, "end_compress_message", []),
        (PerMessageDeflate, "start_decompress_message", []),
        (PerMessageDeflate, "decompress_message_data", ["data", "max_output_len"]),
        (PerMessageDeflate, "end_decompress_message", []),
        (Utf8Validator, "reset", []),
        (TLSMemoryBIOProtocol, "_flushSendBIO", []),
        (TLSMemoryBIOProtocol, "_tlsShutdownFinished", ["reason"]),
        (TLSMemoryBIOProtocol, "abortConnection", []),
        (tcp.Server, "doRead", []),
        (tcp.Server, "doWrite", []),
        (tcp.Server, "startWriting", []),
        (tcp.Server, "readConnectionLost", ["reason"]),
        (tcp.Server, "connectionLost", ["reason"]),
        (tcp.Server, "registerProducer", ["producer", "streaming"]),
        (tcp.Server, "unregisterProducer", []),
        (tcp.Server, "loseWriteConnection", []),
        (tcp.Server, "__init__", ["sock", "protocol", "client", "server", "sessionno", "reactor"]),
    ],
)
def test_methods(owner, name, parameters):
    """The method is there and takes what it always took."""
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert [p for p in found if p not in ("self", "cls")] == parameters


@pytest.mark.parametrize(
    "name",
    [
        "_onMessageBegin",
        "_onMessageFrameBegin",
        "_onMessageFrameData",
        "_onMessageFrameEnd",
        "_onMessageEnd",
        "_onPing",
        "_onPong",
        "onCloseFrame",
        "_fail_connection",
        "processData",
        "_onOpen",
    ],
)
def test_ours(name):
    """What is overridden is overridden with parameters of the same names, for Autobahn gives some of them by name."""
    ours, theirs = (
        list(inspect.signature(getattr(owner, name)).parameters) for owner in (WebSocketConnection, WebSocketServerProtocol)
    )
    assert ours == theirs


def test_stateOfAConnection():
    """Autobahn keeps the state of a connection in the attributes that the wire reads and sets."""
    stock = Stock({"failByDrop": False})
    client = stock.open()
    protocol = stock.last
    assert protocol.state == protocol.STATE_OPEN
    assert (protocol.data, protocol.current_frame, protocol.inside_message) == (b"", None, False)
    assert protocol._perMessageCompress is None
    assert isinstance(protocol.utf8validator, Utf8Validator)
    client.send(clientFrame(TEXT, b"abc", fin=False)[:-1])
    assert (protocol.inside_message, protocol.message_is_binary, protocol.message_data_total_length) == (True, False, 3)
    assert isinstance(protocol.current_frame, FrameHeader)
    assert (protocol.current_frame.fin, protocol.current_frame.opcode, protocol.current_frame.length) == (False, 1, 3)
    client.send(clientFrame(TEXT, b"abc", fin=False)[-1:] + clientFrame(0, b"") + clientFrame(8, b"\x0f\xa0bye"))
    assert (protocol.remoteCloseCode, protocol.remoteCloseReason) == (4000, "bye")


def test_handshakeAttributes():
    """The front door gives succeedHandshake all that it needs, and it is known what that leaves behind."""
    _, recorder = WireHost().open()
    left = set(vars(recorder.connection))
    assert not {name for name in left if name.startswith(("http_", "websocket_", "_wskey"))}


def test_nothingIsShared():
    """Of the state that Autobahn gives a new connection, all that can change in place is known: the wire has it once for all."""
    options = serverOptions(Limits(), Clock())
    plain = (type(None), bool, int, float, str, bytes, tuple, staticmethod)
    mutable = {name for name, value in options.items() if not isinstance(value, plain)}
    assert mutable == {
        "factory",  # the server's own
        "versions",  # options, which nothing changes
        "allowedOrigins",
        "allowedOriginsPatterns",
        "trafficStats",  # counts for which nobody asks
        "_results",  # of events that are never fired
        "send_queue",  # only used by sendData, which is overridden
    }
    first, second = (WireHost().open()[1].connection for _ in range(2))
    assert first.send_queue == second.send_queue
    assert not first.send_queue


def test_options():
    """Autobahn's options are what the wire relies on, all of them named in one call."""
    factory = serverFactory(Limits(maxMessageSize=1234), Clock())
    wanted = {
        "versions": [13],
        "webStatus": False,
        "utf8validateIncoming": True,
        "applyMask": True,
        "requireMaskedClientFrames": True,
        "maskServerFrames": False,
        "maxFramePayloadSize": 1234,
        "maxMessagePayloadSize": 1235,
        "autoFragmentSize": 0,
        "failByDrop": False,
        "echoCloseCodeReason": False,
        "openHandshakeTimeout": 0,
        "closeHandshakeTimeout": 0,
        "tcpNoDelay": True,
        "autoPingInterval": 0,
        "autoPingTimeout": 0,
        "serveFlashSocketPolicy": False,
        "allowedOrigins": ["*"],
        "allowNullOrigin": True,
        "trustXForwardedFor": 0,
        "maxConnections": 0,
        "logOctets": False,
        "logFrames": False,
        "trackTimings": False,
    }
    assert {name: getattr(factory, name) for name in wanted} == wanted
    assert factory.server is None
    assert not factory.headers
    # An option that is new in a release has a default that nobody has looked at.
    unlooked = {"perMessageCompressionAccept", "autoPingSize", "autoPingRestartOnAnyTraffic", "flashSocketPolicy"}
    assert set(WebSocketServerProtocol.CONFIG_ATTRS) == set(wanted) | unlooked | {"allowedOriginsPatterns"}


def test_optionsReachTheConnection():
    """A connection has Autobahn's options from its class."""
    _, recorder = WireHost(Limits(maxMessageSize=1234)).open()
    connection = recorder.connection
    assert (connection.maxMessagePayloadSize, connection.failByDrop, connection.requireMaskedClientFrames) == (1235, False, True)
    assert connection.websocket_version == 13
    assert connection.factory.isServer
    assert QuietServerProtocol.CONFIG_ATTRS == []


@pytest.mark.parametrize(
    "name", sorted({*PERMESSAGE_COMPRESSION_EXTENSION, "permessage-brotli", "permessage-bzip2", "permessage-snappy"})
)
def test_otherCompressions(name):
    """Of all compressions that Autobahn may speak on this machine, only deflate is ever answered."""
    head = WireHost(compression=True).client().connect("/ws", f"Sec-WebSocket-Extensions: {name}")
    assert head.startswith("HTTP/1.1 101 ")
    assert ("Sec-WebSocket-Extensions" in head) is (name == "permessage-deflate")


def test_noFlashPolicy():
    """The policy request of a plugin that is long dead gets no policy."""
    stock = Stock({"serveFlashSocketPolicy": True})
    client = stock.client()
    client.send(b"<policy-file-request/>\0")
    assert b"cross-domain-policy" in client.received()
    client = WireHost().client()
    client.send(b"<policy-file-request/>\0")
    assert client.received().startswith(b"HTTP/1.1 400 ")


def test_windowOfEightBits():
    """Autobahn itself refuses the window that zlib cannot do."""
    assert 8 not in PerMessageDeflateMixin.WINDOW_SIZE_PERMISSIBLE_VALUES
    with pytest.raises(Exception, match="server_max_window_bits"):
        PerMessageDeflateOffer.parse({"server_max_window_bits": ["8"]})


def test_negotiatedWindow():
    """The window of what is sent can be read from the negotiated extension."""
    _, recorder = WireHost(compression=True).open("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10")
    assert recorder.connection._perMessageCompress.server_max_window_bits == 10


def test_deferred():
    """A Deferred keeps what reports its unhandled failure where the outbox can put something silent."""
    assert Deferred._debugInfo is None
    deferred = Deferred()
    deferred._debugInfo = marker = type("Marker", (), {"failResult": None})()
    deferred.errback(ZeroDivisionError())
    assert marker.failResult is not None
    deferred.addErrback(lambda failure: None)
    assert marker.failResult is None


def test_wrappers():
    """A wrapper has the protocol above it and the transport below it in the attributes that the wire follows."""
    assert issubclass(TLSMemoryBIOProtocol, ProtocolWrapper)
    assert "wrappedProtocol" in inspect.signature(ProtocolWrapper.__init__).parameters
    source = inspect.getsource(TLSMemoryBIOProtocol)
    assert all(f"self.{name}" in source for name in ("_tlsConnection", "_producer", "wrappedProtocol", "transport"))


def test_descriptors():
    """A TCP transport keeps what it has not sent, and how it is closing, where the lane looks."""
    descriptor = abstract.FileDescriptor(Clock())
    assert (descriptor.dataBuffer, descriptor.offset, descriptor._tempDataLen) == (b"", 0, 0)
    assert (descriptor.disconnecting, descriptor._writeDisconnected, descriptor.connected) == (False, False, 0)
    assert (descriptor.producer, descriptor.streamingProducer) == (None, False)
    assert issubclass(LaneServer, tcp.Server)
    assert tcp.Port.transport is tcp.Server
    assert verify.verifyClass(IReadDescriptor, PollGroup)


def test_pullProducers():
    """A TCP transport asks a pull producer for more when all it had has been sent, which is how writes are known to be done."""
    source = inspect.getsource(abstract.FileDescriptor.doWrite)
    assert "resumeProducing" in source
    assert "producerPaused" in source


def test_theDouble():
    """The transport of these tests has what Twisted's has, as far as the wire uses it."""
    for name in ("write", "loseConnection", "abortConnection", "loseWriteConnection", "registerProducer", "unregisterProducer"):
        ours, theirs = (list(inspect.signature(getattr(owner, name)).parameters) for owner in (MemoryTransport, tcp.Server))
        assert len(ours) == len(theirs), name
