"""permessage-deflate (RFC 7692): which offers are accepted, how a message is compressed, and where one must end.

Autobahn does the rest.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from autobahn.exception import PayloadCorruptError
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from twisted_ws.frames import FIN, RSV1, frame
from twisted_ws.wire.door.handshake import Extension

# Below this many bytes, deflate makes a message longer, or hardly shorter.
COMPRESS_FROM = 64

# Up to LARGE bytes, a message is compressed at zlib's default level. For a megabyte of two different letters that would take a
# tenth of a second, in one call; the fastest level takes a seventh of that, and hardly more for anything else. A message that is
# larger than the largest one accepted by default, with JSON around it, is sent uncompressed.
LARGE = 64 * 1024
COMPRESS_UP_TO = 5 * 256 * 1024
LARGE_LEVEL = 1
LARGE_MEMORY_LEVEL = 8

# Window and memory level for sending: 4 KiB and 16 KiB while a message is compressed, a tenth of zlib's defaults.
WINDOW_BITS = 12
MEMORY_LEVEL = 5

# A last block, uncompressed, with content that hardly any other state of zlib makes of these bytes (RFC 1951 section 3.2.4).
_PROBED = b"end of a message"
_PROBE = b"\x01" + len(_PROBED).to_bytes(2, "little") + (0xFFFF - len(_PROBED)).to_bytes(2, "little") + _PROBED


class Deflate(PerMessageDeflate):
    """Autobahn's permessage-deflate, with a check that messages are complete.

    zlib does not report that its input ends in the middle of a block: the rest of a message would silently be missing.
    """

    _decompressor: Any
    _begun = False  # whether the current message has any bytes

    def settings(self) -> tuple[int, int] | None:
        """Return the bits of both windows, server's and client's, for `resumed`; None if a context is kept between messages."""
        if not (self.server_no_context_takeover and self.client_no_context_takeover):
            return None
        return self.server_max_window_bits, self.client_max_window_bits

    @classmethod
    def resumed(cls, serverBits: int, clientBits: int) -> Deflate:
        """Return the extension of a connection that comes from another process."""
        return cls(True, True, True, serverBits, clientBits, MEMORY_LEVEL)

    def start_decompress_message(self) -> None:
        """Begin a message, with a new stream if the old one has had its last block."""
        self._begun = False
        if self._decompressor is not None and self._decompressor.eof:
            self._decompressor = None
        super().start_decompress_message()  # type: ignore[no-untyped-call]

    def decompress_message_data(self, data: bytes, max_output_len: int | None = None) -> bytes:
        """Inflate a piece of a message."""
        self._begun = self._begun or bool(data)
        inflated: bytes = super().decompress_message_data(data, max_output_len)  # type: ignore[no-untyped-call]
        return inflated

    def end_decompress_message(self) -> None:
        """End a message, which must end with an empty block whose last four bytes were left out (RFC 7692 section 7.2.2).

        After a block that is marked as the last, only such a block may come. A message without any bytes is empty: some peers
        leave out that block, too.

        Raises:
            PayloadCorruptError: it ends elsewhere.
        """
        if self._begun and not self._isWhole():
            raise PayloadCorruptError("the message ends inside its DEFLATE stream")

    def _isWhole(self) -> bool:
        inflate = self._decompressor
        if inflate.eof:
            return inflate.unused_data in (b"", b"\0")
        try:
            if inflate.decompress(b"\0\0\xff\xff", 1):
                return False
            # Only between two blocks is this taken as a block. A stream that will be continued must not see it.
            goesOn = not (self.client_no_context_takeover if self._is_server else self.server_no_context_takeover)
            probed = inflate.copy() if goesOn else inflate
            return bool(probed.decompress(_PROBE) == _PROBED and probed.eof)
        except zlib.error:
            return False


# A decimal number without leading zeros (RFC 7692 section 7.1.2); Autobahn accepts what int() does, such as "+15" and "010".
isWindowBits = re.compile(r"[89]|1[0-5]").fullmatch


def usableOffers(extensions: tuple[Extension, ...]) -> list[Extension]:
    """Return the offers of permessage-deflate that can be accepted; others are declined (RFC 7692 section 5.1)."""
    offers = []
    for name, parameters in extensions:
        values = [value for each in parameters.values() for value in each if isinstance(value, str)]
        if name != "permessage-deflate" or not all(map(isWindowBits, values)):
            continue
        try:
            PerMessageDeflateOffer.parse(parameters)
        except Exception:
            # Autobahn raises plain Exceptions for what RFC 7692 section 7.1 calls invalid parameters, and for a window of 8 bits,
            # which zlib lacks (it silently uses 9, which such a client could not inflate).
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
    """Return the frame of a message for a peer with permessage-deflate, uncompressed if it is too short or too long.

    A large one is also uncompressed for a peer with a smaller window than usual, so that connecting with every possible window
    does not have a message compressed for each.

    Args:
        deflate: Autobahn's negotiated extension of one connection.
        opcode: 1 text, 2 binary.
        payload: the message.
    """
    if len(payload) < COMPRESS_FROM:
        return frame(opcode, payload)
    if len(payload) > LARGE:
        if len(payload) > COMPRESS_UP_TO or deflate.server_max_window_bits != WINDOW_BITS:
            return frame(opcode, payload)
        fast = zlib.compressobj(LARGE_LEVEL, zlib.DEFLATED, -WINDOW_BITS, LARGE_MEMORY_LEVEL)
        return frame(opcode, (fast.compress(payload) + fast.flush(zlib.Z_SYNC_FLUSH))[:-4], FIN | RSV1)
    deflate.start_compress_message()
    return frame(opcode, deflate.compress_message_data(payload) + deflate.end_compress_message(), FIN | RSV1)
