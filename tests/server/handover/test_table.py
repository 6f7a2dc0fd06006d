from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap

import pytest

from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.server.handover.departure import _KINDS
from twisted_ws.server.handover.table import ANEW, MOVES, STAYS, TABLE, WAITS
from twisted_ws.web.channels.moving import _NAMES as STREAM_NAMES
from twisted_ws.web.channels.moving import TABLE as STREAMS
from twisted_ws.web.channels.stream import EventStream
from twisted_ws.wire.lane.transport import LANE_NAMES, LaneServer
from twisted_ws.wire.websocket.autobahn import QuietServerProtocol
from twisted_ws.wire.websocket.base import BaseConnection
from twisted_ws.wire.websocket.connection import _NAMES, WebSocketConnection

# Classes without slots, with the bases that are ours, and the names that others set.
OPEN = {
    WebSocketConnection: ((WebSocketConnection, BaseConnection, QuietServerProtocol), _NAMES),
    LaneServer: ((LaneServer,), LANE_NAMES),
    EventStream: ((EventStream,), ()),
}


def assigned(kind):
    """Return the attributes that the methods of a class set on their object."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def stateOf(kind):
    """Return the names of all state that an object of a class has, without that of bases that are in the table themselves."""
    if kind in OPEN:
        bases, names = OPEN[kind]
        return {*names, *(name for each in bases for name in assigned(each))}
    if dataclasses.is_dataclass(kind):
        return {each.name for each in dataclasses.fields(kind)}
    return {*getattr(kind, "_fields", kind.__dict__.get("__slots__", ()))}


@pytest.mark.parametrize("kind", [*TABLE, *STREAMS], ids=lambda kind: kind.__name__)
def test_everything(kind):
    """The table of states names each piece of state of a connection: whoever adds one says what becomes of it at a hand-over."""
    known = TABLE[kind] if kind in TABLE else STREAMS[kind]
    present = stateOf(kind)
    assert present - known.keys() == set()
    assert {*known.values()} <= {MOVES, ANEW, WAITS, STAYS}
    # Class attributes and those of Autobahn are named, too; but nothing that is gone.
    assert {name for name in known if name not in present and not hasattr(kind, name)} <= {"_perMessageCompress", "_aborting"}


def test_subscribers():
    """Each kind of subscriber with a connection can go on, and is in the table."""
    kinds, new = {BufferedSubscriber}, {BufferedSubscriber}
    while new:
        new = {each for kind in new for each in kind.__subclasses__() if each.__module__.startswith("twisted_ws.")}
        kinds |= new
    assert kinds == set(_KINDS) | set(STREAM_NAMES)
    assert kinds <= set(TABLE) | set(STREAMS)
