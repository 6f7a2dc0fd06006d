"""The same bytes to this server and to wsproto, which shares no code with Autobahn: both must see the same.

Left out, because the two differ on purpose or wsproto is wrong:

- what only this server limits: more than 1 MiB in a message, many fragments, more than 100 control frames a second;
- a bad frame, or a bad character, that is not whole yet: both refuse it, but not at the same byte;
- a Close with 1014, which was registered after RFC 6455 and which wsproto does not know;
- a control frame between the fragments of a compressed message, after which wsproto takes the rest for uncompressed;
- a new data frame within a compressed message, which wsproto inflates before it sees that it may not be there.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.memory import clientFrame
from tests.wire.support import WireHost
from twisted_ws.wire import speedups
from twisted_ws.wire.speedups import pure

pytestmark = pytest.mark.exhaustive

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
SIZES = (0, 1, 124, 125, 126, 127, 128, 4095, 4096, 4097, 65535, 65536, 65537)

masks = st.one_of(st.just(b"\0\0\0\0"), st.binary(min_size=4, max_size=4))
texts = st.one_of(st.text(max_size=40), st.sampled_from(SIZES).map(lambda size: "ä" * (size // 2) + "x" * (size % 2))).map(
    str.encode
)
binaries = st.one_of(st.binary(max_size=40), st.sampled_from(SIZES).map(lambda size: (b"\x00\xff\x7f" * 21_846)[:size]))
badTexts = st.sampled_from(
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xe2\x82",
        b"a\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"ok" * 3000 + b"\xfe",
    ]
)


@dataclass(frozen=True)
class Piece:
    """Some whole frames; `ends`: the connection is over after them."""

    data: bytes
    ends: bool = False


@st.composite
def controls(draw):
    """A ping or a pong."""
    payload = draw(st.one_of(st.binary(max_size=12), st.just(b"x" * 125)))
    return clientFrame(draw(st.sampled_from([PING, PONG])), payload, mask=draw(masks))


@st.composite
def messages(draw, compressed=False, bad=False):
    """A whole message in one frame or in fragments, with control frames between them; `bad`: a text that is not UTF-8."""
    opcode = TEXT if bad else draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(badTexts if bad else texts if opcode == TEXT else binaries)
    rsv = 0
    if compressed and draw(st.booleans()):
        rsv = 4
        compressor = zlib.compressobj(draw(st.integers(0, 9)), wbits=-draw(st.sampled_from([9, 12, 15])))
        payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        payload = payload.removesuffix(b"\0\0\xff\xff")
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data = b""
    for n, part in enumerate(parts):
        fin = n == len(parts) - 1
        data += clientFrame(0 if n else opcode, part, fin=fin, rsv=0 if n else rsv, mask=draw(masks))
        if not fin and not rsv and not bad and draw(st.booleans()):
            data += draw(controls())
    return Piece(data, ends=bad)


@st.composite
def closes(draw):
    """A Close frame of any kind, good or bad."""
    code = draw(st.one_of(st.sampled_from([1000, 1001, 1004, 1005, 1006, 1011, 1012, 1013, 1015, 2999, 3000, 4999, 5000]),
                          st.integers(0, 65535).filter(lambda code: code != 1014)))  # fmt: skip
    reason = draw(
        st.one_of(
            st.just(b""), st.text(max_size=30).map(str.encode), st.just(b"x" * 123), st.sampled_from([b"\xff", b"\xe2\x82"])
        )
    )
    payload = draw(st.sampled_from([b"", b"\x03", code.to_bytes(2, "big") + reason]))
    return Piece(clientFrame(CLOSE, payload, mask=draw(masks)), ends=True)


@st.composite
def violations(draw):
    """Frames that RFC 6455 section 5 forbids."""
    payload = draw(st.binary(max_size=10))
    mask = draw(masks)
    size = len(payload)
    data = draw(
        st.sampled_from(
            [
                clientFrame(draw(st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])), payload, mask=mask),
                clientFrame(draw(st.sampled_from([TEXT, BINARY, PING])), payload, mask=None),
                clientFrame(0, payload, mask=mask),
                clientFrame(BINARY, payload, fin=False) + clientFrame(BINARY, payload, mask=mask),
                clientFrame(TEXT, b"a", fin=False) + clientFrame(PING) + clientFrame(TEXT, b"b", mask=mask),
                clientFrame(PING, b"x" * 126, mask=mask),
                clientFrame(draw(st.sampled_from([CLOSE, PING, PONG])), payload, fin=False, mask=mask),
                clientFrame(draw(st.sampled_from([TEXT, BINARY])), payload, rsv=draw(st.sampled_from([1, 2, 3, 5, 6, 7]))),
                clientFrame(draw(st.sampled_from([CLOSE, PING, PONG])), b"", rsv=draw(st.integers(1, 7)), mask=mask),
                clientFrame(BINARY, b"x", fin=False) + clientFrame(0, payload, rsv=4, mask=mask),
                b"\x82\xfe" + size.to_bytes(2, "big") + mask + payload,
                b"\x82\xff" + size.to_bytes(8, "big") + mask + payload,
                b"\x82\xff\x80" + bytes(7) + mask + payload,
                # Without deflate RSV1 is forbidden; with it, this does not inflate.
                clientFrame(BINARY, b"\xff" * 20, rsv=4, mask=mask),
            ]
        )
    )
    return Piece(data, ends=True)


@st.composite
def streams(draw, compressed=False):
    """What a client sends, in the pieces in which it arrives."""
    good = st.one_of(messages(compressed), controls().map(Piece))
    last = st.one_of(closes(), violations(), messages(compressed, bad=True))
    pieces = draw(st.lists(good, max_size=6)) + draw(st.lists(last, max_size=1))
    data = b"".join(piece.data for piece in pieces)
    if pieces and pieces[-1].ends:
        event("ends")
        # Nothing counts any more, whatever it is.
        data += draw(st.one_of(st.just(b""), good.map(lambda piece: piece.data), st.binary(max_size=8)))
    elif pieces:
        data = data[: len(data) - draw(st.integers(0, min(8, len(pieces[-1].data))))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    if len(data) < 200 and draw(st.booleans()):
        cuts = list(range(1, len(data)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a != b]


def seenByWsproto(pieces, extensions):
    """Return what wsproto tells: messages, pings, pongs, and how it ended."""
    connection = Connection(ConnectionType.SERVER, extensions)
    seen, message = [], None
    for piece in pieces:
        connection.receive_data(piece)
        for told in connection.events():
            if isinstance(told, (TextMessage, BytesMessage)):
                data = told.data if isinstance(told, TextMessage) else bytes(told.data)
                message = data if message is None else message + data
                if told.message_finished:
                    seen.append(("message", message))
                    message = None
            elif isinstance(told, (Ping, Pong)):
                seen.append((type(told).__name__.lower(), bytes(told.payload)))
            elif isinstance(told, CloseConnection):
                if connection.state is ConnectionState.REMOTE_CLOSING:
                    return [*seen, ("closed", int(told.code), told.reason or "")]
                return [*seen, ("failed", int(told.code))]
    return seen


def seenByUs(pieces, *lines):
    """Return the same of this server; check what holds for every end."""
    host = WireHost(compression=bool(lines))
    client, recorder = host.open(*lines)
    for piece in pieces:
        client.send(piece)
    found = [("failed", told[2]) if told[0] == "failed" else told for told in recorder.events[1:]]
    if found and found[-1][0] == "failed":
        close = client.closeFrame()
        assert close is not None
        assert close[0] == found[-1][1]
    elif found and found[-1][0] == "closed":
        assert client.transport.closed
        assert not client.transport.aborted
    if not client.transport.closed:
        client.hangUp()
    assert [told[0] for told in recorder.events].count("closed") == 1
    assert recorder.events[-1][0] == "closed"
    assert host.clock.getDelayedCalls() == []
    return found


quick = settings(derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


both = pytest.mark.parametrize("split", [pure.split, speedups.split], ids=["Python", "as installed"])


@both
@settings(quick, max_examples=200)
@given(streams())
def test_plain(split, pieces):
    """Whatever a client sends, and however it is cut, messages, control frames, codes and reasons are those of wsproto."""
    with mock.patch("twisted_ws.wire.websocket.connection.split", split):
        assert seenByUs(pieces) == seenByWsproto(pieces, [])


@settings(quick, max_examples=150)
@given(streams(compressed=True))
def test_deflate(pieces):
    """With permessage-deflate, messages, control frames, codes and reasons are those of wsproto, too."""
    deflate = PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
    deflate._enabled = True
    assert seenByUs(pieces, "Sec-WebSocket-Extensions: permessage-deflate") == seenByWsproto(pieces, [deflate])


@both
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_lengths(split, size, opcode):
    """Every length around a change of its encoding is read alike, also when the head of its frame is cut."""
    data = clientFrame(opcode, b"x" * size) + clientFrame(PING, b"after")
    for cut in (1, 2, 3, 7, 13, -1):
        pieces = [data[:cut], data[cut:]]
        with mock.patch("twisted_ws.wire.websocket.connection.split", split):
            assert seenByUs(pieces) == seenByWsproto(pieces, [])
