"""Those who are subscribed to channels: what every transport has to do, and how a WebSocket caller does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from twisted_ws.caller import TEXT, Link
from twisted_ws.delivery.framings import ChannelMessage, Framing, raw
from twisted_ws.delivery.mailbox import Mailbox, Policy
from twisted_ws.delivery.publication import Position, Publication, Start
from twisted_ws.errors import ConnectionClosed, SlowConsumer, WebSocketError
from twisted_ws.wire.framing import OutgoingMessage
from twisted_ws.wire.outbox import failedWrite
from twisted_ws.wire.speedups import NEVER

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.caller import Caller
    from twisted_ws.delivery.channels import Channels

__all__ = ["CallerSubscriber", "Subscriber"]


class Subscriber:
    """One who is subscribed to channels: a WebSocket caller, an event stream, a poll that waits.

    A transport implements `send`, `begin`, `ended` and `notice`. They are called by `Channels`, never raise, and never wait: what
    the peer cannot take now is the transport's to keep (in a `Mailbox`) or to drop.

    Attributes:
        framing: makes, of a publication, what `send` gets; those with the same one (the same object) share what it makes.
        caller: who it is for services: `Caller`, or what stands for it, with a `connectionId` and a `user`.
        channels: the channels and patterns it is subscribed to. `Channels` sets it.
        gone: whether it has left for good (`Channels.leave`) and can subscribe no more.
    """

    __slots__ = ("caller", "channels", "gone")

    framing: ClassVar[Framing]

    def __init__(self, caller: Any) -> None:
        self.caller = caller
        self.channels: tuple[str, ...] = ()
        self.gone = False

    def begin(self, start: Start, publications: list[Publication]) -> None:
        """Take the answer to a subscription and what was missed, in this order and before anything that `send` gets."""
        raise NotImplementedError

    def send(self, message: Any) -> bool:
        """Take one message, as `framing` made it; say whether it is sent or waits."""
        raise NotImplementedError

    def ended(self, channel: str, reason: str) -> None:
        """A subscription has ended: `reason` is "" when the subscriber wanted it or has gone."""

    def notice(self, frame: bytes) -> None:
        """Take a JSON frame about a channel that is no message: a join or leave."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection for good, at somebody's command."""
        raise NotImplementedError

    # What `fanOut` asks of a connection beside `send`: nothing, for what is no socket with the same bytes for all.

    sender: Any = NEVER

    def noteRest(self, rest: bytes) -> None:
        """Note the rest of a frame that was sent in part (see `twisted_ws.wire.fanout`)."""
        raise NotImplementedError

    def goOn(self) -> None:
        """Go on with that."""
        raise NotImplementedError


class Outlet(Link, Protocol):
    """A link as a subscriber needs it: `twisted_ws.wire.protocol.WebSocketConnection`.

    Attributes:
        sender: see `twisted_ws.wire.fanout.fanOut`.
    """

    sender: Any

    def hold(self, goOn: Callable[[], None] | None) -> None:
        """Let no frame of a `fanOut` go out by itself, and call `goOn` when there is room; None: undo this."""

    def noteRest(self, rest: bytes) -> None:
        """See `twisted_ws.wire.fanout.fanOut`."""

    def goOn(self) -> None:
        """See `twisted_ws.wire.fanout.fanOut`."""

    def fail(self, error: WebSocketError) -> None:
        """See `twisted_ws.wire.events.Connection`."""


