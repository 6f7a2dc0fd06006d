"""Whole answers compressed with gzip, for clients that accept it, if it pays off (RFC 9110 section 8.4.1).

Event streams are not compressed: each would keep a window of 256 KiB for as long as it is open, each event would have to be
flushed separately, which gains little, and the streams of a channel could no longer share the same bytes. A proxy in front may
compress them.
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

_NOTHING = re.compile(r";[ \t]*q=0(?:\.0*)?[ \t]*$", re.IGNORECASE)
_GZIP = 16 + zlib.MAX_WBITS  # with gzip's own head
# JSON with many messages is repetitive: the fastest level gains most of what there is, in a third of the time of the default.
_LEVEL = 1
# Bytes compressed in one go. If they are incompressible, that takes as long as a quantum of steps.
SLICE = 16 * 1024


def answerCompressed(request: HttpRequest, body: bytes, threshold: int) -> None:
    """Answer with `body`, compressed if the client wants that; a large body takes several turns of the reactor.

    This sets Content-Encoding; setting Vary is up to the caller.

    Args:
        request: the request to answer.
        body: the whole answer.
        threshold: the size in bytes below which compression gains nothing.
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
    """Yield the elements of an Accept header that have one of these names, each with whether its weight is above 0.

    The others are not examined: there may be thousands (RFC 9110 section 12.4.2).

    Args:
        accepted: the header.
        names: see `listed`.
    """
    for found in names.finditer(accepted):
        yield found[1].lower(), _NOTHING.search(found[2] or "") is None


def listed(names: str) -> re.Pattern[str]:
    """Return a pattern for the elements of a list that have one of these names; it captures the name and the parameters."""
    return re.compile(rf"(?:^|,)[ \t]*({names})[ \t]*(;[^,]*)?(?=,|$)", re.IGNORECASE)


_CODINGS = listed(r"gzip|x-gzip|\*")


def takesGzip(accepted: str) -> bool:
    """Read Accept-Encoding (RFC 9110 section 12.5.3): without a ``*``, a coding that is not named is not acceptable."""
    codings = dict(wanted(accepted, _CODINGS))
    return codings.get("gzip", codings.get("x-gzip", codings.get("*", False)))
