"""The operations that show a server to whoever watches it, over all servers that work together."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from twisted_ws.access.publishers.scopes import WATCH
from twisted_ws.errors import ChannelError
from twisted_ws.identity import Grants
from twisted_ws.inspection import explaining, tails
from twisted_ws.inspection.board import UNWATCHED
from twisted_ws.inspection.callers import Asked, callers, cursorOf
from twisted_ws.inspection.callers import caller as findCaller
from twisted_ws.inspection.nodes import nodes as findNodes
from twisted_ws.inspection.settings import certificatesOf
from twisted_ws.names import checkNameOrPattern, isPattern
from twisted_ws.web.api import schemas
from twisted_ws.web.api.operation import Call, Operation, limit

# The callers in one page, unless the request says otherwise.
CALLERS = 100


async def listCallers(call: Call) -> schemas.Callers:
    """Return a page of callers."""
    query, place = call.query, cursorOf(call.query.cursor)
    if place is None:
        raise ChannelError("bad-request", "cursor must be the next of an earlier answer.")
    asked = Asked(query.user, query.peer, query.channel, query.slow, query.transport, *place, limit(call, CALLERS))
    found = await callers(call.server, asked)
    return schemas.Callers(found.callers, found.next, found.total, found.missing)


async def caller(call: Call) -> msgspec.Raw:
    """Return one caller."""
    found = await findCaller(call.server, call.part)
    if found is None:
        raise ChannelError("not-found", "There is no such connection.")
    return found


async def explain(call: Call) -> schemas.Explained:
    """Say whether somebody may do something with a channel, and why."""
    query = call.query
    channel = checkNameOrPattern(query.channel, call.server.limits.channelName)
    grants = tuple(query.grants.split())
    Grants(grants)  # refuses what is not a name
    if isPattern(channel) and query.action != "subscribe":
        return schemas.Explained(False, [schemas.Step("a pattern is for subscriptions")], None)
    asked = explaining.Asked(
        query.action, channel, query.connection, query.user, tuple(query.scopes.split()), grants, query.service
    )
    found = await explaining.explainAnywhere(call.server, asked)
    if found is None:
        raise ChannelError("not-found", "There is no such connection, or no such service of channels.")
    steps = [schemas.Step(step.text, *await call.inspector.placeOf(step.key)) for step in found.steps]
    return schemas.Explained(found.allowed, steps, found.note)


async def nodes(call: Call) -> schemas.Nodes:
    """List the servers that work together."""
    return schemas.Nodes(await findNodes(call.server))


async def settings(call: Call) -> schemas.Settings:
    """Return the settings in force."""
    found = call.inspector.settings()
    found.certificates = await certificatesOf(call.server)
    return found


async def startTail(call: Call) -> schemas.Tail:
    """Begin to follow something."""
    body = call.body
    kind = next(each for each in body.choice if getattr(body, each) is not UNSET)
    name = getattr(body, kind)
    if kind == tails.CHANNEL:
        checkNameOrPattern(name, call.server.limits.channelName)
        call.require("read", name)
    else:
        call.require("admin", None)
    tail = await call.inspector.board.follow(kind, name, call.request.by.name)
    return schemas.Tail(tail.channel, UNWATCHED)


async def endTail(call: Call) -> schemas.Ended:
    """End a tail."""
    board = call.inspector.board
    number = int(call.part) if call.part.isascii() and call.part.isdigit() and len(call.part) <= 15 else 0
    tail = board.tails.get(number)
    if tail is None:
        raise ChannelError("not-found", "There is no such tail.")
    if tail.kind == tails.CHANNEL:
        call.require("read", tail.name)
    else:
        call.require("admin", None)
    return schemas.Ended(board.end(number, "It was ended."))


INSPECTIONS = (
    Operation("GET", "/api/callers", "List who is connected", listCallers, schemas.Callers, WATCH, query=schemas.CallersQuery),
    Operation("GET", "/api/callers/{connection}", "Describe one caller", caller, schemas.CallerDetail, WATCH, errors=(404,)),
    Operation(
        "GET",
        "/api/explain",
        "Say whether somebody may do something with a channel, and why",
        explain,
        schemas.Explained,
        WATCH,
        query=schemas.ExplainQuery,
        errors=(404,),
    ),
    Operation("GET", "/api/nodes", "List the servers that work together", nodes, schemas.Nodes, "metrics"),
    Operation("GET", "/api/settings", "List the settings in force", settings, schemas.Settings, WATCH),
    Operation(
        "POST",
        "/api/tails",
        "Follow a channel, a caller or a user",
        startTail,
        schemas.Tail,
        "read",
        body=schemas.TailRequest,
        errors=(413, 415),
    ),
    Operation("DELETE", "/api/tails/{tail}", "End a tail", endTail, schemas.Ended, "read", errors=(404,)),
)
