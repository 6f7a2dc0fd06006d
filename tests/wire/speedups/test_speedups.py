from __future__ import annotations

import ctypes
import gc
import os
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import weakref
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.memory import clientFrame
from tests.moments import LARGE, MOMENTS, collectAt, noMemory, set_nomemory
from twisted_ws.limits import Limits
from twisted_ws.wire import speedups
from twisted_ws.wire.door.handshake import Accept, decide, isUpgrade
from twisted_ws.wire.door.head import RequestHead, parseHead
from twisted_ws.wire.door.origins import AllowedOrigins
from twisted_ws.wire.speedups import pure
from twisted_ws.wire.speedups.pure import BEGUN, NOT_THIS_WAY, WHOLE

try:
    from twisted_ws.wire.speedups import _speedups
except ImportError:  # no compiler when this was installed: Python is compared with itself
    _speedups = pure

BOTH = pytest.mark.parametrize("impl", [pytest.param(pure, id="python"), pytest.param(_speedups, id="compiled")])


@pytest.fixture
def pair():
    """Two connected non-blocking sockets."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def readAll(sock):
    """Return what can be read now."""
    received = b""
    while True:
        try:
            data = sock.recv(1_000_000)
        except BlockingIOError:
            return received
        if not data:
            return received
        received += data


COMMON = [
    pytest.param(clientFrame(1, "grüß".encode()), ["grüß"], id="text"),
    pytest.param(clientFrame(2, b"\x00\xff"), [b"\x00\xff"], id="binary"),
    pytest.param(clientFrame(1, b""), [""], id="empty text"),
    pytest.param(clientFrame(2, b""), [b""], id="empty binary"),
    *(pytest.param(clientFrame(2, b"x" * n), [b"x" * n], id=f"{n} bytes") for n in (1, 7, 8, 9, 125, 126, 127, 65535, 65536)),
    pytest.param(clientFrame(1, b"a") + clientFrame(2, b"b") + clientFrame(1, b"c"), ["a", b"b", "c"], id="three"),
]

NOT_COMMON = [
    pytest.param(clientFrame(1, b"x", mask=None), id="unmasked"),
    pytest.param(clientFrame(1, b"x", fin=False), id="fragment"),
    pytest.param(clientFrame(0, b"x"), id="continuation"),
    pytest.param(clientFrame(1, b"x", rsv=4), id="rsv"),
    pytest.param(clientFrame(8), id="close"),
    pytest.param(clientFrame(9, b"x"), id="ping"),
    pytest.param(clientFrame(1, b"\xff"), id="no UTF-8"),
    pytest.param(clientFrame(1, b"\xed\xa0\x80"), id="surrogate"),
    pytest.param(clientFrame(2, b"x" * 70_001), id="over the limit"),
    pytest.param(b"\x82\xfe\x00\x05\0\0\0\0xxxxx", id="16 bits for 5"),
    pytest.param(b"\x82\xff" + (5).to_bytes(8, "big") + b"\0\0\0\0xxxxx", id="64 bits for 5"),
    pytest.param(b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0xxxxx", id="2**64 - 1 bytes"),
    *(pytest.param(clientFrame(2, b"x" * 300)[:n], id=f"first {n} bytes") for n in (1, 2, 5, 6, 7, 8, 100, 307)),
    *(pytest.param(clientFrame(2, b"x" * 65_536)[:n], id=f"first {n} bytes of a long one") for n in (9, 13, 14)),
]


@BOTH
@pytest.mark.parametrize(("data", "messages"), COMMON)
def test_common(impl, data, messages):
    """Common frames are taken, whole."""
    assert impl.split(data, 70_000) == (messages, len(data))


@BOTH
@pytest.mark.parametrize("data", NOT_COMMON)
def test_notCommon(impl, data):
    """Anything else is left as it is, from its first byte, and what came before it is taken."""
    before = clientFrame(1, b"before")
    assert impl.split(data, 70_000) == ([], 0)
    assert impl.split(before + data, 70_000) == (["before"], len(before))


@BOTH
def test_readSome(impl, pair):
    """What is there is read; nothing there is None; the end is empty; a descriptor that is not a connection is an OSError."""
    ours, theirs = pair
    assert impl.readSome(ours.fileno()) is None
    theirs.sendall(b"some")
    assert impl.readSome(ours.fileno()) == b"some"
    theirs.close()
    assert impl.readSome(ours.fileno()) == b""
    with pytest.raises(OSError, match="descriptor"):
        impl.readSome(999_999)


# Accepting, and the heads of requests.


@BOTH
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_acceptOne(impl, family):
    """A connection comes as a descriptor that does not wait and is not inherited, with the address that Python gives its peer."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as port, socket.socket(family) as client:
        port.setblocking(False)
        with pytest.raises(BlockingIOError):
            impl.acceptOne(port)
        client.connect(port.getsockname())
        descriptor, address = impl.acceptOne(port)
        with socket.socket(fileno=descriptor) as accepted:
            assert address == accepted.getpeername() == client.getsockname()
            assert not os.get_blocking(descriptor)
            assert not os.get_inheritable(descriptor)
    with pytest.raises((OSError, ValueError)):
        impl.acceptOne(port)


