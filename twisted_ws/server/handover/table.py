"""The table of states: what becomes of each piece of state of one connection that goes on in another process.

Whoever adds a slot or an attribute to one of these classes decides here what becomes of it; a test fails until that is done. What
moves is carried by `twisted_ws.server.handover.states`, whose VERSION changes with it.
"""

from __future__ import annotations

from typing import Any

from twisted_ws.access.lifetime import Lifetime, Term
from twisted_ws.caller import Caller
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.channels.subscribers.websocket import JsonSubscriber, RawSubscriber
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.identity import Identity
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.rate import Rate
from twisted_ws.wire.speedups.pure import Sender
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.keepalive import KeepAlive
from twisted_ws.wire.websocket.outbox import Outbox

# It is carried, in whatever form.
MOVES = "moves"
# It is made again there: it follows from what moves, or from the process, or counts from zero.
ANEW = "anew"
# While it is set or not empty, the connection waits; at the end of the time it is closed with 1012.
WAITS = "waits"
# With it, a connection never goes on elsewhere.
STAYS = "stays"


def rows(**fates: str) -> dict[str, str]:
    """Return the fates by name; each argument is a fate, with the names that have it."""
    return {name: fate for fate, names in fates.items() for name in names.split()}


TABLE: dict[type[Any], dict[str, str]] = {
    WebSocketConnection: rows(
        moves="_admittedAs _keepAlive _unread _controlRate _messageRate _outbox _perMessageCompress",
        anew="_welcome connected transport _receiver _state _idleTimeout wheelSlot _deliver _lane sender _heard sharedRate "
        "runtime counted _kept _hasLeft _lostFrom _reminder _pauses utf8validator _closing _failure _peersClose "
        # Of a message that is not there between two.
        "_deflated current_frame_masker _isMessageCompressed utf8validateIncomingCurrentMessage utf8validateLast "
        "message_is_binary message_data_total_length control_frame_data",
        waits="_rest data current_frame inside_message _message _unhandled _closeWaiters _whenEased _makeRoom",
    ),
    LaneServer: rows(
        moves="descriptor _tempDataBuffer _tempDataLen dataBuffer offset",
        anew="reactor protocol server client _addressType sessionno sender connected producer streamingProducer disconnected "
        "_socket _closed",
        waits="disconnecting _aborting",
    ),
    Sender: rows(moves="_frame _sent lastData", anew="handle open waiting begun written", stays="secure"),
    Outbox: rows(
        moves="_control _messages _partial _pong written",
        anew="_backlog _cap _ease _give _gone _held _inFlight _kept _socket _wheel busy charges counted isAwaited owner "
        "progressAt sender size _waiters",  # Deferreds of frames fail: nobody can tell what becomes of them
        waits="_pumping _ended",
    ),
    KeepAlive: rows(moves="_ahead _count _ping dueAt payload"),
    Rate: rows(moves="_begin _count _unread"),
    Dispatcher: rows(
        anew="_callers _connection _handlers _leaving _limits _onBinary _onText _opened _runtime _service caller",
        waits="_closedWith _draining _grace _idling _iterations _queue _running",
    ),
    Caller: rows(
        moves="_attributes _user connectionId life membership negotiatedSubProtocol request since",
        anew="__weakref__ _connection _place _registry",
    ),
    UpgradeRequest: rows(
        moves="_headers identity isProxied isSecure path peerAddress peerPort subProtocols target user",
        anew="bearer pathParams pathRest",  # of the path at which its service is mounted there
        stays="clientCertificate",
    ),
    Identity: rows(moves="user subscribe publish scopes info expiresAt issuedAt tokenId by isAmbient payload", anew="_size"),
    Lifetime: rows(moves="_terms", anew="_connection _expire _expiresAt _isWarned _lapse _seconds _unixTime _warn"),
    Term: rows(moves="until mayPublish tokenId"),
    Subscriber: rows(moves="channels", anew="caller gone"),
    BufferedSubscriber: rows(
        moves="held", anew="_channels _connection _patterns _service sender", waits="_easing _goesOn _isPumping _mailbox"
    ),
    RawSubscriber: rows(anew="_resuming"),
    JsonSubscriber: rows(waits="_asked _line"),
}
