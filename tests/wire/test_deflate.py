from __future__ import annotations

import zlib

import pytest
from autobahn.websocket.compress import (
    PERMESSAGE_COMPRESSION_EXTENSION,
    PerMessageDeflate,
    PerMessageDeflateOffer,
)

from twisted_ws.wire.deflate import COMPRESS_FROM, WINDOW_BITS, acceptOffer, compressedFrame, usableOffers
from twisted_ws.wire.handshake import parseExtensions


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


def test_shortMessages():
    """A message too short to gain anything goes as it is."""
    deflate = negotiated()
    assert compressedFrame(deflate, 1, b"x" * (COMPRESS_FROM - 1))[0] == 0x81
    assert compressedFrame(deflate, 1, b"x" * COMPRESS_FROM)[0] == 0xC1


def test_onlyDeflate():
    """Whatever other compressions Autobahn could speak on this machine, none of their offers is usable."""
    for name in PERMESSAGE_COMPRESSION_EXTENSION:
        assert bool(offered(name)) is (name == "permessage-deflate")