@BOTH
def test_acceptOneOfAnotherFamily(impl, tmp_path):
    """What listens on no address at all is Python's to accept; the compiled part keeps nothing open."""
    with socket.socket(socket.AF_UNIX) as port, socket.socket(socket.AF_UNIX) as client:
        port.bind(str(tmp_path / "socket"))
        port.listen()
        client.connect(port.getsockname())
        if impl is pure:
            os.close(impl.acceptOne(port)[0])
            return
        with pytest.raises(ValueError, match="family"):
            impl.acceptOne(port)
        assert client.recv(1) == b""


@BOTH
@pytest.mark.parametrize(
    ("family", "host", "found"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "127.8.9.1", True),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "127.0.0.1", True),
    ],
)
def test_isOnLoopback(impl, family, host, found):
    """A connection to a loopback address is known by its descriptor, on a port for both families, too; which stays open."""
    bound = "::" if family == socket.AF_INET6 else "0.0.0.0"
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as port:
        with socket.create_connection((host, port.getsockname()[1])) as client:
            accepted, _ = port.accept()
            with accepted:
                assert impl.isOnLoopback(accepted.fileno()) is found
                accepted.sendall(b"x")
                assert client.recv(1) == b"x"
        assert impl.isOnLoopback(port.fileno()) is False


@BOTH
def test_isOnLoopbackOfAnother(impl):
    """Anything that is not a socket is an error."""
    with open(os.devnull) as file, pytest.raises(OSError, match="socket"):
        impl.isOnLoopback(file.fileno())
    with pytest.raises(OSError, match="descriptor"):
        impl.isOnLoopback(999_999)


PLAIN = b"GET /ws?a=%20 HTTP/1.1\r\nHost: a.example:8080\r\nX-A:\t one \r\nX-Text: gr\xfc\xdf\r\nx-a: two\r\n\r\n"


def test_plainHead():
    """The compiled part reads a plain head; Python reads none, and what it leaves is read by `parseHead`."""
    assert pure.plainHead(PLAIN) is None
    if _speedups is not pure:
        headers = (("host", "a.example:8080"), ("x-a", "one"), ("x-text", "grüß"), ("x-a", "two"))
        values = {"host": ["a.example:8080"], "x-a": ["one", "two"], "x-text": ["grüß"]}
        assert _speedups.plainHead(PLAIN) == ("GET", "/ws?a=%20", headers, "a.example:8080", values, None)
        with pytest.raises(TypeError):
            _speedups.plainHead("text")


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nconnection: upgrade\r\nSec-WebSocket-Version:13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("before", "after", "isPlain"),
    [
        (b"", b"", True),
        (b"Host: a", b"Host: a\r\nOrigin: b\r\nSec-WebSocket-Protocol: c", True),  # what is not looked at here
        (b"GET", b"POST", False),
        (b"GET", b"get", False),
        (b"WebSocket", b"websockets", False),
        (b"WebSocket", b"h2c, websocket", False),
        (b": upgrade", b": keep-alive, Upgrade", False),
        (b"Upgrade: WebSocket\r\n", b"", False),
        (b"Upgrade: WebSocket\r\n", b"Upgrade: WebSocket\r\nUpgrade: WebSocket\r\n", False),
        (b":13", b": 8", False),
        (b":13", b": 13\r\nSec-WebSocket-Version: 13", False),
        (b"A==", b"A=", False),
        (b"A==", b"A===", False),
        (b"AA==", b"A-==", False),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", False),
        (b"Host: a", b"Host: a\r\nContent-Length: 0", False),
        (b"Host: a", b"Host: a\r\nContent-Length: 5", False),
        (b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked", False),
    ],
)
def test_plainHandshake(before, after, isPlain):
    """The compiled part gives the key of a handshake in which there is nothing to decide; the rest is for `decide`."""
    if _speedups is not pure:
        assert _speedups.plainHead(HANDSHAKE.replace(before, after, 1))[5] == ("A" * 22 + "==" if isPlain else None)


# A plain head with a few bytes put in, taken out, or others; and pieces of heads in any order.
_PIECES = st.sampled_from(
    (
        *(
            b"GET ",
            b"POST ",
            b"/",
            b"//",
            b"*",
            b"/a#b",
            b"/\xc3",
            b"http://a/",
            b" HTTP/1.1",
            b" HTTP/1.0",
            b" HTTP/1.2",
            b"\r\n",
            b"\n",
            b"\r",
            b"\r\n\r\n",
        ),
        *(
            b"Host: a",
            b"Host:",
            b"Host: a/b",
            b"X: \x00",
            b"X: \x85",
            b"X: \xa0",
            b"X: \x7f",
            b"X : y",
            b" folded",
            b":",
            b"\t",
            b" ",
        ),
        b"x" * 70 + b": long",
    )
)


