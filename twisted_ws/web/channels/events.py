"""Server-sent events: the messages of channels as ``text/event-stream`` (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from twisted_ws.access.lifetime import Lifetime
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.channels.subscribers.buffered import LAPSED, BufferedSubscriber
from twisted_ws.channels.subscribers.formats import Format, jsonParts
from twisted_ws.channels.subscribers.subprotocol import notice, startFields
from twisted_ws.engines.replay import Replay
from twisted_ws.errors import ChannelError
from twisted_ws.message import Cursor, Kind, Publication, Start, parseAfter, parseLast
from twisted_ws.names import isPattern
from twisted_ws.web.channels.stream import EventStream, ServerSentEvent, uniform
from twisted_ws.web.http.compression import listed, wanted
from twisted_ws.wire.speedups import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twisted.internet.defer import Deferred

    from twisted_ws.caller import Caller
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.channels.visitor import Visitor
    from twisted_ws.frames import OutgoingMessage
    from twisted_ws.message import Position
    from twisted_ws.web.channels.request import ChannelRequest
    from twisted_ws.web.http.request import HttpRequest

_STREAMS = listed("text/event-stream")
# The id of the last event of a stream whose client must not reconnect. An EventSource reconnects, and sends this id: only then
# can it be told, by a 204.
LEFT = "disconnected"
# What only a poll can do: a client that asks for it has sent the wrong Accept.
_POLLED = ("before", "limit", "wait")


def wantsEvents(request: HttpRequest) -> bool:
    """Return whether the client accepts an event stream: Accept names it."""
    return any(isWanted for _, isWanted in wanted(request.fields.get("accept", ""), _STREAMS))


# A publication is encoded once for all streams of a kind.


def rawEvent(publication: Publication) -> ServerSentEvent:
    """Return a message as it was published, for streams of its channel alone."""
    head = b"id: %s:%d\n" % (publication.epoch.encode("ascii"), publication.offset)
    if publication.kind is Kind.BINARY:
        return ServerSentEvent((head, b"event: binary\ndata: ", base64.b64encode(publication.payload), b"\n\n"), publication)
    return ServerSentEvent((head, b"data: ", _data(publication.payload), b"\n\n"), publication)


def jsonEvent(publication: Publication) -> ServerSentEvent:
    """Return a message in JSON, for streams of its channel alone."""
    head = b"id: %s:%d\ndata: " % (publication.epoch.encode("ascii"), publication.offset)
    return ServerSentEvent((head, *jsonParts(publication), b"\n\n"), publication)


def cursorEvent(publication: Publication) -> ServerSentEvent:
    """Return a message in JSON without an id: each stream of several channels adds its own."""
    return ServerSentEvent((b"data: ", *jsonParts(publication), b"\n\n"), publication)


def _data(payload: bytes) -> bytes:
    # A megabyte may be a million lines: no object is made for each.
    if b"\r" in payload:
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return payload.replace(b"\n", b"\ndata: ")


class EventSubscriber(BufferedSubscriber):
    """An event stream of one channel, with its messages as they were published.

    Subscriptions are made before the stream begins, because any may still be refused; messages are kept for `open` meanwhile.
    """

    __slots__ = ("_began", "_starts", "_stream")

    transport: ClassVar[str] = "sse"
    format: ClassVar[Format] = staticmethod(rawEvent)

    def __init__(self, visitor: Visitor, stream: EventStream, service: ChannelService, names: Iterable[str]) -> None:
        visitor._connection = stream
        stream.subscriber = self
        super().__init__(cast("Caller", visitor), service.server.channels, service)
        if not stream.chunked:
            self.sender = NEVER
        self._stream = stream
        self._starts: list[tuple[Start, dict[str, Any] | None]] = []
        self._began = False

    @property
    def cursorNames(self) -> list[str]:
        """The names of the cursor of its ids; none if each id is a position of one channel."""
        return []

    def goesOn(self, positions: Mapping[str, Position]) -> None:
        """Go on where a stream has ended in another process, at these positions."""
        self._began = True

    def open(self) -> None:
        """Begin the stream: the start of each subscription, what was missed, and then what comes."""
        self._stream.open()
        self._began = True
        # In the first event, because some clients show each block as an event; and not the same for all, so that they do not all
        # reconnect at once when a proxy restarts.
        retry = b"retry: %d\n" % round(self._channels.limits.reconnectDelay * 1000 * uniform(1, 2))
        first, *others = [self._subscribed(start, who) for start, who in self._starts] or [b""]
        self._starts.clear()
        self.writeFirst([retry + first, *others])

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Keep the start of a subscription."""
        self._starts.append((start, who))
        super().begin(start, publications, who)

    def lost(self, start: Start) -> None:
        """Tell the client that messages are missing."""
        self.write(self._subscribed(start, None), start.channel)

    def ended(self, channel: str, reason: str) -> None:
        """Tell the service, and the client unless it asked for this; without any channel the stream ends."""
        super().ended(channel, reason)
        if reason and self._began:
            self.write(self._unsubscribed(channel, reason))
            if not self.channels:
                self._end(reason != LAPSED)

    def _fits(self, size: int) -> bool:
        return self._began and super()._fits(size)

    def _pump(self) -> None:
        if self._began:
            super()._pump()

    def leave(self) -> None:
        """End, because the stream has ended or does not begin."""
        if not self._began:
            self._stream.giveUp()
        super().leave()
        self.caller._connection = None

    def judge(self) -> Deferred[None] | None:
        """End what is no longer allowed; before the stream begins, its request looks whether the rules have changed."""
        return super().judge() if self._began else None

    def disconnect(self, code: int, reason: str) -> None:
        """End the stream; the client learns that it is not welcome."""
        if not self._began:
            self._stream.refuse(ChannelError("forbidden", reason or "disconnected"))
            return
        for channel in self.channels:
            self._channels.unsubscribe(self, channel, reason or "disconnected")

    def expire(self) -> None:
        """End, because the client's credentials have; a client with new ones comes back, and goes on where it was."""
        if not self._began:
            return  # and does not begin (`ChannelRequest.subscribe`)
        self._channels.counts.expired.add("sse")
        self._drop()
        self._stream.end(self._expired)

    _expired = b"event: expired\ndata: {}\n\n"

    def _end(self, isForGood: bool) -> None:
        # A slow client does not get what still waits.
        self._drop()
        self._stream.end(b"id: %s\n\n" % LEFT.encode("ascii") if isForGood else b"")

    def _subscribed(self, start: Start, who: dict[str, Any] | None) -> bytes:
        answer = msgspec.json.encode(startFields(start))
        return b"event: subscribed\n" + self._idOf(start) + b"data: " + answer + b"\n\n"

    def _unsubscribed(self, channel: str, reason: str) -> bytes:
        return b"event: unsubscribed\ndata: " + msgspec.json.encode({"channel": channel, "reason": reason}) + b"\n\n"

    def _idOf(self, start: Start) -> bytes:
        return b"" if start.position is None else b"id: %s\n" % str(start.position).encode("ascii")


