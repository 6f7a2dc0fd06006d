"""The move of an open connection to another process: what its state is there, and what must not be true for it to move.

A connection moves between two messages. What the kernel has of it, in both directions, is the socket's and moves with that.
`depart` takes the rest and forgets the connection without a word to its peer; `arrive` makes another one of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec
from twisted.internet import tcp, unix

from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.rate import Rate
from twisted_ws.wire.loop.transports import hasTLS
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.deflate import Deflate
from twisted_ws.wire.websocket.keepalive import KeepAlive
from twisted_ws.wire.websocket.outbox import Outbox
from twisted_ws.wire.websocket.receiver import ENDED, EventReceiver
from twisted_ws.wire.websocket.runtime import Runtime
from twisted_ws.wire.websocket.states import CLOSED, CONNECTING, OPEN, OPENED

# Seconds between departure and arrival for which a peer is excused at most, whatever the other process says.
LONGEST = 60.0


class Obstacle(Enum):
    """Why a connection does not move."""

    # For now: it may be gone in a moment.
    LEAVING = "it is closing"
    MIDDLE = "it is in the middle of a message"
    HANDLER = "a handler runs"
    WAITS = "messages wait for it"
    # For good.
    TLS = "it has TLS here"
    CONTEXT = "its compression keeps a context"
    TRANSPORT = "its transport cannot be passed on"
    SERVICE = "its service does not say that it can go on elsewhere"
    STATE = "its state cannot be passed on"

    @property
    def passes(self) -> bool:
        """Whether it is worth to wait."""
        return self in _PASSING


_PASSING = frozenset((Obstacle.LEAVING, Obstacle.MIDDLE, Obstacle.HANDLER, Obstacle.WAITS))


class ConnectionState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of a connection; times are seconds from its departure.

    Attributes:
        admittedAs: the address that the gate counted; "" for none.
        deflate: see `Deflate.settings`; None without compression.
        outbox: the bytes that the kernel has not taken; they may begin in the middle of a frame.
        written: the messages and control frames that the service has written.
        keepAlive: see `KeepAlive.departing`; None without pings.
        silence: seconds since a data frame came or went.
        unread: seconds in which nothing was read, in total.
        controlRate, messageRate: see `Rate.departing`; None if nothing was counted.
    """

    admittedAs: str
    deflate: tuple[int, int] | None
    outbox: bytes
    written: int
    keepAlive: tuple[float, bytes | None, int, int, tuple[int, int] | None] | None
    silence: float
    unread: float
    controlRate: tuple[float, float, float] | None
    messageRate: tuple[float, float, float] | None


def obstacle(connection: WebSocketConnection) -> Obstacle | None:
    """Return why a connection does not move now; None if it can."""
    transport: Any = connection.transport
    if connection._state is not OPEN or transport is None:
        return Obstacle.LEAVING
    found = transportObstacle(transport)
    if found is not None and not found.passes:
        return found
    deflate = connection._perMessageCompress
    if deflate is not None and deflate.settings() is None:
        return Obstacle.CONTEXT
    if found is not None:
        return found
    isBetween = connection.current_frame is None and not connection.inside_message and not connection.data
    if connection._rest is not None or connection._message is not None or not isBetween or connection._isTaking():
        return Obstacle.MIDDLE
    if connection._unhandled or connection._closeWaiters:
        return Obstacle.HANDLER
    # In the middle of a call of its own, which a finaliser has interrupted.
    return Obstacle.WAITS if connection._outbox.isWriting else None


def transportObstacle(transport: Any) -> Obstacle | None:
    """Return why a transport cannot be passed on; None if it can."""
    if hasTLS(transport) or getattr(transport, "isSecure", False):
        return Obstacle.TLS
    if not isinstance(transport, (tcp.Server, unix.Server)) and not hasattr(transport, "release"):
        return Obstacle.TRANSPORT
    if getattr(transport, "disconnecting", False) or not getattr(transport, "connected", True):
        return Obstacle.LEAVING
    return None


def depart(connection: WebSocketConnection) -> tuple[ConnectionState, Any]:
    """Forget a connection that has no `obstacle`; return its state, and its socket, which is the caller's from now on.

    Returns:
        The socket is a descriptor; for a transport in memory, it is that transport.
    """
    runtime, wheel = connection.runtime, connection.runtime.wheel
    now, real = wheel.seconds(), runtime.reactor.seconds()
    transport: Any = connection.transport
    deflate, keepAlive = connection._perMessageCompress, connection._keepAlive
    rates = [None if each is None else each.departing(real) for each in (connection._controlRate, connection._messageRate)]
    silence, written = now - connection.sender.lastData, connection.activity()
    unread = wheel.missedUntil(real) + connection._notRead(real)
    connection._state = CLOSED
    connection._hasLeft = True
    connection._setLane()
    wheel.drop(connection)
    gone = ConnectionClosed()
    outbox, unsent = connection._outbox, unsentOf(transport)
    admittedAs, connection._admittedAs = connection._admittedAs, None
    if admittedAs is not None:
        runtime.gate.release(admittedAs)
    connection._kept = connection._unhandled = 0
    connection._note()
    connection._receiver, connection._deliver = ENDED, ENDED.messageReceived
    connection._reminder = connection._whenEased = connection._makeRoom = None
    left = release(transport)
    state = ConnectionState(
        admittedAs or "",
        None if deflate is None else deflate.settings(),
        outbox.depart(unsent, gone),
        written,
        None if keepAlive is None else keepAlive.departing(now),
        silence,
        unread,
        *rates,
    )
    return state, left