@st.composite
def heads(draw):
    """Return bytes that a peer may send for a head."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(_PIECES, max_size=12)))
    head = bytearray(draw(st.sampled_from((PLAIN, HANDSHAKE))))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(head)))
        head[start : start + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(head)


@settings(max_examples=int(os.environ.get("TWISTED_WS_EXAMPLES", "300")), derandomize=True)
@given(heads())
def test_plainHeadAsInPython(data):
    """Whatever the compiled part takes for plain, Python reads in the same way; it refuses nothing itself."""
    plain = _speedups.plainHead(data)
    if plain is not None:
        method, target, headers, host, values, key = plain
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speedups, "plainHead", pure.plainHead)
            head = parseHead(data, Limits())
        assert head == RequestHead(method, target, (1, 1), headers, host)
        assert head.values == values
        if key is not None:
            assert isUpgrade(head)
            assert decide(head, AllowedOrigins(()), False) == Accept(key)


# PollSet.

IN, OUT = select.EPOLLIN, select.EPOLLOUT


class Polled:
    """A set with one socket that has a lane, and what came of it."""

    def __init__(self, impl, ours, maximum=70_000, **attributes):
        self.told = []
        self.sockets = impl.PollSet(lambda transport, events, came: self.told.append((transport, events, came)))
        self.fd = ours.fileno()
        self.sender = sender(impl, ours, **attributes)
        self.maximum = maximum
        self.sockets.ask(self.fd, "transport", IN, 0)
        self.attach(self.told.append)

    def attach(self, deliver):
        self.sockets.attach(self.fd, "transport", self.sender, self.maximum, deliver)

    def serve(self, now=1.0):
        return self.sockets.serve(1, now)


@BOTH
@pytest.mark.parametrize(("data", "messages"), COMMON)
def test_lane(impl, pair, data, messages):
    """The messages of common frames are delivered, with the time noted; what is none of them is for the transport."""
    ours, theirs = pair
    polled = Polled(impl, ours)
    assert polled.serve() == 0
    theirs.sendall(data)
    while polled.serve(7.0):
        pass
    rest = b"".join(came for _, _, came in [each for each in polled.told if isinstance(each, tuple)])
    found = [each for each in polled.told if not isinstance(each, tuple)]
    assert found + pure.split(rest, 70_000)[0] == messages  # a read may end within a frame
    assert polled.sender.lastData == (7.0 if found else 0.0)
    polled.told.clear()
    theirs.close()
    polled.serve()
    assert [(name, came) for name, _, came in polled.told] in ([("transport", b"")], [("transport", None)])


@BOTH
def test_laneMixed(impl, pair):
    """What follows the messages goes to the transport as it was sent."""
    ours, theirs = pair
    polled = Polled(impl, ours, 100)
    theirs.sendall(clientFrame(1, b"a") + clientFrame(1, b"\xff"))
    polled.serve()
    theirs.sendall(clientFrame(9, b"ping"))
    polled.serve()
    assert polled.told == ["a", ("transport", IN, clientFrame(1, b"\xff")), ("transport", IN, clientFrame(9, b"ping"))]


@BOTH
def test_laneDetached(impl, pair):
    """If the lane is detached while messages are delivered, the transport gets the rest of them, in order."""
    ours, theirs = pair
    polled = Polled(impl, ours)

    def deliver(message):
        polled.told.append(message)
        polled.sockets.detach(polled.fd, "transport")

    polled.attach(deliver)
    theirs.sendall(clientFrame(1, b"a") + clientFrame(1, b"b") + clientFrame(1, b"c") + b"rest")
    polled.serve()
    assert polled.told == ["a", ("transport", IN, ["b", "c"]), ("transport", IN, b"rest")]
    theirs.sendall(b"more")
    polled.serve()
    assert polled.told[3:] == [("transport", IN, None)]


@BOTH
def test_laneThatRaises(impl, pair):
    """What a handler raises comes out, with whose it was; the set can be served again."""
    ours, theirs = pair
    polled = Polled(impl, ours)
    polled.attach(lambda message: 1 / 0)
    theirs.sendall(clientFrame(1, b"a"))
    with pytest.raises(ZeroDivisionError):
        polled.serve()
    assert polled.sockets.failed == "transport"
    polled.attach(polled.told.append)
    theirs.sendall(clientFrame(1, b"b"))
    polled.serve()
    assert polled.told == ["b"]


@BOTH
def test_laneBatches(impl, pair):
    """At most 64 messages of one connection are delivered in a turn, so that a flood does not starve others; none is lost."""
    ours, theirs = pair
    polled = Polled(impl, ours)
    theirs.sendall(b"".join(clientFrame(1, b"%d" % n) for n in range(100)))
    polled.serve()
    assert polled.told[:64] == [str(n) for n in range(64)]
    (rest,) = polled.told[64:]
    assert pure.split(rest[2], 100)[0] == [str(n) for n in range(64, 100)]


@BOTH
@pytest.mark.parametrize("last", ["text", "no UTF-8", "rest"])
def test_readWhileOthersRun(impl, pair, last):
    """What was read of one connection stays that, whatever others read and write in the middle of it."""
    data, told = {
        "text": (clientFrame(1, b"three"), "three"),
        "no UTF-8": (clientFrame(1, b"\xff"), ("transport", IN, clientFrame(1, b"\xff"))),
        "rest": (b"rest", ("transport", IN, b"rest")),
    }[last]
    ours, theirs = pair
    polled = Polled(impl, ours)
    mine, other = socket.socketpair()
    with mine, other:
        mine.setblocking(False)

        def interrupt():
            other.sendall(b"what another one sent " * 100)
            while impl.readSome(mine.fileno()):
                pass

        for number in MOMENTS:
            theirs.sendall(clientFrame(1, b"one") + clientFrame(1, b"two") + data)
            with collectAt(number, interrupt):
                polled.serve()
            assert polled.told == ["one", "two", told]
            polled.told.clear()


@BOTH
def test_servedWithin(impl, pair):
    """Serving the set from within a handler serves nothing: no message comes before one that was sent earlier."""
    ours, theirs = pair
    polled = Polled(impl, ours)
    served = []

    def deliver(message):
        polled.told.append(message)
        if message == "1":
            theirs.sendall(clientFrame(1, b"4")[3:] + clientFrame(1, b"5"))
            served.append(polled.serve())

    polled.attach(deliver)
    theirs.sendall(clientFrame(1, b"1") + clientFrame(1, b"2") + clientFrame(1, b"3") + clientFrame(1, b"4")[:3])
    assert polled.serve() == 1
    assert served == [0]
    assert polled.told == ["1", "2", "3", ("transport", IN, clientFrame(1, b"4")[:3])]
    polled.serve()
    assert polled.told[4:] == [("transport", IN, clientFrame(1, b"4")[3:] + clientFrame(1, b"5"))]

    def fail(message):
        raise ZeroDivisionError

    polled.attach(fail)
    theirs.sendall(clientFrame(1, b"6"))
    with pytest.raises(ZeroDivisionError):
        polled.serve()
    polled.attach(polled.told.append)
    theirs.sendall(clientFrame(1, b"7"))
    assert polled.serve() == 1
    assert polled.told[5:] == ["7"]


@BOTH
@pytest.mark.parametrize("paused", [False, True])
def test_laneOfAFormerOwner(impl, pair, paused):
    """A lane belongs to its transport: the next owner of the descriptor has none, and one that has left cannot take it away."""
    ours, theirs = pair
    polled = Polled(impl, ours)
    if paused:
        polled.sockets.ask(polled.fd, "transport", 0, IN)
        assert (len(polled.sockets), polled.sockets.transports()) == (0, [])
    polled.sockets.ask(polled.fd, "next", IN, 0)
    assert polled.sockets.transports() == ["next"]
    theirs.sendall(clientFrame(1, b"secret"))
    polled.serve()
    assert polled.told == [("next", IN, None)]
    with pytest.raises(ValueError, match="another"):
        polled.attach(polled.told.append)
    polled.sockets.attach(polled.fd, "next", polled.sender, 100, polled.told.append)
    polled.sockets.detach(polled.fd, "transport")
    polled.sockets.ask(polled.fd, "transport", 0, IN)
    polled.serve()
    assert polled.told[1:] == ["secret"]


@BOTH
def test_laneWhilePaused(impl, pair):
    """A lane stays while its transport is not polled, and can be given then; nothing is kept of a transport that has neither."""
    ours, theirs = pair

    class Transport:
        pass

    transport, told = Transport(), []
    gone = weakref.ref(transport)
    sockets = impl.PollSet(lambda transport, events, came: told.append(came))
    fd, one = ours.fileno(), sender(impl, ours)
    for attachFirst in (True, False):
        if attachFirst:
            sockets.ask(fd, transport, IN, 0)
            sockets.attach(fd, transport, one, 100, told.append)
        sockets.ask(fd, transport, 0, IN)
        if not attachFirst:
            sockets.attach(fd, transport, one, 100, told.append)
        theirs.sendall(clientFrame(1, b"x"))
        assert sockets.serve(1, 0.0) == 0
        sockets.ask(fd, transport, IN, 0)
        sockets.serve(1, 0.0)
        assert told.pop() == "x"
        sockets.detach(fd, transport)
    sockets.ask(fd, transport, 0, IN)
    del transport
    assert gone() is None
    assert len(sockets) == 0


@BOTH
def test_someAtOnce(impl):
    """Of many that are ready, each is served once before any is served again, however few at once; one that has gone is not."""
    told = []
    sockets = impl.PollSet(lambda transport, events, came: told.append(transport))
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(7)]
        numbers = [ours.fileno() for ours, _ in pairs[:6]]
        for number, (_, theirs) in zip(numbers, pairs, strict=False):
            sockets.ask(number, number, IN, 0)
            theirs.sendall(b"x")  # nobody reads it
        for _ in range(9):
            assert sockets.serve(2, 0.0) == 2
        assert told == numbers * 3
        told.clear()
        assert sockets.serve(1, 0.0) == 1
        first, second, third, fourth, *others = numbers
        # The second is wanted no more; the third's descriptor is one's that has nothing; the fourth is another one's.
        sockets.ask(second, second, 0, IN)
        sockets.ask(third, third, 0, IN)
        os.dup2(pairs[6][0].fileno(), third)
        sockets.ask(third, "silent", IN, 0)
        sockets.ask(fourth, fourth, 0, IN)
        sockets.ask(fourth, "new", IN, 0)
        while len(told) < 7:
            assert sockets.serve(1, 0.0) == 1
        assert told[:3] == [first, *others]
        assert set(told[3:]) == {first, "new", *others}


@BOTH
@pytest.mark.parametrize(("number", "each", "first"), [(5, 64, 64), (5, 40, 80), (20, 1, 8), (3, 20, 60)])
def test_messagesAtOnce(impl, number, each, first):
    """Of messages some are delivered at once, of however many connections; that there may be more is said, and they come next."""
    told = []
    sockets = impl.PollSet(lambda transport, events, came: told.append(came))
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(number)]
        senders = [sender(impl, ours) for ours, _ in pairs]
        for (ours, theirs), one in zip(pairs, senders, strict=True):
            sockets.ask(ours.fileno(), one, IN, 0)
            sockets.attach(ours.fileno(), one, one, 100, told.append)
            theirs.sendall(clientFrame(1, b"x") * each)
        served = sockets.serve(8, 0.0)
        assert told == ["x"] * first
        assert (served == 8) is (first < number * each)
        while served == 8:
            served = sockets.serve(8, 0.0)
        assert told == ["x"] * (number * each)


@BOTH
def test_lookUp(impl):
    """A handler that takes long says so: then nothing else is served before the clock is read."""
    told = []

    def ready(transport, events, came):
        told.append(transport)
        if transport % 2:
            sockets.lookUp()

    sockets = impl.PollSet(ready)
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(5)]
        for number, (ours, theirs) in enumerate(pairs):
            sockets.ask(ours.fileno(), number, IN, 0)
            theirs.sendall(b"x")
        assert (sockets.serve(4, 0.0), told) == (4, [0, 1])
        assert (sockets.serve(4, 0.0), told) == (4, [0, 1, 2, 3])
        assert (sockets.serve(1, 0.0), told) == (1, [0, 1, 2, 3, 4])


@BOTH
def test_ask(impl, pair):
    """A socket is polled for what was asked, until nothing is asked any more; a closed one is forgotten without a word."""
    ours, theirs = pair
    told = []
    sockets = impl.PollSet(lambda transport, events, came: told.append((transport, events, came)))
    fd = ours.fileno()
    assert len(sockets) == 0
    sockets.ask(fd, "a", IN, 0)
    sockets.ask(fd, "a", OUT, 0)
    assert (len(sockets), sockets.transports(), sockets.asked(fd)) == (1, ["a"], IN | OUT)
    sockets.serve(1, 0.0)
    assert told == [("a", OUT, None)]
    sockets.ask(fd, "a", 0, OUT)
    theirs.sendall(b"x")
    sockets.serve(1, 0.0)
    assert told[1:] == [("a", IN, None)]
    ours.close()
    sockets.ask(fd, "a", 0, IN)
    assert (len(sockets), sockets.asked(fd), sockets.serve(1, 0.0)) == (0, 0, 0)
    with pytest.raises(OSError, match="descriptor"):
        sockets.ask(fd, "b", IN, 0)


@BOTH
def test_asksOfAnother(impl):
    """One that is closed by another one's event, in the same turn, hears of nothing any more."""
    pairs = [socket.socketpair() for _ in range(3)]
    try:
        told = []

        def ready(transport, events, came):
            told.append(transport)
            for number in range(3):
                if number != transport:
                    sockets.ask(pairs[number][0].fileno(), number, 0, IN)

        sockets = impl.PollSet(ready)
        for number, (ours, theirs) in enumerate(pairs):
            ours.setblocking(False)
            sockets.ask(ours.fileno(), number, IN, 0)
            theirs.sendall(b"x")
        sockets.serve(1, 0.0)
        assert set(told) in ({0}, {1}, {2})
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


