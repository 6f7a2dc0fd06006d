"""The operations of the HTTP API: one table, by which requests are routed and read, and the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct
from twisted.internet.defer import Deferred

from twisted_ws.channels.channels import Channels
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.dispatch.largejson import hasMoreValues
from twisted_ws.engines.contract import Description, Disconnect, Unsubscribe
from twisted_ws.errors import ChannelError
from twisted_ws.message import Message
from twisted_ws.names import checkName
from twisted_ws.web.api import schemas
from twisted_ws.web.channels.polling import Gathered
from twisted_ws.web.http.connection import REQUEST
from twisted_ws.web.http.content import idempotencyKey, messageOf

if TYPE_CHECKING:
    from twisted_ws.limits import Limits
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# The channels in one page, unless the request says otherwise.
CHANNELS = 100


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


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that the API can do.

    Attributes:
        method, path: of its requests; ``{channel}`` in the path is a channel's name.
        summary: what it does, for the document.
        run: does it, and returns an `answer`.
        answer: the content of a 200.
        query, body: what it takes; None for nothing.
        posts: whether its body is a message itself.
        check: refuses a body before it is decoded; None if decoding is little work, whatever the body has.
        errors: its statuses, besides those that any request can have.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[Any]]
    answer: type[Struct]
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
    published = await call.server.publish(call.channel, messageOf(call.request), key=_given(call.query.key), idempotencyKey=key)
    return schemas.Published(*published)


async def publish(call: Call) -> schemas.Published:
    """Publish one message."""
    return await _publish(call.server, call.body)


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
            results.append(await _publish(call.server, message))
        except ChannelError as error:
            results.append(schemas.Failed(error.code, error.message))
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
    entries = [_entry(each) for each in found[:limit]]
    return schemas.Channels(entries, entries[-1].channel if len(found) > limit else None)


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
    limit = _limit(call, call.server.limits.answerMessages)
    found = await call.channels.history(call.channel, call.query.after)
    gathered = Gathered(limit, call.server.limits)
    gathered.begin(call.channel, found.position, found.recovered, True)
    gathered.addAll([found.publications])
    messages = [msgspec.Raw(b"{" + fields + b"}") for fields in gathered.messages]
    return schemas.History(call.channel, gathered.place(True) or "", gathered.recovered, messages)


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
    command = Unsubscribe(_given(body.connection), _given(body.user), body.channel, body.reason or "unsubscribed")
    return schemas.Unsubscribed(await _ready(call.server.engine.command(command)))


async def nodes(call: Call) -> schemas.Nodes:
    """List the servers that work together."""
    found = await _ready(call.server.engine.nodes())
    return schemas.Nodes([schemas.Node(each.id, each.connections, int(each.started), each.version) for each in found])


OPERATIONS = (
    Operation(
        "POST",
        "/channels/{channel}",
        "Publish the body of the request: text, JSON or binary, by its Content-Type",
        post,
        schemas.Published,
        query=schemas.PostQuery,
        posts=True,
        errors=(409, 413, 415),
    ),
    Operation(
        "POST", "/api/publish", "Publish one message", publish, schemas.Published, body=schemas.Publish, errors=(409, 413, 415)
    ),
    Operation(
        "POST",
        "/api/batch",
        "Publish several messages, in order",
        batch,
        schemas.Results,
        body=schemas.Batch,
        check=checkBatch,
        errors=(413, 415),
    ),
    Operation("GET", "/api/channels", "List channels by name", listChannels, schemas.Channels, query=schemas.ListQuery),
    Operation("GET", "/api/channels/{channel}", "Describe a channel", describe, schemas.Described, errors=(404,)),
    Operation(
        "GET",
        "/api/channels/{channel}/history",
        "Read the history of a channel",
        history,
        schemas.History,
        query=schemas.HistoryQuery,
    ),
    Operation(
        "DELETE", "/api/channels/{channel}/history", "Forget the history of a channel", forget, schemas.Deleted, errors=(404,)
    ),
    Operation(
        "GET",
        "/api/channels/{channel}/presence",
        "Say who is on a channel",
        presence,
        schemas.PresenceList,
        query=schemas.PresenceQuery,
    ),
    Operation(
        "POST",
        "/api/disconnect",
        "End a connection, or all of a user's",
        disconnect,
        schemas.Disconnected,
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
        body=schemas.Unsubscribe,
        errors=(413, 415),
    ),
    Operation("GET", "/api/nodes", "List the servers that work together", nodes, schemas.Nodes),
)


async def _publish(server: WebSocketServer, message: schemas.BatchMessage) -> schemas.Published:
    published = await server.publish(
        message.channel, _encoded(message), key=_given(message.key), idempotencyKey=_given(message.idempotencyKey)
    )
    return schemas.Published(*published)


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
