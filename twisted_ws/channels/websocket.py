"""Callers of the service ``channels``: raw ones, and those that speak ``twisted-ws.v1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from twisted_ws.channels.buffered import CallerSubscriber
from twisted_ws.channels.formats import Framing, jsonFraming
from twisted_ws.channels.names import isPattern
from twisted_ws.channels.replay import Past
from twisted_ws.channels.subprotocol import AnyRequest, Presence, Publish, Ref, Subscribe, Unsubscribe, frame, readRequest, refOf
from twisted_ws.closecodes import FORBIDDEN, NOT_RECOVERED, REFUSED
from twisted_ws.errors import ChannelError
from twisted_ws.message import Position, Publication, Start

if TYPE_CHECKING:
    from twisted_ws.caller import Caller
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.frames import OutgoingMessage

__all__ = ["JsonSubscriber", "RawSubscriber"]


class _ServiceSubscriber(CallerSubscriber):
    """A caller of a `ChannelService`; the service's hooks are asked for what it wants."""

    __slots__ = ("_service",)

    def __init__(self, caller: Caller, service: ChannelService) -> None:
        super().__init__(caller, service.server.channels, service.policy)
        self._service = service

    def ended(self, channel: str, reason: str) -> None:
        """Tell the service, too."""
        super().ended(channel, reason)
        self._service.left(self.caller, channel)


class RawSubscriber(_ServiceSubscriber):
    """Gets messages as they were published, and publishes what it sends to the one channel of its URL."""

    __slots__ = ("_resuming",)

    def __init__(self, caller: Caller, service: ChannelService) -> None:
        super().__init__(caller, service)
        self._resuming = False

    def welcome(self) -> None:
        """Say nothing: what comes are messages."""

    async def enter(self, channel: str, after: Position | None) -> None:
        """Subscribe to a channel of the URL, or close with the reason why not."""
        self._resuming = after is not None
        try:
            info = await self._service.permit(self.caller, channel)
            await self._channels.subscribe(self, channel, after, info)
        except ChannelError as error:
            self.refuse(error)

    def begin(self, start: Start, publications: Past | list[Publication]) -> None:
        """Send what was missed; close when that is not all: a raw message has no place to say so."""
        if self._resuming and not start.recovered:
            self.caller.close(NOT_RECOVERED, "not recovered")
        else:
            super().begin(start, publications)

    async def received(self, message: str | bytes) -> None:
        """Publish to the one channel."""
        try:
            if len(self.channels) != 1 or isPattern(self.channels[0]):
                raise ChannelError("forbidden", "To publish, connect to one channel.")
            await self._service.publishFor(self.caller, self.channels[0], message)
        except ChannelError as error:
            self.refuse(error)

    def ended(self, channel: str, reason: str) -> None:
        """Close with the last channel that was taken from it."""
        super().ended(channel, reason)
        if reason and not self.channels:
            self.disconnect(FORBIDDEN, reason)

    def refuse(self, error: ChannelError) -> None:
        """Close with the error's status and message."""
        self.disconnect(REFUSED + error.status, error.message)


class JsonSubscriber(_ServiceSubscriber):
    """Speaks ``twisted-ws.v1`` (see `twisted_ws.channels.subprotocol`)."""

    __slots__ = ("_asked",)

    framing: ClassVar[Framing] = staticmethod(jsonFraming)

    def __init__(self, caller: Caller, service: ChannelService) -> None:
        super().__init__(caller, service)
        self._asked: Subscribe | None = None  # what `begin` answers; requests are handled one after the other

    def welcome(self) -> None:
        """Say who the client is here, and how to come back."""
        limits = self._channels.limits
        self.write(
            frame(
                "welcome",
                version=1,
                connection=self.caller.connectionId,
                retry=round(limits.reconnectDelay * 1000),
                ping=limits.pingInterval,
            )
        )

    async def enter(self, channel: str, after: Position | None) -> None:
        """Subscribe to a channel of the URL, as if the client had asked."""
        await self._do(Subscribe(channel=channel), after)

    async def received(self, message: str | bytes) -> None:
        """Do what a frame asks, and answer it; end when the client has room for more answers."""
        if isinstance(message, bytes):
            self._answer(ChannelError("bad-request", "Frames are text."), None)
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

    async def _do(self, request: AnyRequest, after: Position | None = None) -> None:
        try:
            match request:
                case Subscribe():
                    await self._subscribe(request, request.after if after is None else after)
                case Unsubscribe():
                    if not self._channels.unsubscribe(self, request.channel):
                        raise ChannelError("not-subscribed", "There is no such subscription.")
                    self.write(frame("unsubscribed", request.ref, channel=request.channel))
                case Publish():
                    await self._publish(request)
                case Presence():
                    self._service.checkPresence(request.channel)
                    if self._service.server.runtime.turns.over:
                        await self._service.server.runtime.turns.next()
                    who = self._channels.who(request.channel, request.cursor)
                    self.write(frame("presence", request.ref, channel=request.channel, **who))
                case _:  # Ping
                    self.write(frame("pong", request.ref))
        except ChannelError as error:
            self._answer(error, request.ref, getattr(request, "channel", None))

    async def _subscribe(self, request: Subscribe, after: Position | str | None) -> None:
        info = await self._service.permit(self.caller, request.channel, request.presence)
        self._asked = request
        try:
            await self._channels.subscribe(self, request.channel, after, info)
        finally:
            self._asked = None

    async def _publish(self, request: Publish) -> None:
        published = await self._service.publishFor(
            self.caller, request.channel, request.message(), request.key, request.idempotencyKey
        )
        self.write(frame("published", request.ref, **published._asdict()))

    def begin(self, start: Start, publications: Past | list[Publication]) -> None:
        """Say where the subscription begins, and send what was missed."""
        asked = self._asked if self._asked is not None and self._asked.channel == start.channel else None
        answer: dict[str, Any] = {
            "channel": start.channel,
            "id": None if start.position is None else str(start.position),
            "recovered": start.recovered,
            "count": start.missed,
        }
        if asked is not None and asked.presence:
            self._channels.presence.watch(start.channel, self)
            answer["presence"] = self._channels.who(start.channel)
        ref = None if asked is None else asked.ref
        self.resume(start.channel, publications, frame("subscribed", ref, **answer))

    def ended(self, channel: str, reason: str) -> None:
        """Tell the service, and the client what it does not know yet."""
        super().ended(channel, reason)
        if reason:
            self.write(frame("unsubscribed", channel=channel, reason=reason))

    def notice(self, frame: bytes) -> None:
        """Tell the client who comes and goes."""
        self.write(frame)

    def noticeAll(self, frames: Sequence[OutgoingMessage]) -> None:
        """Tell the client, in one piece while it keeps up."""
        if not self.sendNow(frames):
            super().noticeAll(frames)

    def refuse(self, error: ChannelError) -> None:
        """Tell the client; it can go on with frames."""
        self._answer(error, None)

    def _answer(self, error: ChannelError, ref: Ref, channel: str | None = None) -> None:
        fields = {} if channel is None else {"channel": channel}
        self.write(frame("error", ref, code=error.code, message=error.message, **fields))
