"""The operations of the HTTP API: one table, by which requests are routed and read, and the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct
from twisted.internet.defer import Deferred

from twisted_ws.access.kinds.ticket import TicketAuthenticator
from twisted_ws.channels.channels import Channels
from twisted_ws.channels.page import Page
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.counts import API
from twisted_ws.dispatch.largejson import hasMoreValues
from twisted_ws.engines.contract import Description, Disconnect, Revocation, Unsubscribe
from twisted_ws.errors import ChannelError
from twisted_ws.message import Message
from twisted_ws.names import checkName
from twisted_ws.web.api import schemas
from twisted_ws.web.api.guard import lacks
from twisted_ws.web.channels.polling import Gathered
from twisted_ws.web.http.connection import REQUEST
from twisted_ws.web.http.content import idempotencyKey, messageOf

if TYPE_CHECKING:
    from twisted_ws.limits import Limits
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# The channels in one page, unless the request says otherwise.
CHANNELS = 100
# Seconds for which a revocation is kept, unless the request says otherwise: longer than most tokens live.
REVOKED_FOR = 24 * 3600


@dataclass(slots=True)
class Call:
    """One request of an operation, parsed.

    Attributes:
        server: the server.
        request: the request.
        channel: the channel in the path, unchecked; "" if there is none.
        query, body: as the operation takes them; None if it takes none.
    """

    server: WebSocketServer
    request: HttpRequest
    channel: str = ""
    query: Any = None
    body: Any = None

    @property
    def channels(self) -> Channels:
        """The server's channels."""
        return self.server.channels

    def require(self, scope: str, channel: str) -> None:
        """Refuse a call about a channel that the caller's key is not for.

        Raises:
            ChannelError: it is not.
        """
        if not self.request.by.scopes.allows(scope, channel):
            raise ChannelError("forbidden", lacks(scope))

    def count(self, channel: str) -> None:
        """Count a publication of the caller's key.

        Raises:
            ChannelError: there are too many.
        """
        if self.server.channelRules.rates is not None:
            checkName(channel, self.server.limits.channelName)
            self.server.channelRules.rates.checkKey(channel, self.request.by.name)


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that the API can do.

    Attributes:
        method, path: of its requests; ``{channel}`` in the path is a channel's name.
        summary: what it does, for the document.
        run: does it, and returns an `answer`.
        answer: the content of a 200.
        query, body: what it takes; None for nothing.
        scope: what whoever calls it must be allowed (see `Scopes`); a channel that is in the body is judged by
            `Call.require`.
        posts: whether its body is a message itself.
        check: refuses a body before it is decoded; None if decoding is little work, whatever the body has.
        errors: its statuses, besides those that any request can have.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[Any]]
    answer: type[Struct]
    scope: str
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    posts: bool = False
    check: Callable[[bytes, Limits], None] | None = None
    errors: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the document: the function's."""
        return self.run.__name__


async def post(call: Call) -> schemas.Published:
    """Publish the body."""
    checkName(call.channel, call.server.limits.channelName)
    key = idempotencyKey(call.request)
    call.count(call.channel)
    published = await call.server.publish(
        call.channel, messageOf(call.request), key=_given(call.query.key), idempotencyKey=key, source=API
    )
    return schemas.Published(*published)


async def publish(call: Call) -> schemas.Published:
    """Publish one message."""
    return await _publish(call, call.body)


async def batch(call: Call) -> schemas.Results:
    """Publish several messages, and let others have their turn in between."""
    messages, turns = call.body.messages, call.server.runtime.turns
    results: list[Any] = []
    share = turns.share()
    for message in messages:
        if turns.isOver(share):
            await turns.next()
            share = turns.share()
        turns.left -= REQUEST
        try:
            results.append(await _publish(call, message))
        except ChannelError as error:
            wait = UNSET if error.retryAfter is None else error.retryAfter
            results.append(schemas.Failed(error.code, error.message, wait))
    return schemas.Results(results)


def checkBatch(body: bytes, limits: Limits) -> None:
    """Refuse a batch of too many messages before each is made into an object."""
    most = limits.batchMessages
    # Each message is an object, and so is the batch; the messages themselves may have more.
    if body.count(b"{") > most + 1 and len(_anyBatch.decode(body).messages) > most:
        raise ChannelError("bad-request", f"A batch has at most {most} messages.")


def checkValues(body: bytes, limits: Limits) -> None:
    """Refuse a body of too many values, which might be made into objects before it turns out to be invalid."""
    if hasMoreValues(body, limits.jsonValues):
        raise ChannelError("too-large", f"The JSON has more than {limits.jsonValues} values.")


class _AnyBatch(Struct):
    messages: list[msgspec.Raw]


