"""Who is connected: pages of callers over all servers, and one caller in detail."""

from __future__ import annotations

import re
from bisect import insort
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from twisted.internet.defer import Deferred

from twisted_ws.channels.visitor import Visitor
from twisted_ws.dispatch.largejson import hasMoreValues
from twisted_ws.inspection.asking import askAll
from twisted_ws.logs import printable
from twisted_ws.wire.loop.transports import carried, innermost

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
PAGE, ONE = "callers", "caller"
# Callers that are looked at before others have their turn, and what that costs in steps of `Turns`.
TOGETHER = 32
LOOKING = 24
# The steps of one that is in the page.
SHOWING = 8
# Characters of what clients have named themselves.
LONGEST = 256
# A cursor: a server, and the id of a connection.
CURSOR = r"[a-z0-9]{1,16}\.[a-z0-9]{1,16}\.[0-9]{1,15}"
_isCursor = re.compile(CURSOR).fullmatch
# Channels of one caller, and names of its claims and scopes, that are shown.
CHANNELS = 1000
CLAIMS = 100
# Values of a token whose claims are named; others are decoded by nobody who only wants to look.
VALUES = 1000


class Asked(Struct, frozen=True, omit_defaults=True):
    """Which callers are asked for.

    Attributes:
        user, peer, channel: how their user, address, or one of their channels begins.
        slow: only those for whom something waits.
        transport: only those of this one.
        node: the server after whose caller `after` the page begins; "" for the beginning.
        after: the id of that caller; "" for the beginning.
        limit: how many.
    """

    user: str = ""
    peer: str = ""
    channel: str = ""
    slow: bool = False
    transport: str = ""
    node: str = ""
    after: str = ""
    limit: int = 100


class Caller(Struct, omit_defaults=True):
    """One caller, as lists show it. Texts that clients have chosen are escaped and shortened."""

    id: str
    node: str
    user: str | None
    transport: str
    service: str | None
    peer: str
    since: float
    subscriptions: int
    waiting: int
    bytesReceived: int | UnsetType = UNSET
    bytesSent: int | UnsetType = UNSET


class CallerDetail(Caller, kw_only=True):
    """One caller with all that is known of it, but for what its credentials say."""

    channels: list[str]
    path: str
    origin: str | None
    agent: str | None
    secure: bool
    subProtocol: str | None
    authenticator: str | None
    claims: list[str]
    scopes: list[str]
    expires: float | None


class _Page(Struct):
    """The callers of one server: their ids, and each as JSON, or null if it has left meanwhile."""

    node: str
    total: int
    ids: list[str]
    callers: list[msgspec.Raw]


class _Head(Struct):
    """The same, if the callers do not matter."""

    node: str
    total: int


class Callers(Struct):
    """A page of callers of all servers."""

    callers: list[msgspec.Raw]
    next: str | None
    total: int
    missing: list[str]


_GONE = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode
_decodeAsked = msgspec.json.Decoder(Asked).decode
_decodePage = msgspec.json.Decoder(_Page).decode
_decodeHead = msgspec.json.Decoder(_Head).decode


# What one server answers.


def answerCallers(server: WebSocketServer) -> None:
    """Let all servers with the same engine ask this one for its callers."""
    server.node.answers[PAGE] = lambda payload: Deferred.fromCoroutine(_page(server, _decodeAsked(payload)))
    server.node.answers[ONE] = lambda payload: _one(server, payload.decode())


async def _page(server: WebSocketServer, asked: Asked) -> bytes:
    """Look at all callers, some in each turn of the reactor, and return those that are asked for."""
    people = [*server.callers, *server.channels.visitors]
    total = len(people)
    if asked.node and server.node.id < asked.node:
        return _encode(_Page(server.node.id, total, [], []))
    after = placeOf(asked.after) if server.node.id == asked.node else ("", 0)
    turns, most = server.runtime.turns, asked.limit + 1
    # The order in which they came is nearly that of their numbers, so most of these begin beyond the page and are not looked at.
    found: list[tuple[tuple[str, int], Any]] = []
    async for first in turns.through(range(0, total, TOGETHER), LOOKING):
        for each in people[first : first + TOGETHER]:
            place = placeOf(each.connectionId)
            if place <= after or (len(found) == most and place > found[-1][0]):
                continue
            if _fits(each, asked):
                insort(found, (place, each), key=_place)
                del found[most:]
    shown = []
    async for _, each in turns.through(found, SHOWING):
        isHere = find(server, each.connectionId) is each  # still: it may be at another process by now, which shows it, too
        shown.append(msgspec.Raw(_encode(describe(server, each))) if isHere else _GONE)
    return _encode(_Page(server.node.id, total, [each.connectionId for _, each in found], shown))


def _place(item: tuple[tuple[str, int], Any]) -> tuple[str, int]:
    return item[0]


def placeOf(connectionId: str) -> tuple[str, int]:
    """Return where a connection is in the order: those that have begun in the same process by their numbers."""
    process, _, number = connectionId.rpartition(".")
    return process, int(number or 0)


