from __future__ import annotations

import zlib
from random import Random

import pytest
from autobahn.exception import PayloadCorruptError
from autobahn.websocket.compress import (
    PERMESSAGE_COMPRESSION_EXTENSION,
    PerMessageDeflate,
    PerMessageDeflateOffer,
)

from twisted_ws.wire.door.handshake import parseExtensions
from twisted_ws.wire.websocket.deflate import (
    COMPRESS_FROM,
    COMPRESS_UP_TO,
    LARGE,
    WINDOW_BITS,
    Deflate,
    acceptOffer,
    compressedFrame,
    usableOffers,
)


def offered(text):
    return usableOffers(parseExtensions([text]))


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("permessage-deflate", 1),
        ("Permessage-Deflate; Client_Max_Window_Bits", 1),
        ("permessage-deflate; client_max_window_bits=10", 1),
        ("permessage-deflate; server_max_window_bits=9", 1),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", 1),
        ("permessage-deflate; server_max_window_bits=15, permessage-deflate", 2),
        ("permessage-deflate; server_max_window_bits=8", 0),
        ("permessage-deflate; server_max_window_bits=16", 0),
        ("permessage-deflate; server_max_window_bits", 0),
        ("permessage-deflate; server_max_window_bits=x", 0),
        *[
            (f"permessage-deflate; {end}_max_window_bits={bits}", 0)
            for end in ("server", "client")
            for bits in ("010", "+15", "1_0")
        ],
        ("permessage-deflate; server_max_window_bits=010, permessage-deflate", 1),
        ("permessage-deflate; server_no_context_takeover=1", 0),
        ("permessage-deflate; client_max_window_bits=7", 0),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", 0),
        ("permessage-deflate; unknown", 0),
        ("permessage-bzip2", 0),
        ("permessage-snappy", 0),
        ("permessage-brotli", 0),
        ("x-webkit-deflate-frame", 0),
        ("permessage-brotli, permessage-deflate", 1),
    ],
)
def test_usableOffers(text, taken):
    """Only offers of permessage-deflate that RFC 7692 section 7.1 allows, and that zlib can do, are taken."""
    found = offered(text)
    assert len(found) == taken
    assert all(name == "permessage-deflate" for name, _ in found)


@pytest.mark.parametrize(
    ("text", "answer", "bits"),
    [
        ("permessage-deflate", "permessage-deflate; client_no_context_takeover", WINDOW_BITS),
        (
            "permessage-deflate; server_max_window_bits=10; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; client_no_context_takeover",
            10,
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=15; client_no_context_takeover",
            WINDOW_BITS,
        ),
    ],
)
def test_acceptOffer(text, answer, bits):
    """The first offer is taken, without contexts that live on, and with no larger window than was asked for."""
    accept = acceptOffer([PerMessageDeflateOffer.parse(parameters) for _, parameters in offered(text)])
    assert accept.get_extension_string() == answer
    assert (accept.no_context_takeover, accept.window_bits) == (True, bits)


def negotiated(text="permessage-deflate"):
    accept = acceptOffer([PerMessageDeflateOffer.parse(parameters) for _, parameters in offered(text)])
    return PerMessageDeflate.create_from_offer_accept(True, accept)


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_compressedFrame(bits):
    """A compressed message inflates alone in the window that was agreed on; the same message gives the same bytes twice."""
    deflate = negotiated(f"permessage-deflate; server_max_window_bits={bits}")
    payload = bytes(range(64)) * 160
    first = compressedFrame(deflate, 2, payload)
    assert first == compressedFrame(deflate, 2, payload)
    assert len(first) < len(payload)
    assert first[:2] == bytes([0xC2, len(first) - 2])
    assert zlib.decompressobj(wbits=-bits).decompress(first[2:] + b"\0\0\xff\xff") == payload