class JsonEventSubscriber(EventSubscriber):
    """An event stream of one channel, in the JSON of ``twisted-ws.v1``."""

    __slots__ = ()

    format: ClassVar[Format] = staticmethod(jsonEvent)

    def tell(self, notices: Sequence[OutgoingMessage]) -> None:
        """Announce joins and leaves."""
        for each in notices:
            self.write(b"data: " + each.payload + b"\n\n")

    def hidden(self, channel: str) -> None:
        """Tell the client."""
        said = notice("error", code="forbidden", message="You may not know who is on this channel any more.", channel=channel)
        self.write(b"data: " + said + b"\n\n")

    _expired = b"data: " + notice("expired") + b"\n\n"

    def degraded(self, isDegraded: bool) -> None:
        """Tell the client that nothing is published for now, or that it is again."""
        self.write(b"data: " + notice("degraded" if isDegraded else "restored") + b"\n\n")

    def _subscribed(self, start: Start, who: dict[str, Any] | None) -> bytes:
        answer = startFields(start)
        if who is not None:
            answer["presence"] = who
        return self._idOf(start) + b"data: " + notice("subscribed", **answer) + b"\n\n"

    def _unsubscribed(self, channel: str, reason: str) -> bytes:
        return b"data: " + notice("unsubscribed", channel=channel, reason=reason) + b"\n\n"