def _fits(each: Any, asked: Asked) -> bool:
    if asked.user and not (isinstance(each.user, str) and each.user.startswith(asked.user)):
        return False
    if asked.peer and not each.request.peerAddress.startswith(asked.peer):
        return False
    if asked.channel and not any(channel.startswith(asked.channel) for channel in each.channels):
        return False
    if asked.transport and transportOf(each) != asked.transport:
        return False
    return not asked.slow or waitingFor(each) > 0


def transportOf(each: Any) -> str:
    """Return how a caller or visitor is connected."""
    if not isinstance(each, Visitor):
        return "websocket"
    return "sse" if each._connection is not None else "poll"


def waitingFor(each: Any) -> int:
    """Return the bytes that a caller or visitor has not taken yet."""
    buffered = 0 if each._connection is None else each._connection.bufferedAmount()
    return buffered + getattr(each.membership, "waiting", 0)


def describe(server: WebSocketServer, each: Any) -> Caller:
    """Return a caller or visitor as lists show it."""
    return Caller(
        each.connectionId,
        server.node.id,
        userOf(each),
        transportOf(each),
        server.pathOf(each.request.target),
        each.request.peerAddress,
        each.since,
        len(each.channels),
        waitingFor(each),
        *_carriedBy(each._connection),
    )


def _carriedBy(connection: Any) -> tuple[int, int] | tuple[()]:
    """Return the bytes that have come from a caller or visitor, and those that it has got; nothing if nobody knows."""
    transport = getattr(connection, "transport", None)
    if not hasattr(innermost(transport), "fileno"):
        return ()  # a poll that waits, or a network in memory
    return carried(transport) or ()


def userOf(each: Any) -> str | None:
    """Return the user of a caller or visitor, safe to be shown; None without one."""
    return None if each.user is None else printable(each.user, LONGEST)


def find(server: WebSocketServer, connection: str) -> Any:
    """Return the caller or visitor with this id; None if it is not here."""
    found = [*server.callers.find(connection), *server.channels.visitors.find(connection)]
    return found[0] if found else None


def _one(server: WebSocketServer, connection: str) -> bytes:
    each = find(server, connection)
    if each is None:
        return b""
    request, identity = each.request, each.request.identity
    origin, agent = request.headers.get("origin"), request.headers.get("user-agent")
    detail = CallerDetail(
        **msgspec.structs.asdict(describe(server, each)),
        channels=list(each.channels[:CHANNELS]),
        path=printable(request.path, LONGEST),
        origin=None if origin is None else printable(origin, LONGEST),
        agent=None if agent is None else printable(agent, 200),
        secure=each.isSecure(),
        subProtocol=each.negotiatedSubProtocol,
        authenticator=None if identity is None or not identity.by else identity.by,
        claims=[] if identity is None else _claimsOf(identity.payload),
        scopes=[] if identity is None else [printable(scope, LONGEST) for scope in sorted(identity.scopes)[:CLAIMS]],
        expires=None if identity is None else identity.expiresAt,
    )
    return _encode(detail)


def _claimsOf(payload: bytes) -> list[str]:
    """Return the names of the claims of a token."""
    if not payload or hasMoreValues(payload, VALUES):
        return []
    try:
        claims = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except ValueError:
        return []
    return [printable(name, 100) for name in sorted(claims)[:CLAIMS]]


# What all servers together answer.


async def callers(server: WebSocketServer, asked: Asked) -> Callers:
    """Return a page of callers: by server, and for each in the order of their ids.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    answers = await askAll(server, PAGE, _encode(asked))
    turns = server.runtime.turns
    heads: list[tuple[str, int, bytes]] = []
    async for each in turns.through(answers.answers, LOOKING):
        head = _decodeHead(each)
        heads.append((head.node, head.total, each))
    found: dict[str, msgspec.Raw] = {}  # by id: one that goes from one process to another may be said by both
    last, isMore = "", False
    async for node, _, each in turns.through(sorted(heads), LOOKING):
        if isMore:
            break
        page, room = _decodePage(each), asked.limit - len(found)
        turns.spend(len(page.ids) // 4)
        found |= [each for each in zip(page.ids[:room], page.callers, strict=False) if each[1] != _GONE]
        isMore = len(page.ids) > room
        if page.ids[:room]:
            last = f"{node}.{page.ids[:room][-1]}"
    missing = answers.missing({node for node, _, _ in heads})
    return Callers([*found.values()], last if isMore and last else None, sum(total for _, total, _ in heads), missing)


async def caller(server: WebSocketServer, connection: str) -> msgspec.Raw | None:
    """Return one caller, as the JSON of a `CallerDetail`; None if no server has it.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    answers = await askAll(server, ONE, connection.encode("utf-8", "replace"))
    return msgspec.Raw(answers.answers[0]) if answers.answers else None


def cursorOf(text: str) -> tuple[str, str] | None:
    """Return the server and the connection that a cursor names, None if it is malformed; "" is the beginning."""
    if not text:
        return "", ""
    node, _, connection = text.partition(".")
    return (node, connection) if _isCursor(text) else None