def unsentOf(transport: Any) -> bytes:
    """Return what a transport has that the kernel has not."""
    if not isinstance(transport, tcp.Connection):
        return b""  # in memory, it stays there
    return b"".join([transport.dataBuffer[transport.offset :], *transport._tempDataBuffer])


def release(transport: Any) -> Any:
    """Give up a transport without ending its connection; return the socket."""
    if hasattr(transport, "release"):
        return transport.release()
    transport.stopReading()
    transport.stopWriting()
    transport.disconnected, transport.connected = 1, 0
    transport.producer = transport.protocol = None
    descriptor = transport.socket.detach()
    del transport.socket
    return descriptor


class Welcomed(msgspec.Struct, frozen=True):
    """Who takes a connection that arrives.

    Attributes:
        receiver: makes the receiver of its events.
        idleTimeout: the service's, seconds; 0: none.
    """

    receiver: Callable[[WebSocketConnection], EventReceiver]
    idleTimeout: float


def arrive(connection: WebSocketConnection, state: ConnectionState, welcomed: Welcomed, transit: float) -> None:
    """Go on with a connection that has left elsewhere; its transport is set, and nothing was read or written yet.

    The receiver is not told: whoever calls this does so, and then calls `begin`.

    Args:
        connection: a new one.
        state: what `depart` has returned.
        welcomed: who takes it.
        transit: seconds since its departure.
    """
    runtime, wheel, limits = connection.runtime, connection.runtime.wheel, connection.limits
    transit = min(max(transit, 0.0), LONGEST)
    now, missed = wheel.secondsAndMissed()
    real = runtime.reactor.seconds()
    connection._state = CONNECTING
    connection._welcome = None
    runtime.gate.readmit(state.admittedAs)
    if state.deflate is not None:
        connection._perMessageCompress = Deflate.resumed(*state.deflate)  # type: ignore[assignment]  # as Autobahn has it
    connection._receiver = welcomed.receiver(connection)
    connection._deliver = connection._delivery()
    connection._idleTimeout = welcomed.idleTimeout
    connection._unread = state.unread + transit - missed
    if state.controlRate is not None:
        connection._controlRate = Rate.arrived(real, *state.controlRate)
    if state.messageRate is not None:
        connection._messageRate = Rate.arrived(real, *state.messageRate)
    if limits.pingInterval:
        ping = state.keepAlive
        connection._keepAlive = KeepAlive(now, limits.pingInterval) if ping is None else KeepAlive.arrived(now, *ping)
    transport = connection.transport
    connection._lane = transport if isinstance(transport, LaneServer) else None
    connection._outbox = Outbox(connection, transport, wheel, runtime.backlog, limits.maxSendBuffer, limits.replyBuffer)
    connection._outbox.written = state.written
    connection.sender = connection._outbox.sender
    connection.sender.lastData = now - state.silence
    connection._state = OPENED[CONNECTING]
    connection.sender.open = (
        connection._lane is not None and connection._lane.sender is not None and connection._perMessageCompress is None
    )
    wheel.set(connection, connection._nextDeadline(now))
    connection._outbox.arrive(state.outbox)
    connection._pauseForReplies()


def begin(connection: WebSocketConnection) -> None:
    """Let messages come, once the receiver knows the connection."""
    if connection._rest is None and connection._state is OPEN:
        connection._setLane()


def attach(connection: Any, runtime: Runtime, descriptor: int) -> None:
    """Give a protocol the transport of a socket that another process had; the descriptor is the transport's from now on.

    If its peer has gone meanwhile, that transport ends at once: whoever has the connection is told so, as always.

    Raises:
        OSError: there are no descriptors; this one is closed.
    """
    own = socket.socket(fileno=descriptor)
    try:
        family, peer = own.family, own.getpeername()
        host = own.getsockname()
    except OSError:
        own.close()
        own, other = socket.socketpair()
        other.close()
        descriptor, family, peer, host = own.fileno(), own.family, "", ""
    own.setblocking(False)
    own.set_inheritable(False)
    reactor = runtime.reactor
    if runtime.group is not None and family in (socket.AF_INET, socket.AF_INET6):
        own.detach()
        if len(peer) == 4 and peer[3]:
            peer = (socket.getnameinfo(peer, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0], *peer[1:])
        transport: Any = LaneServer(descriptor, connection, peer, _Port(host[1]), 0, runtime.group)
        connection.makeConnection(transport)
        return
    with own:  # the reactor takes a copy
        reactor.adoptStreamConnection(descriptor, family, _Factory(connection))


class _Port:
    """Stands for the port that has accepted a connection elsewhere."""

    def __init__(self, number: int) -> None:
        self._realPortNumber = number


class _Factory:
    """Gives a connection that is there already to the reactor."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def buildProtocol(self, address: object) -> Any:
        """Return it."""
        return self._connection
