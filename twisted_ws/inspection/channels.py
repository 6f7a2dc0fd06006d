"""The largest channels: all are looked at, some in each turn of the reactor, and the largest kept."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted_ws.engines.contract import Description
from twisted_ws.inspection.asking import ready

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# How channels may be ordered.
NAME, SUBSCRIBERS, MESSAGES = "name", "subscribers", "messages"
# Channels that an engine is asked for at once, and what each costs in steps of `Turns`.
TOGETHER = 200
LOOKING = 2


async def largest(
    server: WebSocketServer, prefix: str, order: str, cursor: str, limit: int, allows: Callable[[str], bool]
) -> tuple[list[Description], str | None]:
    """Return a page of channels, those with most subscribers or messages first, and the cursor of the next page.

    Args:
        server: the server.
        prefix: how their names begin.
        order: `SUBSCRIBERS` or `MESSAGES`.
        cursor: that of this page; "" for the first.
        limit: how many, at least 1.
        allows: whether a name may be shown.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    after, turns = _placeOf(cursor), server.runtime.turns
    found: list[tuple[int, str, Description]] = []
    name = ""
    share = turns.share()
    while page := await ready(server.engine.list(prefix, name, TOGETHER)):
        turns.spend(LOOKING * len(page))
        name = page[-1].channel
        for each in page:
            place = -(each.subscribers if order == SUBSCRIBERS else each.messages), each.channel
            if place > after and (len(found) <= limit or place < found[-1][:2]) and allows(each.channel):
                insort(found, (*place, each))
                del found[limit + 1 :]
        if len(page) < TOGETHER:
            break
        if turns.isOver(share):
            await turns.next()
            share = turns.share()
    shown = found[:limit]
    following = f"{-shown[-1][0]}:{shown[-1][1]}" if len(found) > limit else None
    return [each for _, _, each in shown], following


def _placeOf(cursor: str) -> tuple[float, str]:
    """Return how large the last channel of the page before was, negative, and its name."""
    if not cursor:
        return float("-inf"), ""
    size, colon, name = cursor.partition(":")
    if colon and size.isascii() and size.isdigit() and len(size) <= 15:
        return -int(size), name
    return 0, cursor  # as if it was empty: there are no other names in such a list that it could be after