class CallerSubscriber(Subscriber):
    """A WebSocket caller that gets messages as they were published; implements `twisted_ws.caller.Membership`.

    While it keeps up, everything goes straight to its link. What does not fit there waits in a mailbox, and goes on from there,
    in order, as the link eases.
    """

    __slots__ = ("_channels", "_link", "_mailbox", "_policy", "sender")

    framing: ClassVar[Framing] = staticmethod(raw)

    def __init__(self, caller: Caller, channels: Channels, policy: Policy = Policy.CLOSE) -> None:
        super().__init__(caller)
        self._channels = channels
        self._link = cast("Outlet", caller._link)
        self.sender = self._link.sender
        self._mailbox: Mailbox | None = None
        self._policy = policy
        self.gone = not self._link.isOpen()
        caller.membership = self

    # Membership: what the caller asks.

    def subscribe(self, channel: str, after: str | Position | None = None) -> Deferred[Start]:
        """Subscribe (see `Channels.subscribe`)."""
        if self.gone:
            return failedWrite(ConnectionClosed())
        return self._channels.subscribe(self, channel, after)

    def unsubscribe(self, channel: str) -> bool:
        """End one subscription (see `Channels.unsubscribe`)."""
        return self._channels.unsubscribe(self, channel)

    def leave(self) -> None:
        """End them all: the caller has gone."""
        self._drop()
        self._channels.leave(self)

    # Subscriber.

    def begin(self, start: Start, publications: list[Publication]) -> None:
        """Send what was missed."""
        self.takePast(publications)

    def send(self, message: ChannelMessage) -> bool:
        """Send a message, or keep it until there is room."""
        if self._mailbox is None and self._fits(len(message.payload)):
            return self._link.send(message)
        return self._keep(message.publication)

    def write(self, frame: bytes) -> None:
        """Send a text of the subprotocol, in order with the messages; it is never dropped."""
        if self._mailbox is None and self._fits(len(frame)):
            self._link.send(OutgoingMessage(TEXT, frame))
        else:
            self._keep(frame)

    def takePast(self, items: Iterable[Publication | bytes]) -> None:
        """Send all of these before anything that comes later, at the pace of the link."""
        # All are in the mailbox before the first is sent: sending may run code of a service, which may publish.
        if self._mailbox is None:
            self._mailbox = self._newMailbox()
        before = self._mailbox.size
        self._mailbox.addPast(items, self._channels.seconds())
        self._channels.backlog.changed(self, before)
        self._pump()

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection."""
        # A Close frame has room for 123 bytes; a character is not cut in two.
        self.caller.close(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))

    def noteRest(self, rest: bytes) -> None:
        """Pass on; see `fanOut`."""
        self._link.noteRest(rest)

    def goOn(self) -> None:
        """Pass on; see `fanOut`."""
        self._link.goOn()

    # What waits. The server counts it with the outboxes (`twisted_ws.wire.backlog.Waiting`).

    @property
    def size(self) -> int:
        """Bytes in the mailbox."""
        return 0 if self._mailbox is None else self._mailbox.size

    @property
    def owner(self) -> CallerSubscriber:
        """Who is told that all together have too much."""
        return self

    def outboxOverflowed(self, atOnce: bool) -> None:
        """This is the largest, and all together are over their limit."""
        self._tooSlow("its mailbox is the largest")

    def _fits(self, size: int) -> bool:
        # One message of any size is taken when nothing waits.
        waiting = self._link.bufferedAmount()
        return not waiting or waiting + size <= self._channels.room

    def _newMailbox(self) -> Mailbox:
        limits = self._channels.limits
        self._link.hold(self._pump)
        return Mailbox(self._policy, limits.maxSendBuffer, limits.subscriberLag)

    def _keep(self, item: Publication | bytes) -> bool:
        if not self._link.isOpen():
            return False
        if self._mailbox is None:
            self._mailbox = self._newMailbox()
        before = self._mailbox.size
        kept = self._mailbox.add(item, self._channels.seconds())
        self._channels.backlog.changed(self, before)
        if not kept:
            self._tooSlow(f"{self.size} bytes of channels wait for it")
        return kept and self._link.isOpen()

    def _pump(self) -> None:
        """Give the link what it has room for."""
        while self._mailbox is not None:
            before = self._mailbox.size
            size = self._mailbox.peek(self._channels.seconds())
            if size is not None and not self._fits(size):
                self._channels.backlog.note(self, before)
                return
            item = None if size is None else self._mailbox.pop()
            self._channels.backlog.note(self, before)
            if item is None:
                self._drop()
            else:
                self._link.send(OutgoingMessage(TEXT, item) if isinstance(item, bytes) else self.framing(item))

    def _tooSlow(self, why: str) -> None:
        self._drop()
        self._link.fail(SlowConsumer(why))

    def _drop(self) -> None:
        if self._mailbox is not None:
            before, self._mailbox = self._mailbox.size, None
            self._link.hold(None)
            self._channels.backlog.note(self, before)