def test_largeMessages(monkeypatch):
    """A large message is compressed in the fastest way, for the window that almost all have; a larger one goes as it is."""
    levels = []

    def compressobj(level, *arguments):
        levels.append(level)
        return made(level, *arguments)

    made = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", compressobj)
    payload = bytes(range(64)) * (COMPRESS_UP_TO // 64)
    for size in (LARGE + 1, COMPRESS_UP_TO):
        framed = compressedFrame(negotiated(), 2, payload[:size])
        assert len(framed) < size // 4
        head = 4 if framed[1] == 126 else 10
        assert framed[0] == 0xC2
        assert zlib.decompressobj(wbits=-WINDOW_BITS).decompress(framed[head:] + b"\0\0\xff\xff") == payload[:size]
    assert levels == [1, 1]
    assert compressedFrame(negotiated(), 2, payload + b"x")[0] == 0x82
    assert compressedFrame(negotiated("permessage-deflate; server_max_window_bits=10"), 2, payload)[0] == 0x82
    assert compressedFrame(negotiated("permessage-deflate; server_max_window_bits=10"), 2, payload[:LARGE])[0] == 0xC2
    assert levels[2:] == [-1]


def test_shortMessages():
    """A message too short to gain anything goes as it is."""
    deflate = negotiated()
    assert compressedFrame(deflate, 1, b"x" * (COMPRESS_FROM - 1))[0] == 0x81
    assert compressedFrame(deflate, 1, b"x" * COMPRESS_FROM)[0] == 0xC1


def test_onlyDeflate():
    """Whatever other compressions Autobahn could speak on this machine, none of their offers is usable."""
    for name in PERMESSAGE_COMPRESSION_EXTENSION:
        assert bool(offered(name)) is (name == "permessage-deflate")


def inflated(deflate, body, step=None):
    """Return what a message of these bytes is, None for one that is not whole."""
    step = step or max(len(body), 1)
    deflate.start_decompress_message()
    try:
        found = b"".join([deflate.decompress_message_data(body[n : n + step], 10**6) for n in range(0, len(body), step)])
        deflate.end_decompress_message()
    except PayloadCorruptError:
        return None
    return found


def server(takeover=False):
    """Return the end of a server; with `takeover`, of a client whose server uses one context for all messages."""
    return Deflate(not takeover, False, not takeover, 15, 15, 8)


MESSAGES = [b"", b"a", b"some words " * 50, bytes(70_000), Random(1).randbytes(70_000)]


def body(compressor, message):
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("message", MESSAGES, ids=len)
@pytest.mark.parametrize(
    "options", [(0,), (1,), (9,), (6, zlib.Z_FIXED), (6, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_RLE)], ids=lambda options: str(options)
)
def test_whole(takeover, message, options):
    """Messages of all kinds of blocks are taken whole, in any pieces, one after the other; cut anywhere, they are not taken."""
    level, *strategy = options
    ours = server(takeover)
    theirs = None
    for step in (None, 1, 1000):
        if theirs is None or not takeover:
            theirs = zlib.compressobj(level, zlib.DEFLATED, -15, 8, *strategy)
        assert inflated(ours, body(theirs, message), step) == message
    cut = body(zlib.compressobj(level, zlib.DEFLATED, -15, 8, *strategy), message)
    for size in {*range(1, min(len(cut), 60)), *range(max(1, len(cut) - 60), len(cut)), len(cut) // 2 or 1} - {len(cut)}:
        # The first byte of a block that is not compressed is all there is of an empty message.
        assert inflated(server(takeover), cut[:size]) == (b"" if cut[:size] == b"\0" else None), size


@pytest.mark.parametrize("takeover", [False, True])
def test_lastBlocks(takeover):
    """A stream may say that a block is its last (RFC 7692 section 7.2.3.4); a message is not cut where more follows."""
    ours = server(takeover)
    whole = bytes.fromhex("f348cdc9c9070000")  # the RFC's own, of which the last byte begins the empty block
    assert inflated(ours, whole) == b"Hello"
    assert inflated(ours, whole, 1) == b"Hello"
    assert inflated(ours, whole[:-1]) == b"Hello"
    assert inflated(ours, whole + whole) is None
    assert inflated(ours, b"") == b""
    assert inflated(ours, whole) == b"Hello"