_anyBatch = msgspec.json.Decoder(_AnyBatch)


async def listChannels(call: Call) -> schemas.Channels:
    """Return a page of channels."""
    limit = _limit(call, CHANNELS)
    found = await call.channels.list(call.query.prefix, call.query.cursor, limit + 1)
    scopes = call.request.by.scopes
    entries = [_entry(each) for each in found[:limit] if scopes.allows("read", each.channel)]
    return schemas.Channels(entries, found[limit - 1].channel if len(found) > limit else None)


async def describe(call: Call) -> schemas.Described:
    """Return everything that is known of a channel."""
    found = await _find(call)
    oldest = None if found.oldest is None else str(found.oldest)
    entry = _entry(found)
    return schemas.Described(
        entry.channel,
        entry.id,
        entry.subscribers,
        schemas.Present(**await _ready(call.channels.who(call.channel))),
        schemas.Kept(found.messages, found.bytes, oldest),
    )


async def history(call: Call) -> schemas.History:
    """Return the history of a channel."""
    limits, query = call.server.limits, call.query
    limit = _limit(call, limits.answerMessages)
    if query.before is not UNSET:
        page = Page(limits, limit, limits.answerBytes)
        await page.read(call.channels, call.channel, query.before)
        return schemas.History(channel=call.channel, messages=_raw(page.messages), next=page.next)
    if query.last is not UNSET and query.after is UNSET:
        found = await call.channels.newest(call.channel, int(query.last))
    else:
        found = await call.channels.history(call.channel, "0" if query.after is UNSET else query.after)
    gathered = Gathered(limit, limits)
    gathered.begin(call.channel, found.position, found.recovered, True)
    gathered.addAll([found.publications])
    place, messages = gathered.place(True) or "", _raw(gathered.messages)
    return schemas.History(channel=call.channel, id=place, recovered=gathered.recovered, messages=messages)


async def forget(call: Call) -> schemas.Deleted:
    """Forget the history of a channel."""
    found = await _find(call)
    return schemas.Deleted(call.channel, str(found.position), await call.channels.forget(call.channel))


async def presence(call: Call) -> schemas.PresenceList:
    """Return who is on a channel."""
    checkName(call.channel, call.server.limits.channelName)
    room = AnswerBudget(call.server.limits)
    room.members = _limit(call, room.members)
    return schemas.PresenceList(call.channel, **await _ready(call.channels.who(call.channel, call.query.cursor, room)))


async def disconnect(call: Call) -> schemas.Disconnected:
    """End connections, also those that are subscribed to nothing."""
    body = call.body
    command = Disconnect(_given(body.connection), _given(body.user), int(body.code), body.reason or "disconnected")
    return schemas.Disconnected(await _ready(call.server.engine.command(command)))


async def unsubscribe(call: Call) -> schemas.Unsubscribed:
    """End subscriptions."""
    body = call.body
    checkName(body.channel, call.server.limits.channelName)
    call.require("unsubscribe", body.channel)
    command = Unsubscribe(_given(body.connection), _given(body.user), body.channel, body.reason or "unsubscribed")
    return schemas.Unsubscribed(await _ready(call.server.engine.command(command)))


async def ticket(call: Call) -> schemas.Ticket:
    """Make a ticket, with which a client can open one connection."""
    body = call.body
    issuers = {name: each for name, each in call.server.authenticators.items() if isinstance(each, TicketAuthenticator)}
    name = next(iter(issuers), "") if body.authenticator is UNSET else body.authenticator
    if name not in issuers:
        raise ChannelError("not-found", "There is no such authenticator of the type ticket.")
    granted = schemas.Granted() if body.grants is UNSET else body.grants
    made, seconds = issuers[name].issue(
        body.user,
        subscribe=granted.subscribe,
        publish=granted.publish,
        info=_given(body.info),
        scopes=body.scopes,
        expires=_given(body.expires),
    )
    return schemas.Ticket(made, seconds)


async def nodes(call: Call) -> schemas.Nodes:
    """List the servers that work together."""
    found = await _ready(call.server.engine.nodes())
    return schemas.Nodes([schemas.Node(each.id, each.connections, int(each.started), each.version) for each in found])


async def revoke(call: Call) -> schemas.Revoked:
    """Accept credentials no more, and end the connections that came with them."""
    body, now = call.body, call.server.runtime.unixTime()
    token, user = _given(body.token), _given(body.user)
    before = now if body.issuedBefore is UNSET else float(body.issuedBefore)
    until = now + REVOKED_FOR if body.until is UNSET else float(body.until)
    await _ready(call.server.engine.revoke(Revocation(token, user, before if user is not None else 0.0, until)))
    return schemas.Revoked(until)