@BOTH
def test_attachedUnknown(impl, pair):
    """A lane for a socket that was never polled is the caller's mistake; to take one away is none."""
    ours, _ = pair
    sockets = impl.PollSet(print)
    with pytest.raises(ValueError, match="never"):
        sockets.attach(ours.fileno(), "a", sender(impl, ours), 100, print)
    sockets.detach(ours.fileno(), "a")
    assert sockets.asked(ours.fileno()) == 0


@pytest.mark.exhaustive
@BOTH
def test_setsAreCollected(impl, pair):
    """A set that refers to itself through its transports is freed when nothing else refers to it."""
    ours, _ = pair

    class Owner:
        def __init__(self):
            self.sockets = impl.PollSet(self.ready)
            self.sockets.ask(ours.fileno(), self, IN, 0)
            self.sockets.attach(ours.fileno(), self, sender(impl, ours), 100, self.ready)

        def ready(self, *arguments):
            pass

    gone = weakref.ref(Owner())
    gc.collect()
    assert gone() is None


def sender(impl, sock, **attributes):
    """Return an open sender of a socket."""
    made = impl.Sender()
    made.handle = sock.fileno()
    made.open = True
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@BOTH
@pytest.mark.parametrize("size", [0, 1, 125, 126, 2048, 2049, 65535, 65536])
def test_send(impl, pair, size):
    """A frame goes out whole: str as UTF-8, bytes as they are."""
    ours, theirs = pair
    data = b"\x82" + clientFrame(2, b"x" * size, mask=None)[1:]
    one = sender(impl, ours)
    assert one.send(0x82, b"x" * size, 5.0) is None
    assert theirs.recv(200_000) == data
    assert one.send(0x81, "grüß", 7.5) is None
    assert (one.begun, one.rest()) == (False, None)
    assert theirs.recv(100) == b"\x81\x06" + "grüß".encode()
    assert (one.lastData, one.written) == (7.5, 2)


