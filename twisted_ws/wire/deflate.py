"""permessage-deflate (RFC 7692): which offers are taken, and how a message is compressed. Autobahn does the rest."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from twisted_ws.wire.framing import RSV1, frame
from twisted_ws.wire.handshake import Extension

__all__ = ["acceptOffer", "compressedFrame", "usableOffers"]

# Bytes below which deflate makes a message longer, or no shorter worth the time.
COMPRESS_FROM = 64

# Window and memory level of what we send: 4 KiB and 16 KiB while a message is compressed, a tenth of zlib's defaults.
WINDOW_BITS = 12
MEMORY_LEVEL = 5


def usableOffers(extensions: tuple[Extension, ...]) -> list[Extension]:
    """Return the offers of permessage-deflate that can be taken; others are declined (RFC 7692 section 5.1)."""
    offers = []
    for name, parameters in extensions:
        if name != "permessage-deflate":
            continue
        try:
            PerMessageDeflateOffer.parse(parameters)
        except Exception:
            # Autobahn raises plain Exceptions for what RFC 7692 section 7.1 calls invalid parameters, and for a window of 8 bits,
            # which zlib has not (it quietly uses 9, which such a client could not inflate).
            continue
        offers.append((name, parameters))
    return offers


def acceptOffer(offers: list[Any]) -> Any:
    """Accept the first offer, without context takeover in either direction (Autobahn's perMessageCompressionAccept).

    A context for each connection and direction costs some 300 KiB, and a frame compressed for one peer could not be sent to
    another.
    """
    offer = offers[0]
    return PerMessageDeflateOfferAccept(
        offer,
        request_no_context_takeover=bool(offer.accept_no_context_takeover),
        no_context_takeover=True,
        window_bits=min(offer.request_max_window_bits or WINDOW_BITS, WINDOW_BITS),
        mem_level=MEMORY_LEVEL,
    )


def compressedFrame(deflate: Any, opcode: int, payload: bytes) -> bytes:
    """Return the frame of a message for a peer with permessage-deflate; a short message goes uncompressed.

    Args:
        deflate: Autobahn's negotiated extension of one connection.
        opcode: 1 text, 2 binary.
        payload: the message.
    """
    if len(payload) < COMPRESS_FROM:
        return frame(opcode, payload)
    deflate.start_compress_message()
    return frame(opcode, deflate.compress_message_data(payload) + deflate.end_compress_message(), RSV1)
