from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory import clientFrame
from twisted_ws.wire import pure, speedups

try:
    from twisted_ws.wire import _speedups
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
@pytest.mark.parametrize(("data", "messages"), COMMON)
def test_readCommon(impl, pair, data, messages):
    """What is read is split; nothing there is None; the end is empty."""
    ours, theirs = pair
    assert impl.readFrames(ours.fileno(), 70_000) is None
    theirs.sendall(data)
    found, rest = [], b""
    while len(found) < len(messages):
        came = impl.readFrames(ours.fileno(), 70_000)
        if isinstance(came, list):
            found += came
        else:  # a read may end within a frame
            rest += came
            found += pure.split(rest, 70_000)[0]
    assert found == messages
    theirs.close()
    assert impl.readFrames(ours.fileno(), 70_000) == b""


@BOTH
def test_readMixed(impl, pair):
    """Messages and what follows them come apart, the rest as it was sent."""
    ours, theirs = pair
    theirs.sendall(clientFrame(1, b"a") + clientFrame(1, b"\xff"))
    assert impl.readFrames(ours.fileno(), 100) == (["a"], clientFrame(1, b"\xff"))
    theirs.sendall(clientFrame(9, b"ping"))
    assert impl.readFrames(ours.fileno(), 100) == clientFrame(9, b"ping")


@BOTH
def test_readBroken(impl):
    """A descriptor that is no connection any more is an OSError."""
    with pytest.raises(OSError, match="descriptor"):
        impl.readFrames(999_999, 100)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_sendFrame(impl, pair, size):
    """A frame goes out whole: str as UTF-8, bytes as they are; the rest comes back when the kernel is full."""
    ours, theirs = pair
    data = b"\x82" + clientFrame(2, b"x" * size, mask=None)[1:]
    rest = impl.sendFrame(ours.fileno(), 0x82, b"x" * size)
    assert theirs.recv(200_000) + (rest or b"") == data
    assert impl.sendFrame(ours.fileno(), 0x81, "grüß") is None
    assert theirs.recv(100) == b"\x81\x06" + "grüß".encode()


@BOTH
def test_sendFrameToAFullSocket(impl, pair):
    """What the kernel does not take comes back, to the byte, also when that is all."""
    ours, theirs = pair
    whole = b"".join(bytes([n]) * 4000 for n in range(250))
    rest = impl.sendFrame(ours.fileno(), 0x82, whole)
    assert rest
    again = impl.sendFrame(ours.fileno(), 0x82, b"more")
    assert again == b"\x82\x04more"
    theirs.setblocking(True)
    received = b""
    while len(received) < len(whole) + 10 - len(rest):
        received += theirs.recv(1_000_000)
    assert received + rest == clientFrame(2, whole, mask=None)


@BOTH
def test_sendFrameErrors(impl, pair):
    """A broken connection takes nothing and raises nothing; a lone surrogate and other types are the caller's mistake."""
    ours, theirs = pair
    theirs.close()
    assert impl.sendFrame(ours.fileno(), 0x82, b"x") == b"\x82\x01x"
    with pytest.raises(UnicodeEncodeError):
        impl.sendFrame(ours.fileno(), 0x81, "\ud800")


@BOTH
def test_sendMany(impl):
    """Everyone is sent the same, and those who are behind are named, with what they took."""
    pairs = [socket.socketpair() for _ in range(4)]
    try:
        for ours, _ in pairs:
            ours.setblocking(False)
        pairs[1][1].close()
        data = b"y" * 100_000
        pairs[2][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        behind = dict(impl.sendMany([ours.fileno() for ours, _ in pairs], data[:1000]))
        assert behind == {1: 0}
        behind = dict(impl.sendMany([ours.fileno() for ours, _ in pairs], data))
        assert behind[1] == 0
        assert 0 <= behind[2] < len(data)
        assert impl.sendMany([], data) == []
    finally:
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


@settings(max_examples=int(os.environ.get("TWISTED_WS_EXAMPLES", "300")), deadline=None, derandomize=True)
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
    assert done.stdout.split() == ["False", "twisted_ws.wire.pure"]
    assert speedups.compiled is (_speedups is not pure) or os.environ.get("TWISTED_WS_SPEEDUPS") == "0"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("split", (b"",)),
        ("split", ("text", 1)),
        ("readFrames", (0,)),
        ("readFrames", ("x", 1)),
        ("sendFrame", (0, 1)),
        ("sendFrame", (0, "x", b"")),
        ("sendFrame", (0, 1, 2)),
        ("sendMany", (1, b"")),
        ("sendMany", (["x"], b"")),
        ("sendMany", ([0], "text")),
    ],
)
def test_wrongCalls(name, arguments):
    """Wrong arguments are an exception, not a crash, also in C."""
    with pytest.raises((TypeError, AttributeError)):
        getattr(_speedups, name)(*arguments)