class CursorEventSubscriber(JsonEventSubscriber):
    """An event stream of several channels or of patterns: the id of each event is its position in all of them."""

    __slots__ = ("_cursor", "_names")

    format: ClassVar[Format] = staticmethod(cursorEvent)

    def __init__(self, visitor: Visitor, stream: EventStream, service: ChannelService, names: Iterable[str]) -> None:
        names = tuple(names)
        super().__init__(visitor, stream, service, names)
        self._names = names
        self._cursor = Cursor(names)
        self.sender = NEVER  # no two streams get the same bytes
        stream.prefix = self._prefix

    @property
    def cursorNames(self) -> list[str]:
        """Those with which it began."""
        return [*self._names]

    def goesOn(self, positions: Mapping[str, Position]) -> None:
        """Also note the positions."""
        super().goesOn(positions)
        for channel, position in positions.items():
            self._cursor.begin(channel, position)

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Also note the position at which the subscription begins."""
        super().begin(start, publications, who)
        if start.position is not None:
            self._cursor.begin(start.channel, start.position)

    def lost(self, start: Start) -> None:
        """Also note the position from which it goes on."""
        if start.position is not None:
            self._cursor.begin(start.channel, start.position)
        super().lost(start)

    def ended(self, channel: str, reason: str) -> None:
        """Remove its position."""
        self._cursor.end(channel)
        super().ended(channel, reason)

    def _idOf(self, start: Start) -> bytes:
        return self._id()

    def _id(self) -> bytes:
        return b"id: %s\n" % str(self._cursor).encode("ascii") if self._cursor else b""

    def _prefix(self, publication: Publication) -> bytes:
        # The channels of a pattern are not in the cursor: a client that returns to a pattern begins with new messages.
        self._cursor.move(publication.channel, publication.epoch, publication.offset)
        return self._id()


async def openEvents(request: HttpRequest, channelRequest: ChannelRequest) -> None:
    """Answer a GET with an event stream.

    Raises:
        ChannelError: one of the channels is refused, the position is malformed, or the stream is refused before it begins.
    """
    names, query, server = channelRequest.names, channelRequest.query, channelRequest.service.server
    after = request.fields.get("last-event-id") or query.get("after", query.get("lastEventId") or None)
    if after == LEFT:
        request.setResponseCode(204)
        request.answer(b"")
        return
    for name in _POLLED:
        if name in query:
            raise ChannelError("bad-request", f"{name} is for polls; an event stream takes after and last.")
    positions, last = parseAfter(after, names), parseLast(query.get("last"), names)
    alone = len(names) == 1 and not isPattern(names[0])
    json = not alone or query.get("format") == "json"
    watched = json and query.get("presence") == "true"
    granted = await channelRequest.granted(request)
    infos = await channelRequest.service.permitAll(channelRequest.visitor, names, watched, granted)
    if request.gone:
        return  # a hook has continued nevertheless
    request.say("Content-Type", "text/event-stream; charset=utf-8")
    request.say("Cache-Control", "no-store, no-transform")
    request.say("X-Accel-Buffering", "no")  # nginx would hold events back until it has a page of them
    if request.method == b"HEAD":
        request.finish()  # type: ignore[no-untyped-call]
        return

    def whenGone() -> None:
        if stream in server.visits:
            server.visits.discard(stream)
            server.counts.streams -= 1
            server.counts.closed.add("sse", "", "peer" if request.gone else "server")
        subscriber.leave()

    kind = CursorEventSubscriber if not alone else JsonEventSubscriber if json else EventSubscriber
    stream = EventStream(request, server.channels, whenGone)
    subscriber = kind(channelRequest.visitor, stream, channelRequest.service, infos)
    room = AnswerBudget(server.limits) if watched else None
    try:
        await channelRequest.subscribe(subscriber, infos, positions, room, last)
    finally:
        if stream.refusal is not None:
            subscriber.leave()
            raise stream.refusal
    server.visits.add(stream)
    server.counts.streams += 1
    server.counts.opened.add("sse", channelRequest.path)
    subscriber.open()
    identity = channelRequest.visitor.identity
    if identity is not None:
        ends = subscriber.expire, subscriber.expiring, subscriber.lapse
        life = channelRequest.visitor.life = Lifetime(stream, server.channels.seconds, server.channels.unixTime, *ends)
        life.set(identity)
        if granted is not None:
            for name in names:
                channelRequest.service.permissions.grant(channelRequest.visitor, name, granted)