@BOTH
@pytest.mark.parametrize("attribute", [{"open": False}, {"waiting": True}])
def test_sendNotThisWay(impl, pair, attribute):
    """Nothing is sent, and nothing counted, on a connection that takes no messages or where others must go first."""
    ours, theirs = pair
    one = sender(impl, ours, **attribute)
    assert one.send(0x82, b"x", 5.0) is False
    assert impl.sendMany([sender(impl, ours), one], b"frame", 6.0) == bytes([WHOLE, NOT_THIS_WAY])
    assert theirs.recv(100) == b"frame"
    assert (one.lastData, one.written) == (0.0, 0)


@BOTH
@pytest.mark.parametrize("payload", [b"".join(bytes([n]) * 4000 for n in range(250)), "grüß" * 100_000])
def test_sendToAFullSocket(impl, pair, payload):
    """What the kernel does not take of a frame is kept, to the byte, and nothing goes this way before somebody has it."""
    ours, theirs = pair
    one = sender(impl, ours)
    assert one.send(0x82 if isinstance(payload, bytes) else 0x81, payload, 0.0) is True
    assert one.begun
    assert one.send(0x82, b"more", 0.0) is False
    assert impl.sendMany([one], b"more", 0.0) == bytes([NOT_THIS_WAY])
    rest = one.rest()
    assert rest == one.rest()
    received = readAll(theirs)
    assert received + rest == clientFrame(*((2, payload) if isinstance(payload, bytes) else (1, payload.encode())), mask=None)
    one.restNoted()
    assert (one.begun, one.rest()) == (False, None)
    assert one.send(0x82, b"more", 0.0) is None
    assert theirs.recv(100) == b"\x82\x04more"
    assert one.written == 2


