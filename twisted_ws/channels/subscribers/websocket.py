"""Callers of the service ``channels``: raw ones, and those that speak ``twisted-ws.v1``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.channels.page import Page
from twisted_ws.channels.presence import AnswerBudget
from twisted_ws.channels.subscribers.buffered import LAPSED, BufferedSubscriber
from twisted_ws.channels.subscribers.formats import Format, jsonFormat
from twisted_ws.channels.subscribers.line import Line
from twisted_ws.channels.subscribers.subprotocol import (
    AuthRequest,
    HistoryRequest,
    PresenceRequest,
    PublishRequest,
    Ref,
    Request,
    SubscribeRequest,
    UnsubscribeRequest,
    notice,
    readRequest,
    refOf,
    startFields,
)
from twisted_ws.closecodes import EXPIRED, FORBIDDEN, NOT_RECOVERED, REFUSED
from twisted_ws.engines.replay import Replay
from twisted_ws.errors import ChannelError, CloseCode, ConnectionClosed
from twisted_ws.logs import ofCaller, printable
from twisted_ws.message import Position, Publication, Start
from twisted_ws.names import checkNameOrPattern, isPattern

if TYPE_CHECKING:
    from twisted_ws.access.tokens.claims import ChannelGrants
    from twisted_ws.caller import Caller
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.frames import OutgoingMessage
    from twisted_ws.identity import Identity


_log = Logger()

# The cost of one subscription among many, in steps of `Turns`.
ENTERING = 64


class RawSubscriber(BufferedSubscriber):
    """A caller that gets messages as they were published; what it sends is published to the one channel of its URL."""

    __slots__ = ("_resuming",)

    _service: ChannelService

    def __init__(self, caller: Caller, service: ChannelService) -> None:
        super().__init__(caller, service.server.channels, service)
        self._resuming = False

    def welcome(self) -> None:
        """Do nothing: a raw caller gets only messages."""

    async def enter(
        self,
        channel: str,
        after: Position | None,
        last: int | None,
        granted: ChannelGrants | None,
        asked: Deferred[bool] | None = None,
    ) -> None:
        """Subscribe to a channel of the URL, or close with the reason for the refusal."""
        self._resuming = after is not None
        access = self._service.permissions.access
        try:
            info = await self._service.permit(self.caller, channel, False, granted, asked)
            await self._channels.subscribe(self, channel, after, info, None, last)
        except ChannelError as error:
            self.refuse(error)
        else:
            if granted is not None:
                self._service.permissions.grant(self.caller, channel, granted)
            if self._service.permissions.access is not access and (judging := self.judge()) is not None:
                await judging  # the rules have changed since they let it in

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Send what was missed; close if messages are missing, because a raw message has no place to say so."""
        if self._resuming and not start.recovered:
            self.lost(start)
        else:
            super().begin(start, publications, who)

    def lost(self, start: Start) -> None:
        """Close, for the same reason."""
        self.caller.close(NOT_RECOVERED, "not recovered")

    async def received(self, message: str | bytes) -> None:
        """Publish to the one channel."""
        try:
            if len(self.channels) != 1 or isPattern(self.channels[0]):
                raise ChannelError("forbidden", "To publish, connect to one channel.")
            await self._service.publishFor(self.caller, self.channels[0], message)
        except ChannelError as error:
            _tellRefused(self, error, self.channels[0] if self.channels else "")
            self.refuse(error)

    def ended(self, channel: str, reason: str) -> None:
        """Close when its last channel is taken from it."""
        super().ended(channel, reason)
        if reason and not self.channels:
            self.disconnect(EXPIRED if reason == LAPSED else FORBIDDEN, reason)

    def refuse(self, error: ChannelError, channels: Sequence[str] = ()) -> None:
        """Close with the error's status and message."""
        self.disconnect(REFUSED + error.status, error.message)