OPERATIONS = (
    Operation(
        "POST",
        "/channels/{channel}",
        "Publish the body of the request: text, JSON or binary, by its Content-Type",
        post,
        schemas.Published,
        "publish",
        query=schemas.PostQuery,
        posts=True,
        errors=(409, 413, 415),
    ),
    Operation(
        "POST",
        "/api/publish",
        "Publish one message",
        publish,
        schemas.Published,
        "publish",
        body=schemas.Publish,
        errors=(409, 413, 415),
    ),
    Operation(
        "POST",
        "/api/batch",
        "Publish several messages, in order",
        batch,
        schemas.Results,
        "publish",
        body=schemas.Batch,
        check=checkBatch,
        errors=(413, 415),
    ),
    Operation("GET", "/api/channels", "List channels by name", listChannels, schemas.Channels, "read", query=schemas.ListQuery),
    Operation("GET", "/api/channels/{channel}", "Describe a channel", describe, schemas.Described, "read", errors=(404,)),
    Operation(
        "GET",
        "/api/channels/{channel}/history",
        "Read the history of a channel",
        history,
        schemas.History,
        "read",
        query=schemas.HistoryQuery,
    ),
    Operation(
        "DELETE",
        "/api/channels/{channel}/history",
        "Forget the history of a channel",
        forget,
        schemas.Deleted,
        "delete",
        errors=(404,),
    ),
    Operation(
        "GET",
        "/api/channels/{channel}/presence",
        "Say who is on a channel",
        presence,
        schemas.PresenceList,
        "read",
        query=schemas.PresenceQuery,
    ),
    Operation(
        "POST",
        "/api/disconnect",
        "End a connection, or all of a user's",
        disconnect,
        schemas.Disconnected,
        "disconnect",
        body=schemas.Disconnect,
        check=checkValues,
        errors=(413, 415),
    ),
    Operation(
        "POST",
        "/api/unsubscribe",
        "End the subscription of a connection, or of all of a user's",
        unsubscribe,
        schemas.Unsubscribed,
        "unsubscribe",
        body=schemas.Unsubscribe,
        errors=(413, 415),
    ),
    Operation("GET", "/api/nodes", "List the servers that work together", nodes, schemas.Nodes, "metrics"),
    Operation(
        "POST",
        "/api/revoke",
        "Accept a token, or a user's tokens of before now, no more, and end the connections that came with them",
        revoke,
        schemas.Revoked,
        "revoke",
        body=schemas.Revoke,
        errors=(413, 415),
    ),
    Operation(
        "POST",
        "/api/tickets",
        "Make a ticket, with which a client can open one connection",
        ticket,
        schemas.Ticket,
        "tickets",
        body=schemas.TicketRequest,
        check=checkValues,
        errors=(404, 413, 415),
    ),
)


async def _publish(call: Call, message: schemas.BatchMessage) -> schemas.Published:
    call.require("publish", message.channel)
    call.count(message.channel)
    published = await call.server.publish(
        message.channel, _encoded(message), key=_given(message.key), idempotencyKey=_given(message.idempotencyKey), source=API
    )
    return schemas.Published(*published)


def _raw(messages: Iterable[bytes]) -> list[msgspec.Raw]:
    """Return messages, given as JSON fields, as they are sent."""
    return [msgspec.Raw(b"{" + fields + b"}") for fields in messages]


def _encoded(message: schemas.BatchMessage) -> Message:
    """Return a message as it is published.

    Raises:
        ChannelError: invalid base64, or data that is not UTF-8.
    """
    if isinstance(message.base64, str):
        return Message.ofBase64(message.base64)
    data = bytes(message.data)  # type: ignore[arg-type]
    if not data.isascii():
        try:
            data.decode()  # which msgspec leaves to the code that makes texts of it
        except UnicodeDecodeError:
            raise ChannelError("bad-request", "The data is not valid UTF-8.") from None
    return Message.ofData(data)


async def _find(call: Call) -> Description:
    found = await call.channels.describe(call.channel)
    if found is None:
        raise ChannelError("not-found", "There is no such channel.")
    return found


async def _ready(answer: Any) -> Any:
    """Return what an engine answers, now or later."""
    return await answer if isinstance(answer, Deferred) else answer


def _entry(found: Description) -> schemas.Channel:
    return schemas.Channel(found.channel, str(found.position), found.subscribers)


def _limit(call: Call, default: int) -> int:
    most = call.server.limits.answerMessages
    limit = min(default, most) if call.query.limit is UNSET else int(call.query.limit)
    if limit > most:
        raise ChannelError("bad-request", f"limit must be 1 to {most}.")
    return limit


def _given(value: Any) -> Any:
    return None if value is UNSET else value