@BOTH
@pytest.mark.parametrize("size", [0, 1, 3000])
def test_sendToAFullSocketNothing(impl, pair, size):
    """A frame of which the kernel takes nothing at all is kept whole, whatever its size."""
    ours, _ = pair
    while True:
        try:
            ours.send(b"x" * 65536)
        except BlockingIOError:
            break
    one, many = sender(impl, ours), sender(impl, ours)
    assert one.send(0x82, b"y" * size, 0.0) is True
    assert one.rest() == clientFrame(2, b"y" * size, mask=None)
    assert impl.sendMany([many], b"frame", 0.0) == bytes([BEGUN])
    assert many.rest() == b"frame"


@BOTH
def test_sendErrors(impl, pair):
    """A broken connection takes nothing and raises nothing; a lone surrogate and other types are the caller's mistake."""
    ours, theirs = pair
    theirs.close()
    one = sender(impl, ours)
    assert one.send(0x82, b"x", 0.0) is True
    assert one.rest() == b"\x82\x01x"
    one.restNoted()
    with pytest.raises(UnicodeEncodeError):
        one.send(0x81, "\ud800", 0.0)


@BOTH
def test_handles(impl, pair):
    """A handle may be any address; a number that is not a descriptor is not taken for one, even if its lower half is."""
    ours, theirs = pair
    one = sender(impl, ours)
    one.handle = 2 ** (8 * ctypes.sizeof(ctypes.c_size_t) - 1)
    assert one.handle == 2 ** (8 * ctypes.sizeof(ctypes.c_size_t) - 1)
    one.handle = 2**32 + ours.fileno()
    try:
        assert one.send(0x82, b"x", 0.0) is True
    except OverflowError:
        assert impl is pure
    assert readAll(theirs) == b""
    with pytest.raises((OSError, OverflowError)):
        impl.readSome(2**32 + ours.fileno())


@pytest.mark.exhaustive
@BOTH
@pytest.mark.parametrize("number", range(8))
def test_sendWithoutMemory(impl, pair, number):
    """Where no memory is left in the middle of sending, either nothing went, or what has not is known, or known to be lost."""
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    payload = bytes(LARGE if set_nomemory is None else 1_000_000)  # none of it has to fail for its size
    for many in (False, True):
        one = sender(impl, ours)
        known = True
        try:
            with noMemory(number):
                impl.sendMany([one], payload, 0.0) if many else one.send(0x82, payload, 0.0)
        except MemoryError:
            pass
        try:
            rest = one.rest() or b""
        except OSError:
            known = False
        received = readAll(theirs)
        if not known:
            assert impl is pure
        elif received or rest:
            assert len(received) + len(rest) == len(payload) + (0 if many else 10)


def test_unknownRest(monkeypatch, pair):
    """When sending fails in the middle in Python, it is not reported as nothing sent."""
    one = sender(pure, pair[0])

    def write(fd, data):
        real(fd, data[:3])
        raise MemoryError

    real = os.write
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(MemoryError):
        one.send(0x82, b"x" * 100, 0.0)
    assert one.begun
    with pytest.raises(OSError, match="nobody knows"):
        one.rest()


def test_sendMeanwhile(monkeypatch, pair):
    """In Python, frames that a finaliser or another thread sends while a frame is being sent must wait."""
    ours, theirs = pair
    one = sender(pure, ours)
    outcomes = []

    def write(fd, data):
        outcomes.append((one.send(0x81, "other", 0.0), one.begun, one.rest()))
        one.waiting = True
        return real(fd, data)

    real = os.write
    monkeypatch.setattr(os, "write", write)
    assert one.send(0x82, b"x", 0.0) is True  # who waits by now has to be asked
    assert outcomes == [(False, True, None)]
    assert (one.begun, readAll(theirs)) == (False, b"\x82\x01x")


