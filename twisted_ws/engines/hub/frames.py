"""What hub and workers say to each other over a `Link`, and in which form.

From a worker, as requests: hello, publish, publishTraced, watch, since, forget, describe, list, members, broadcast, command,
nodes, claim, revoke, ask, mark; as notices: unwatch, enter, leave, ack, bye. From the hub, as requests: info, subscribers,
obey, revoked, answer; as notices: publication, traced, broadcast, joined, left, lost, state, revocations.

Publications, broadcasts, joined, left and obey have numbers of one sequence, by which two workers know what a connection has got
that moves from one to the other. The worker acknowledges those of publications and broadcasts with the count of connections that
took them. With OpenTelemetry, publishTraced and traced are publish and publication with the publisher's span at the end. The
rest is named after the methods of `twisted_ws.engines.contract` that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec

from twisted_ws.engines.contract import Command, Disconnect, History, Member, Members, Unsubscribe
from twisted_ws.limits import MIB
from twisted_ws.message import Kind, Position, Publication

# Of everything that is said here: a worker that is of another version is not let in.
VERSION = 3
# Bytes and messages of one page of a history: it takes about a millisecond to read.
PAGE_BYTES = 1 * MIB
PAGE_MESSAGES = 1000

# Bytes of a frame besides the largest message in it: the rest of a page that it ends, names, keys.
ROOM = 2 * MIB

KINDS = {kind.value: kind for kind in Kind}

# A publication in a history: epoch, offset, kind, payload, key, and how many seconds ago it was published.
Row = tuple[str, int, str, bytes, str | None, float]


def historyFields(history: History, now: float) -> tuple[Position, bool, list[Any], int]:
    """Return what a page of a history is sent as: position, whether it is whole, rows, and how many more there are.

    Args:
        history: of an engine of this process.
        now: by the clock of its publications.
    """
    rows: list[Any] = []
    size = 0
    for each in islice(history.publications, PAGE_MESSAGES):
        rows.append((each.epoch, each.offset, each.kind, each.payload, each.key, max(now - each.at, 0)))
        size += each.size
        if size >= PAGE_BYTES:
            break
    return history.position, history.recovered, rows, len(history.publications) - len(rows)


def publicationsOf(channel: str, rows: Iterable[Row], now: float) -> list[Publication]:
    """Return what was sent as rows.

    Args:
        channel: the channel.
        rows: of `historyFields`.
        now: by the clock of this process.
    """
    return [
        Publication(channel, epoch, offset, KINDS[kind], payload, key, now - age)
        for epoch, offset, kind, payload, key, age in rows
    ]


def membersFields(members: Members) -> tuple[list[Any], str | None, int]:
    """Return what a page of members is sent as."""
    # JSON is not msgpack: it travels as bytes.
    rows = [(each.user, bytes(each.info), each.connections) for each in members.members]
    return rows, members.next, members.subscribers


def membersOf(fields: tuple[list[Any], str | None, int]) -> Members:
    """Return what was sent as `membersFields`."""
    rows, after, subscribers = fields
    return Members([Member(user, msgspec.Raw(info), connections) for user, info, connections in rows], after, subscribers)


def commandOf(fields: dict[str, Any]) -> Command:
    """Return a command from its fields, as msgpack has them."""
    return msgspec.convert(fields, Disconnect | Unsubscribe)
