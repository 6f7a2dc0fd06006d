"""The newest messages of a channel, or the newest up to a place: how a history is read backwards, whatever the engine."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from twisted_ws.engines.contract import Engine, History, MaybeDeferred
from twisted_ws.message import Position


def newest(engine: Engine, channel: str, limit: int, before: Position | None = None) -> MaybeDeferred[History]:
    """Return the newest publications that are kept of a channel: offsets have no gaps, so `Engine.since` finds them.

    Args:
        engine: the engine.
        channel: the name of the channel.
        limit: how many at most.
        before: only those up to this position, none if it is in another numbering; None: all.

    Returns:
        A history that is not `recovered`, because nothing was to be. With an engine that answers later, what is published
        meanwhile may be missing from it.

    Raises:
        ChannelError: the engine refuses; a Deferred fails with the same.
    """
    now = engine.since(channel, None)
    if isinstance(now, Deferred):
        return now.addCallback(lambda found: _upTo(engine, channel, limit, before, found.position))
    return _upTo(engine, channel, limit, before, now.position)


def _upTo(engine: Engine, channel: str, limit: int, before: Position | None, last: Position) -> MaybeDeferred[History]:
    end = last if before is None or (before.epoch == last.epoch and before.offset > last.offset) else before
    found = engine.since(channel, Position(end.epoch, max(end.offset - limit, 0)), limit)
    if isinstance(found, Deferred):
        return found.addCallback(_cut, end, last)
    return _cut(found, end, last)


def _cut(found: History, end: Position, last: Position) -> History:
    if end == last:
        return found._replace(recovered=False)
    # The history may begin later than was asked for, and then goes on beyond the end. It may also have been given a new epoch
    # since: offsets go on, but a position that was lost may be higher than where the new one begins.
    isOld = end.epoch != last.epoch
    kept = [each for each in found.publications if each.offset <= end.offset and not (isOld and each.epoch == last.epoch)]
    if isOld and not found.recovered and not any(each.epoch == end.epoch for each in kept):
        kept = []
    return History(found.position, False, kept)