@BOTH
def test_sendMany(impl):
    """Everyone is sent the same; those that are behind are named, and keep what the kernel did not take."""
    pairs = [socket.socketpair() for _ in range(4)]
    try:
        for each in chain(*pairs):
            each.setblocking(False)
        senders = [sender(impl, ours) for ours, _ in pairs]
        pairs[1][1].close()
        data = b"y" * 100_000
        pairs[2][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        assert impl.sendMany(senders, data[:1000], 3.0) == bytes([WHOLE, BEGUN, WHOLE, WHOLE])
        assert senders[1].rest() == data[:1000]
        assert impl.sendMany(senders, data, 4.0)[:3] == bytes([WHOLE, NOT_THIS_WAY, BEGUN])
        rest = senders[2].rest()
        assert readAll(pairs[2][1]) + rest == data[:1000] + data
        assert impl.sendMany([], data, 4.0) is None
        assert impl.sendMany(senders[:1], b"whole", 4.0) is None
        assert [(one.lastData, one.written) for one in senders[:3]] == [(4.0, 3), (3.0, 1), (4.0, 2)]
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


# TLS.


@pytest.fixture
def secure(pair):
    """The two ends of a connection with TLS, on non-blocking sockets."""
    ours, theirs = pair
    context = SSL.Context(SSL.TLS_METHOD)
    issued = trustme.CA().issue_cert("localhost")
    context.use_privatekey(load_pem_private_key(issued.private_key_pem.bytes(), None))
    context.use_certificate(x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()))
    ends = SSL.Connection(context, ours), SSL.Connection(SSL.Context(SSL.TLS_METHOD), theirs)
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    unfinished = list(ends)
    while unfinished:
        for end in [*unfinished]:
            try:
                end.do_handshake()
            except SSL.WantReadError:
                continue
            unfinished.remove(end)
    with pytest.raises(SSL.WantReadError):
        ends[1].recv(1)  # takes the session tickets
    return ends


def handle(impl, connection):
    return connection if impl is pure else speedups.tlsHandle(connection)


def everything(connection):
    """Return what can be read now."""
    received = b""
    while True:
        try:
            received += connection.recv(65536)
        except SSL.WantReadError:
            return received


TLS = pytest.mark.parametrize(
    "impl",
    [
        pytest.param(pure, id="python"),
        # Where OpenSSL's functions could not be found, Python is compared with itself.
        pytest.param(_speedups if speedups.tlsCompiled else pure, id="compiled"),
    ],
)


@TLS
def test_tlsLane(impl, secure, pair):
    """Frames that come by TLS are delivered as those that come without; the end and what breaks TLS is for the transport."""
    ours, theirs = secure
    polled = Polled(impl, pair[0], handle=handle(impl, ours), secure=True)
    theirs.send(clientFrame(1, b"a") + clientFrame(2, b"b") + b"rest")
    polled.serve(5.0)
    assert polled.told == ["a", b"b", ("transport", IN, b"rest")]
    assert polled.sender.lastData == 5.0
    polled.told.clear()
    whole = clientFrame(2, bytes(60_000))
    sent, received = 0, b""
    while sent < len(whole):
        try:
            sent += theirs.send(whole[sent:])
        except SSL.WantWriteError:
            pass
        polled.serve()
    while len(received) < len(whole) and polled.told != [bytes(60_000)]:
        polled.serve()
        received = b"".join(came for _, _, came in [each for each in polled.told if isinstance(each, tuple)])
    polled.told.clear()
    theirs.shutdown()
    polled.serve()
    assert polled.told == [("transport", IN, b"")]
    polled.told.clear()
    pair[1].send(b"GET / HTTP/1.1\r\n\r\n")
    polled.serve()
    assert [name for name, _, _ in polled.told] == ["transport"]


@TLS
def test_tlsLoneRecords(impl, secure, pair):
    """Records that wait together are read together; compiled, one at a time where the seven before were alone and soon."""
    ours, theirs = secure
    polled = Polled(impl, pair[0], handle=handle(impl, ours), secure=True)
    now = 5.0

    def reads(number, after):
        nonlocal now
        now += after
        polled.told.clear()
        for each in range(number):
            theirs.send(clientFrame(1, b"%d" % each))
        polled.serve(now)
        found = len(polled.told)
        while polled.serve(now):
            pass
        assert polled.told == [str(each) for each in range(number)]
        return found

    assert reads(1, 0) == 1
    assert reads(3, 0.021) == 3  # it took its time
    assert reads(2, 0.019) == (1 if impl is _speedups else 2)
    for _ in range(5):  # the two were the first ones
        assert reads(1, 0.019) == 1
    assert reads(3, 0.019) == 3


@TLS
def test_tlsRead(impl, secure):
    """Nothing there is None; what is there is read; the end is empty bytes."""
    ours, theirs = secure
    assert impl.tlsReadSome(handle(impl, ours)) is None
    theirs.send(b"some")
    assert impl.tlsReadSome(handle(impl, ours)) == b"some"
    theirs.shutdown()
    assert impl.tlsReadSome(handle(impl, ours)) == b""
    assert impl.tlsReadSome(handle(impl, ours)) == b""


@TLS
def test_tlsReadBroken(impl, secure, pair):
    """What breaks TLS is an SSL.Error, or its number: the reason is where pyOpenSSL finds it."""
    ours, _ = secure
    pair[1].send(b"GET / HTTP/1.1\r\n\r\n")

    def read():
        assert impl.tlsReadSome(handle(impl, ours)) == 1
        ours._raise_ssl_error(ours._ssl, -1)

    with pytest.raises(SSL.Error, match="SSL routines"):
        read()