class JsonSubscriber(BufferedSubscriber):
    """A caller that speaks ``twisted-ws.v1`` (see `twisted_ws.channels.subscribers.subprotocol`)."""

    __slots__ = ("_asked", "_line")

    _service: ChannelService

    format: ClassVar[Format] = staticmethod(jsonFormat)

    def __init__(self, caller: Caller, service: ChannelService) -> None:
        super().__init__(caller, service.server.channels, service)
        self._asked: SubscribeRequest | None = None  # what `begin` answers; requests are handled one after the other
        self._line: Line | None = None  # while the application is asked about a request: it, and those behind it

    @property
    def isIdle(self) -> bool:
        """Whether nothing waits here that could not be had again, nor for the application."""
        return self._line is None and self._asked is None and super().isIdle

    def welcome(self) -> None:
        """Tell the client its connection id, and how to come back."""
        limits = self._channels.limits
        identity = self.caller.identity
        self.write(
            notice(
                "welcome",
                version=1,
                connection=self.caller.connectionId,
                retry=round(limits.reconnectDelay * 1000),
                ping=limits.pingInterval,
                **({} if identity is None else self._life(identity)),
            )
        )

    def _life(self, identity: Identity) -> dict[str, Any]:
        """Return whose credentials count, and for how many seconds more."""
        if identity.expiresAt is None:
            return {"user": identity.user, "expires": None}
        return {"user": identity.user, "expires": max(round(identity.expiresAt - self._channels.unixTime(), 3), 0)}

    def expiring(self, seconds: float) -> None:
        """Tell the client."""
        self.write(notice("expiring", seconds=round(seconds, 3)))

    async def enter(
        self,
        channel: str,
        after: Position | None,
        last: int | None,
        granted: ChannelGrants | None,
        asked: Deferred[bool] | None = None,
    ) -> None:
        """Subscribe to a channel of the URL, as if the client had asked for it."""
        await self._do(SubscribeRequest(channel=channel, last=last), after, asked, granted)

    async def received(self, message: str | bytes) -> None:
        """Do what a request asks, and answer it; return when the client has room for more answers."""
        access = self._service.permissions.access
        if self._line is not None or (access is not None and access.asks):
            if (room := self._stand(message)) is not None:
                await room
            return
        if isinstance(message, bytes):
            self._answer(_notText(), None)
        else:
            try:
                request = readRequest(message)
            except ChannelError as error:
                self._answer(error, refOf(message))
            else:
                await self._do(request)
        easing = self.eased()
        if easing is not None:
            await easing

    def _stand(self, message: str | bytes) -> Deferred[None] | None:
        """Do what a request asks in its turn, and begin to ask the application now; see `Line.add`.

        So, what a client subscribes to at once is one question.
        """
        asked = None
        try:
            if isinstance(message, bytes):
                raise _notText()
            request = readRequest(message)
        except ChannelError as error:
            do = partial(self._refuse, error, None if isinstance(message, bytes) else refOf(message))
        else:
            asked = self._ask(request) if isinstance(request, SubscribeRequest) else None
            do = partial(self._do, request, None, asked)
        line, isFirst = self._line or Line(), self._line is None
        room = line.add(partial(self._inTurn, do), asked, len(message))
        if isFirst:
            self._line = line
            Deferred.fromCoroutine(self._work(line)).addErrback(self._failed)
        return room

    def _ask(self, request: SubscribeRequest) -> Deferred[bool] | None:
        """Begin to ask the application about a subscription, if that is what decides."""
        if request.token is not None:
            return None
        try:
            checkNameOrPattern(request.channel, self._channels.limits.channelName)
        except ChannelError:
            return None  # which it is told when it is its turn
        return self._service.permissions.ask("subscribe", self.caller, request.channel)

    async def _inTurn(self, do: Callable[[], Awaitable[None]]) -> None:
        turns = self._service.server.runtime.turns
        turns.spend(ENTERING)
        if turns.over:
            await turns.next()  # one answer of the application may be about all that wait
        await do()
        easing = self.eased()
        if easing is not None:
            await easing

    async def _work(self, line: Line) -> None:
        try:
            await line.work()
        finally:
            self._line = None

    def _failed(self, failure: Failure) -> None:
        if not failure.check(ConnectionClosed, CancelledError):
            _log.failure("a request failed inside the server", failure, event="channel.failed")
            self.caller.close(CloseCode.INTERNAL_ERROR, "internal error")

    async def _refuse(self, error: ChannelError, ref: Ref) -> None:
        self._answer(error, ref)

    def leave(self) -> None:
        """End them all, because the caller has gone, and whatever is asked about it."""
        if self._line is not None:
            self._line.giveUp()
        super().leave()

    async def _do(
        self,
        request: Request,
        after: Position | None = None,
        asked: Deferred[bool] | None = None,
        granted: ChannelGrants | None = None,
    ) -> None:
        try:
            match request:
                case SubscribeRequest():
                    await self._subscribe(request, request.after if after is None else after, asked, granted)
                case UnsubscribeRequest():
                    if not self._channels.unsubscribe(self, request.channel):
                        raise ChannelError("not-subscribed", "This connection is not subscribed to the channel.")
                    self.write(notice("unsubscribed", request.ref, channel=request.channel))
                case PublishRequest():
                    await self._publish(request, asked)
                case AuthRequest():
                    identity = await self._service.server.reauthenticate(self.caller, request.token)
                    self.write(notice("auth", request.ref, **self._life(identity)))
                    if (judging := self.judge()) is not None:
                        await judging
                case HistoryRequest():
                    await self._history(request)
                case PresenceRequest():
                    self._service.permissions.requirePresence(self.caller, request.channel)
                    if self._service.server.runtime.turns.over:
                        await self._service.server.runtime.turns.next()
                    await self._who(request)
                case _:  # Ping
                    self.write(notice("pong", request.ref))
        except ChannelError as error:
            if error.code == "unauthorized" and error.reason and not isinstance(request, AuthRequest):
                # Its credentials have ended while this was done. Without an answer, a client that comes back asks again.
                self.expire()
            else:
                if isinstance(request, PublishRequest):
                    _tellRefused(self, error, request.channel)
                self._answer(error, request.ref, getattr(request, "channel", None))

    async def _who(self, request: PresenceRequest) -> None:
        channel, presence = request.channel, self._channels.presence
        news = presence.follow(channel) if presence.isWatching(channel, self) else None
        try:
            who = self._channels.who(channel, request.cursor)
            if isinstance(who, Deferred):
                who = await who
        finally:
            if news is not None:
                news.end()
        self.write(notice("presence", request.ref, channel=channel, **who))
        if news is not None and presence.isWatching(channel, self):
            news.tell(self, who, request.cursor)

    async def _subscribe(
        self,
        request: SubscribeRequest,
        after: Position | str | None,
        asked: Deferred[bool] | None,
        granted: ChannelGrants | None,
    ) -> None:
        access = self._service.permissions.access
        if request.token is not None:
            granted = await self._service.permissions.grantsOf(self.caller, request.token)
            if granted is not None and request.channel in self.channels:
                self._service.permissions.renew(self.caller, request.channel, granted)
                self.write(notice("renewed", request.ref, channel=request.channel))
                return
        info = await self._service.permit(self.caller, request.channel, request.presence, granted, asked)
        self._asked = request
        try:
            room = AnswerBudget(self._channels.limits) if request.presence else None
            await self._channels.subscribe(self, request.channel, after, info, room, request.last)
        finally:
            self._asked = None
        if granted is not None:
            self._service.permissions.grant(self.caller, request.channel, granted)
        if self._service.permissions.access is not access and (judging := self.judge()) is not None:
            await judging  # the rules have changed since they let it in

    async def _history(self, request: HistoryRequest) -> None:
        granted = None if request.token is None else await self._service.permissions.grantsOf(self.caller, request.token)
        if request.channel not in self.channels:
            await self._service.permit(self.caller, request.channel, False, granted)
        if self._service.server.runtime.turns.over:
            await self._service.server.runtime.turns.next()
        # It waits with the messages, if the client does not take it.
        limits = self._channels.limits
        page = Page(limits, request.limit, min(limits.answerBytes, limits.maxSendBuffer // 4))
        await page.read(self._channels, request.channel, request.before)
        self._service.permissions.requireValid(self.caller, granted)
        messages = [Raw(b"{" + each + b"}") for each in page.messages]
        self.write(notice("history", request.ref, channel=request.channel, messages=messages, next=page.next))

    async def _publish(self, request: PublishRequest, asked: Deferred[bool] | None) -> None:
        granted = None if request.token is None else await self._service.permissions.grantsOf(self.caller, request.token)
        published = await self._service.publishFor(
            self.caller, request.channel, request.message(), request.key, request.idempotencyKey, granted, asked
        )
        self.write(notice("published", request.ref, **published._asdict()))

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Tell the client where the subscription begins, and send what was missed."""
        answer = startFields(start)
        if who is not None:
            answer["presence"] = who
        ref = self._asked.ref if self._asked is not None and self._asked.channel == start.channel else None
        self.resume(start.channel, publications, notice("subscribed", ref, **answer))

    def lost(self, start: Start) -> None:
        """Tell the client that messages are missing."""
        self.write(notice("subscribed", **startFields(start)), start.channel)

    def degraded(self, isDegraded: bool) -> None:
        """Tell the client that nothing is published for now, or that it is again."""
        self.write(notice("degraded" if isDegraded else "restored"))

    def ended(self, channel: str, reason: str) -> None:
        """Tell the service, and the client if it did not ask for this."""
        super().ended(channel, reason)
        if reason:
            self.write(notice("unsubscribed", channel=channel, reason=reason))

    def tell(self, notices: Sequence[OutgoingMessage]) -> None:
        """Tell the client who comes and goes, in one piece while it keeps up."""
        if not self.sendNow(notices):
            for each in notices:
                self.write(each.payload)

    def hidden(self, channel: str) -> None:
        """Tell the client."""
        self._answer(ChannelError("forbidden", "You may not know who is on this channel any more."), None, channel)

    def refuse(self, error: ChannelError, channels: Sequence[str] = ()) -> None:
        """Tell the client, for each of the channels that it concerns; the client may go on with requests."""
        for channel in channels or (None,):
            self._answer(error, None, channel)

    def _answer(self, error: ChannelError, ref: Ref, channel: str | None = None) -> None:
        fields: dict[str, Any] = {} if channel is None else {"channel": channel}
        if error.reason:
            fields["reason"] = error.reason
        if error.retryAfter is not None:
            fields["retryAfter"] = error.retryAfter
        self.write(notice("error", ref, code=error.code, message=error.message, **fields))


def _tellRefused(subscriber: RawSubscriber | JsonSubscriber, error: ChannelError, channel: str) -> None:
    """Log that somebody may not publish."""
    if turn := subscriber._service.server.mayLog(f"a publication was refused: {error.code}"):
        _log.info(
            "{peer}: not published to {channel}: {reason} ({code})",
            event="publish.refused",
            service=type(subscriber._service).__name__,
            channel=printable(channel),
            reason=printable(error.message),
            code=error.code,
            **ofCaller(subscriber.caller),
            suppressed=turn - 1,
        )


def _notText() -> ChannelError:
    return ChannelError("bad-request", "Requests must be text messages.")
