"""Whole answers in gzip, for those who take it and where it pays (RFC 9110 section 8.4.1).

Event streams are not compressed: each would keep a window of 256 KiB here for as long as it is open, an event would have to be
flushed by itself, which leaves little to gain, and all streams of one channel could no longer be sent the same bytes. A proxy in
front may do it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from twisted_ws.wire.loop.turns import QUANTUM

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest

__all__ = ["answerCompressed", "listed", "takesGzip", "wanted"]

_NOTHING = re.compile(r";[ \t]*q=0(?:\.0*)?[ \t]*$", re.IGNORECASE)
_GZIP = 16 + zlib.MAX_WBITS  # with gzip's own head
# JSON of many messages repeats itself: the fastest level makes most of that, in a third of the time of the default one.
_LEVEL = 1
# Bytes that are compressed in one go. What does not compress takes as much as a quantum of steps.
SLICE = 16 * 1024


def answerCompressed(request: HttpRequest, body: bytes, threshold: int) -> None:
    """Answer with `body`, compressed where that is wanted; a large one over several turns of the reactor.

    What says so in the headers is put there; `Vary` is the caller's.

    Args:
        request: what is answered.
        body: the whole answer.
        threshold: bytes below which nothing is gained.
    """
    if len(body) < threshold or not takesGzip(request.fields.get("accept-encoding", "")):
        request.answer(body)
        return
    request.say("Content-Encoding", "gzip")
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    if len(body) <= SLICE:
        request.answer(coder.compress(body) + coder.flush())
    else:
        Deferred.fromCoroutine(_inSlices(request, body, coder)).addErrback(request.processingFailed)


async def _inSlices(request: HttpRequest, body: bytes, coder: zlib._Compress) -> None:
    pieces = []
    async for start in request.channel.site.turns.through(range(0, len(body), SLICE), QUANTUM):
        if request.gone:
            return
        pieces.append(coder.compress(body[start : start + SLICE]))
    request.answer(b"".join([*pieces, coder.flush()]))


def wanted(accepted: str, names: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """Yield the elements of an Accept header with one of these names, and whether they are wanted: with a weight above 0.

    The others are not looked at: there may be thousands (RFC 9110 section 12.4.2).

    Args:
        accepted: the header.
        names: see `listed`.
    """
    for found in names.finditer(accepted):
        yield found[1].lower(), _NOTHING.search(found[2] or "") is None


def listed(names: str) -> re.Pattern[str]:
    """Return what finds elements of a list: each with its name, which is one of `names`, and its parameters."""
    return re.compile(rf"(?:^|,)[ \t]*({names})[ \t]*(;[^,]*)?(?=,|$)", re.IGNORECASE)


_CODINGS = listed(r"gzip|x-gzip|\*")


def takesGzip(accepted: str) -> bool:
    """Read Accept-Encoding (RFC 9110 section 12.5.3): what is not named is not taken, but for a ``*``."""
    codings = dict(wanted(accepted, _CODINGS))
    return codings.get("gzip", codings.get("x-gzip", codings.get("*", False)))