@TLS
def test_tlsSend(impl, secure):
    """Frames go out by TLS, straight and to many; what the socket does not take comes back, and can follow."""
    ours, theirs = secure
    one = impl.Sender()
    one.handle, one.secure, one.open = handle(impl, ours), True, True
    assert one.send(0x81, "grüß", 1.0) is None
    assert impl.sendMany([one], b"frame", 2.0) is None
    assert everything(theirs) == b"\x81\x06" + "grüß".encode() + b"frame"
    whole = bytes(range(256)) * 4000
    assert one.send(0x82, whole, 3.0) is True
    rest = one.rest()
    assert impl.tlsWriteSome(handle(impl, ours), rest) == 0
    received = b""
    while rest:
        received += everything(theirs)
        rest = rest[impl.tlsWriteSome(handle(impl, ours), rest) :]
    assert received + everything(theirs) == clientFrame(2, whole, mask=None)
    assert (one.lastData, one.written) == (3.0, 3)


@TLS
def test_tlsSendToTheGone(impl, secure, pair):
    """A broken connection takes nothing; asked by the transport, it says so by a negative number."""
    ours, _ = secure
    pair[1].close()
    one = impl.Sender()
    one.handle, one.secure, one.open = handle(impl, ours), True, True
    assert one.send(0x82, b"x", 1.0) is True
    assert one.rest() == b"\x82\x01x"
    one.restNoted()
    assert impl.sendMany([one], b"frame", 1.0) == bytes([BEGUN])
    assert impl.tlsWriteSome(handle(impl, ours), b"x") < 0


@settings(max_examples=int(os.environ.get("TWISTED_WS_EXAMPLES", "300")), derandomize=True)
@given(
    st.lists(st.one_of(st.sampled_from([p.values[0] for p in [*COMMON, *NOT_COMMON]]), st.binary(max_size=40)), max_size=5),
    st.randoms(),
)
def test_bothAgree(pieces, random):
    """Python and C take the same messages from any bytes."""
    data = bytearray(b"".join(pieces))
    for _ in range(random.randrange(3)):
        if data:
            data[random.randrange(min(len(data), 40))] = random.randrange(256)
    assert _speedups.split(bytes(data), 70_000) == pure.split(bytes(data), 70_000)


def test_whichOne():
    """The environment chooses Python; without that, the compiled part is used where there is one."""
    script = "from twisted_ws.wire import speedups; print(speedups.compiled, speedups.split.__module__)"
    environment = {**os.environ, "TWISTED_WS_SPEEDUPS": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "twisted_ws.wire.speedups.pure"]
    assert speedups.compiled is (_speedups is not pure) or os.environ.get("TWISTED_WS_SPEEDUPS") == "0"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "pure Python: there was no C compiler when it was installed"),
        (("_speedups.cpython-30-other.so",), "pure Python: it was compiled for another Python"),
        ((f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}",), "pure Python: the compiled part does not load ("),
        (None, "pure Python: the environment has TWISTED_WS_SPEEDUPS=0"),
    ],
)
def test_whyNotCompiled(tmp_path, files, said):
    """Where the compiled part is missing, the reason is known: no compiler, another Python, a damaged file, the environment."""
    package = tmp_path / "twisted_ws"
    source = Path(speedups.__file__).parents[2]
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for each in files or ():
        (package / "wire" / "speedups" / each).write_bytes(b"no library")
    chosen = {"TWISTED_WS_SPEEDUPS": "0" if files is None else "1"}  # whatever these tests themselves run with
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **chosen}
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from twisted_ws.wire.speedups import which; print(which())"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(said)
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("split", (b"",)),
        ("split", ("text", 1)),
        ("readSome", ()),
        ("readSome", ("x",)),
        ("PollSet", ()),
        ("sendMany", (1, b"", 0.0)),
        ("sendMany", (["x"], b"", 0.0)),
        ("sendMany", ([_speedups.Sender()], "text", 0.0)),
        ("sendMany", ([], b"")),
        ("tlsReadSome", ("x",)),
        ("tlsWriteSome", ("x", b"")),
    ],
)
def test_wrongCalls(name, arguments):
    """Wrong arguments are an exception, not a crash, also in C."""
    with pytest.raises((TypeError, AttributeError)):
        getattr(_speedups, name)(*arguments)


@BOTH
def test_numbersThatDoNotFit(impl, pair):
    """A number that does not fit where it goes is refused instead of cut, and nothing is sent or polled by it."""
    ours, theirs = pair
    for first in (-1, 0x182, 2**32 + 0x82):
        with pytest.raises(OverflowError):
            sender(impl, ours).send(first, b"x", 0.0)
    sockets = impl.PollSet(print)
    for events in (-1, 2**32 + IN):
        with pytest.raises(OverflowError):
            sockets.ask(ours.fileno(), "a", events, 0)
    for fd in (-1, 2**30, 2**31 - 1, 2**32 + ours.fileno()):
        with pytest.raises((OSError, OverflowError, ValueError)):
            sockets.ask(fd, "a", IN, 0)
    assert (readAll(theirs), len(sockets)) == (b"", 0)
