"""Whole answers in gzip, for those who take it and where it pays (RFC 9110 section 8.4.1).

Event streams are not compressed: each would keep a window of 256 KiB here for as long as it is open, an event would have to be
flushed by itself, which leaves little to gain, and all streams of one channel could no longer be sent the same bytes. A proxy in
front may do it.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted_ws.web.request import HttpRequest

__all__ = ["compressed", "takesGzip", "weighsNothing"]

_NOTHING = re.compile(r";[ \t]*q=0(?:\.0*)?[ \t]*$", re.IGNORECASE)
_GZIP = 16 + zlib.MAX_WBITS  # with gzip's own head
# JSON of many messages repeats itself: the fastest level makes most of that, in a third of the time of the default one.
_LEVEL = 1


def compressed(request: HttpRequest, body: bytes, threshold: int) -> bytes:
    """Return `body` as it is to be sent, and say in the headers of the answer how that is; `Vary` is the caller's.

    Args:
        request: what is answered.
        body: the whole answer.
        threshold: bytes below which nothing is gained.
    """
    if len(body) < threshold or not takesGzip(request.fields.get("accept-encoding", "")):
        return body
    request.responseHeaders.setRawHeaders("Content-Encoding", ["gzip"])
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return coder.compress(body) + coder.flush()


def weighsNothing(element: str) -> bool:
    """Say whether an element of an Accept header says that it is not wanted (RFC 9110 section 12.4.2)."""
    return _NOTHING.search(element) is not None


def takesGzip(accepted: str) -> bool:
    """Read Accept-Encoding (RFC 9110 section 12.5.3): what is not named is not taken, but for a ``*``."""
    codings = {each.partition(";")[0].strip().lower(): not weighsNothing(each) for each in accepted.split(",")}
    return codings.get("gzip", codings.get("x-gzip", codings.get("*", False)))
