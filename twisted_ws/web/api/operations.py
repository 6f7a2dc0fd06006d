"""The operations of the HTTP API: one table, by which requests are routed and read, and the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from twisted_ws.access.kinds.ticket import TicketAuthenticator
from twisted_ws.channels.page import Page
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.dispatch.largejson import hasMoreValues
from twisted_ws.engines.contract import Description, Disconnect, Revocation, Unsubscribe
from twisted_ws.errors import ChannelError
from twisted_ws.inspection import channels
from twisted_ws.inspection.asking import ready
from twisted_ws.message import Message, parsePosition
from twisted_ws.names import checkName
from twisted_ws.telemetry.counts import API
from twisted_ws.web.api import schemas
from twisted_ws.web.api.inspecting import INSPECTIONS
from twisted_ws.web.api.operation import Call, Operation, given, limit
from twisted_ws.web.channels.polling import Gathered
from twisted_ws.web.http.connection import REQUEST
from twisted_ws.web.http.content import idempotencyKey, messageOf

if TYPE_CHECKING:
    from twisted_ws.limits import Limits

# The channels in one page, unless the request says otherwise.
CHANNELS = 100
# Seconds for which a revocation is kept, unless the request says otherwise: longer than most tokens live.
REVOKED_FOR = 24 * 3600


async def post(call: Call) -> schemas.Published:
    """Publish the body."""
    checkName(call.channel, call.server.limits.channelName)
    key = idempotencyKey(call.request)
    call.count(call.channel)
    published = await call.server.publish(
        call.channel, messageOf(call.request), key=given(call.query.key), idempotencyKey=key, source=API
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
    most, query, scopes = limit(call, CHANNELS), call.query, call.request.by.scopes
    if query.order == channels.NAME:
        found = await call.channels.list(query.prefix, query.cursor, most + 1)
        following = found[most - 1].channel if len(found) > most else None
        found = [each for each in found[:most] if scopes.allows("read", each.channel)]
    else:
        found, following = await channels.largest(
            call.server, query.prefix, query.order, query.cursor, most, lambda name: scopes.allows("read", name)
        )
    return schemas.Channels([_listed(each) for each in found], following)


async def describe(call: Call) -> schemas.Described:
    """Return everything that is known of a channel."""
    found = await _find(call)
    oldest = None if found.oldest is None else str(found.oldest)
    entry = _entry(found)
    return schemas.Described(
        entry.channel,
        entry.id,
        entry.subscribers,
        schemas.Present(**await ready(call.channels.who(call.channel))),
        schemas.Kept(found.messages, found.bytes, oldest),
    )


async def history(call: Call) -> schemas.History:
    """Return the history of a channel."""
    limits, query = call.server.limits, call.query
    most = limit(call, limits.answerMessages)
    if query.after is not UNSET:
        parsePosition(query.after)  # also where it does not count
    if query.before is not UNSET:
        page = Page(limits, most, limits.answerBytes)
        await page.read(call.channels, call.channel, query.before)
        return schemas.History(channel=call.channel, messages=_raw(page.messages), next=page.next)
    if query.last is not UNSET and query.after is UNSET:
        found = await call.channels.newest(call.channel, int(query.last))
    else:
        found = await call.channels.history(call.channel, "0" if query.after is UNSET else query.after)
    gathered = Gathered(most, limits)
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
    room.members = limit(call, room.members)
    return schemas.PresenceList(call.channel, **await ready(call.channels.who(call.channel, call.query.cursor, room)))


async def disconnect(call: Call) -> schemas.Disconnected:
    """End connections, also those that are subscribed to nothing."""
    body = call.body
    command = Disconnect(given(body.connection), given(body.user), int(body.code), body.reason or "disconnected")
    return schemas.Disconnected(await ready(call.server.engine.command(command)))


async def unsubscribe(call: Call) -> schemas.Unsubscribed:
    """End subscriptions."""
    body = call.body
    checkName(body.channel, call.server.limits.channelName)
    call.require("unsubscribe", body.channel)
    command = Unsubscribe(given(body.connection), given(body.user), body.channel, body.reason or "unsubscribed")
    return schemas.Unsubscribed(await ready(call.server.engine.command(command)))


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
        info=given(body.info),
        scopes=body.scopes,
        expires=given(body.expires),
    )
    return schemas.Ticket(made, seconds)


async def revoke(call: Call) -> schemas.Revoked:
    """Accept credentials no more, and end the connections that came with them."""
    body, now = call.body, call.server.runtime.unixTime()
    token, user = given(body.token), given(body.user)
    before = now if body.issuedBefore is UNSET else float(body.issuedBefore)
    until = now + REVOKED_FOR if body.until is UNSET else float(body.until)
    await ready(call.server.engine.revoke(Revocation(token, user, before if user is not None else 0.0, until)))
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
    Operation(
        "POST",
        "/api/revoke",
        "Stop accepting a token, or all earlier tokens of a user, and close the connections that came with them",
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
    *INSPECTIONS,
)


async def _publish(call: Call, message: schemas.BatchMessage) -> schemas.Published:
    call.require("publish", message.channel)
    call.count(message.channel)
    published = await call.server.publish(
        message.channel, _encoded(message), key=given(message.key), idempotencyKey=given(message.idempotencyKey), source=API
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


def _entry(found: Description) -> schemas.Channel:
    return schemas.Channel(found.channel, str(found.position), found.subscribers)


def _listed(found: Description) -> schemas.ListedChannel:
    return schemas.ListedChannel(found.channel, str(found.position), found.subscribers, found.messages, found.bytes)
