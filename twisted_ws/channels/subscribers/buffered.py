"""A subscriber with a connection, and a mailbox for what the connection cannot take yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import Deferred

from twisted_ws.channels.subscribers.formats import ChannelMessage, Format, rawFormat
from twisted_ws.channels.subscribers.mailbox import Mailbox, Policy
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.closecodes import EXPIRED
from twisted_ws.engines.replay import Replay
from twisted_ws.errors import ConnectionClosed, SlowConsumer
from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import TEXT, Position, Publication, Start
from twisted_ws.names import isPattern
from twisted_ws.wire.websocket.outbox import failedWrite

if TYPE_CHECKING:
    from twisted_ws.caller import Caller
    from twisted_ws.channels.channels import Channels
    from twisted_ws.channels.service import ChannelService

# Why a subscription has ended whose token has expired: the client may come back with a new one.
LAPSED = "expired"
# A mailbox is emptied in writes of this many bytes.
PIECE = 16 * 1024
# The steps of `twisted_ws.wire.loop.turns` for one item, and how many of its bytes are one step more.
STEPS = 3
BYTES = 2048


class BufferedSubscriber(Subscriber):
    """A subscriber with a connection, which gets messages as they were published; implements `twisted_ws.caller.Membership`.

    While the peer keeps up, everything goes straight to its connection. What does not fit there waits in a mailbox, and follows
    in order as the connection drains. The connection counts what is in the mailbox with its own bytes.

    Attributes:
        held: seconds for which messages of the peer had to wait for others since it last published, where somebody counts them.
    """

    __slots__ = (
        *("_channels", "_connection", "_easing", "_goesOn", "_isPumping", "_mailbox", "_patterns", "_service", "held", "sender"),
    )

    transport: ClassVar[str] = "websocket"
    format: ClassVar[Format] = staticmethod(rawFormat)

    def __init__(self, caller: Caller, channels: Channels, service: ChannelService | None = None) -> None:
        super().__init__(caller)
        self._channels = channels
        self._connection = caller._connection
        self.sender = self._connection.sender
        self._mailbox: Mailbox | None = None
        self._goesOn = False  # whether `_pump` will be called in a later turn
        self._isPumping = False
        self._easing: Deferred[None] | None = None
        self._service = service
        self._patterns: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # for these channels: how names in patterns begin
        self.held = 0.0
        self.gone = not self._connection.isOpen()
        caller.membership = self

    # Membership: what the caller asks.

    def subscribe(self, channel: str, after: str | Position | None = None, last: int | None = None) -> Deferred[Start]:
        """Subscribe (see `Channels.subscribe`)."""
        if self.gone:
            return failedWrite(ConnectionClosed())
        return self._channels.subscribe(self, channel, after, last=last)

    def unsubscribe(self, channel: str) -> bool:
        """End one subscription (see `Channels.unsubscribe`)."""
        return self._channels.unsubscribe(self, channel)

    def leave(self) -> None:
        """End them all, because the caller has gone."""
        self._drop()
        self._channels.leave(self)

    # Subscriber.

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Send what was missed."""
        self.resume(start.channel, publications)

    def send(self, message: ChannelMessage) -> bool:
        """Send a message, or keep it until there is room for it."""
        if self._mailbox is None and self._fits(len(message.payload)):
            return self._connection.send(message)
        return self._keep(message.publication)

    def ended(self, channel: str, reason: str) -> None:
        """Drop what waits of a channel or pattern and is no longer wanted, and tell the service."""
        if self.caller.life is not None:
            self.caller.life.release(channel)
        mailbox = self._mailbox
        if mailbox is not None:
            before = mailbox.size
            if isPattern(channel):
                mailbox.wanted = self._wants  # asked as each one's turn comes: there may be thousands of channels
            else:
                mailbox.drop(channel, not self._wants(channel))
            self._connection.keep(mailbox.size - before)
            if not mailbox:
                self._drop()
        if self._service is not None:
            self._service.left(self.caller, channel)

    def write(self, notice: bytes, channel: str = "") -> None:
        """Send a notice, in order with the messages, and with what was missed of a `channel`; it is never dropped."""
        if self._channels.fanOuts.pending:
            self._channels.fanOuts.catchUp(self.caller)
        if self._mailbox is None and self._fits(len(notice)):
            self._connection.sendText(notice)
        else:
            self._keep(notice, channel)

    def sendNow(self, messages: Sequence[OutgoingMessage]) -> bool:
        """Send several messages in one write; do nothing and return False while others wait."""
        if self._mailbox is not None or not self._fits(sum([len(each.payload) for each in messages])):
            return False
        self._connection.sendAll(messages)
        return True

    def writeFirst(self, notices: Sequence[bytes]) -> None:
        """Send notices before everything that waits already, and then that."""
        self._put(lambda mailbox, beside: mailbox.begin(notices, self._channels.seconds(), beside))
        self._pump()

    def resume(self, channel: str, publications: Replay | list[Publication], *notices: bytes) -> None:
        """Send notices and then what was missed of a channel, before anything that comes later, at the peer's pace."""
        if not publications:
            for notice in notices:
                self.write(notice)
        elif self._connection.isOpen():
            # Everything is in the mailbox before the first is sent: sending may run code of a service, which may publish.
            self._put(lambda mailbox, beside: mailbox.resume(channel, publications, notices, self._channels.seconds(), beside))
            self._pump()

    def expiring(self, seconds: float) -> None:
        """Do nothing: a raw subscriber gets only messages."""

    def judge(self) -> Deferred[None] | None:
        """End what is no longer allowed (see `Permissions.judge`)."""
        return None if self._service is None else self._service.permissions.judge(self)

    @property
    def hasPatterns(self) -> bool:
        """Whether it is subscribed to a pattern."""
        return any(map(isPattern, self.channels))

    @property
    def isIdle(self) -> bool:
        """Whether nothing waits here that could not be had again: from the engine, by its position."""
        return not self._isPumping and self._easing is None and self._waitingFrom() is not None

    def _waitingFrom(self) -> dict[str, Position] | None:
        """Return the position before what waits of each channel; None if the engine cannot be asked for it again."""
        begins = {} if self._mailbox is None else self._mailbox.begins()
        if begins is None:
            return None
        wanted = {channel: position for channel, position in begins.items() if self._wants(channel)}
        # What came through a pattern has no position in a subscription.
        return wanted if wanted.keys() <= set(self.channels) else None

    def dropWaiting(self) -> dict[str, Position]:
        """Drop what waits, because it comes again elsewhere; return the position before it, by channel."""
        begins = self._waitingFrom()
        self._drop()
        return begins or {}

    def resumed(self, start: Start, publications: Replay | list[Publication]) -> None:
        """Go on where the same subscription has ended in another process (see `begin`)."""
        if not start.recovered:
            self.lost(start)
        self.resume(start.channel, publications)

    def hidden(self, channel: str) -> None:
        """Do nothing: a raw subscriber is not told who comes and goes."""

    def lapse(self, channel: str, reason: str = LAPSED) -> None:
        """End a subscription whose token has expired, or is revoked, unless it needs none."""
        if self._service is None or not self._service.permissions.mayStay(self.caller, channel):
            self._channels.unsubscribe(self, channel, reason)

    def expire(self) -> None:
        """Close."""
        self.caller.close(EXPIRED, "expired")

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection."""
        # A Close notice has room for 123 bytes; a character is not cut in two.
        self.caller.close(code, reason.encode(errors="replace")[:123].decode(errors="ignore"))

    def goOn(self) -> None:
        """Send the rest of a frame that was sent in part."""
        self._connection.goOn()

    # What waits.

    @property
    def waiting(self) -> int:
        """The bytes that wait in its mailbox, with what they are charged."""
        return 0 if self._mailbox is None else self._mailbox.size

    @property
    def since(self) -> float | None:
        """When the message was published that has waited longest for this subscriber; None if none waits."""
        return None if self._mailbox is None else self._mailbox.since

    def eased(self) -> Deferred[None] | None:
        """Return a Deferred for when fewer notices wait, or None: a peer that does not read its answers is not read from."""
        if self._mailbox is None or self._mailbox.notices <= self._channels.limits.replyBuffer:
            return None
        self._easing = Deferred()
        return self._easing

    def _fits(self, size: int) -> bool:
        # One message of any size is taken when nothing waits.
        waiting = self._connection.bufferedAmount()
        return not waiting or waiting + size <= self._channels.room

    def _wants(self, channel: str) -> bool:
        # Asked for each of thousands that wait: one step for each channel, whatever the names are, and one for all patterns.
        return channel in self.channels or channel.startswith(self._prefixes())

    def _prefixes(self) -> tuple[str, ...]:
        if self._patterns is None or self._patterns[0] is not self.channels:
            self._patterns = self.channels, tuple([each[:-1] for each in self.channels if isPattern(each)])
        return self._patterns[1]

    def _keep(self, item: Publication | bytes, channel: str = "") -> bool:
        if not self._connection.isOpen():
            return False
        now = self._channels.seconds()
        if isinstance(item, bytes):
            kept = self._put(lambda mailbox, beside: mailbox.addNotice(item, now, beside, channel))
        else:
            kept = self._put(lambda mailbox, beside: mailbox.add(item, now, beside))
        if not self._connection.bufferedAmount():
            self._pump()  # what this would wait for went out before it was noted
        return kept

    def _put(self, add: Callable[[Mailbox, int], bool]) -> bool:
        """Put something into the mailbox; return False if that was too much, or if the connection has ended."""
        if self._mailbox is None:
            limits = self._channels.limits
            self._connection.hold(self._pump, self._makeRoom)
            options = self._channels.options
            policyOf = self._policyOf if options is not None and options.hasPolicies else None
            self._mailbox = Mailbox(self._policy, limits.maxSendBuffer, limits.subscriberLag, policyOf, self._channels.dropped)
            self._channels.behind[self] = None
        mailbox = self._mailbox
        before = mailbox.size
        kept = add(mailbox, self._connection.waiting())
        self._connection.keep(mailbox.size - before)
        if not kept:
            self._tooSlow(mailbox)
            return False
        self._channels.backlog.relieve()
        return self._connection.isOpen()

    @property
    def _policy(self) -> Policy:
        return Policy.CLOSE if self._service is None else self._service.policy

    def _policyOf(self, channel: str) -> Policy:
        options = self._channels.options
        return (options and options.policy(channel)) or self._policy

    def _pump(self) -> None:
        """Give the connection what it has room for, as far as this turn of the reactor has time for the work."""
        if self._goesOn or self._isPumping:
            return  # already at it: a connection that eases in the middle of it would begin anew each time
        turns, outermost = self._channels.turns, False
        self._isPumping = True
        try:
            outermost = turns.begin()
            self._pumpSome(turns.share())
        finally:
            self._isPumping = False
            if outermost:
                turns.end()

    def _pumpSome(self, share: int) -> None:
        turns = self._channels.turns
        while (mailbox := self._mailbox) is not None:
            buffered = self._connection.bufferedAmount()
            room = self._channels.room - buffered
            if buffered and room <= 0:
                return
            if turns.isOver(share):
                # With a peer that reads as fast as it is written to, this would go on to the end of the history.
                self._goOnLater()
                return
            before = mailbox.size
            items = mailbox.take(min(room, PIECE), self._channels.seconds(), not buffered)
            self._connection.keep(mailbox.size - before)
            if mailbox.isLost:
                self._tooSlow(mailbox)
                return
            if items:
                messages = [OutgoingMessage(TEXT, each) if isinstance(each, bytes) else self.format(each) for each in items]
                turns.spend(STEPS * len(items) + sum([len(each.payload) for each in messages]) // BYTES)
                self._connection.sendAll(messages)
            elif mailbox:
                if not buffered:
                    self._goOnLater()  # finding one took too long
                return
            if self._mailbox is mailbox and not mailbox:
                self._drop()
            elif self._easing is not None and mailbox.notices <= self._channels.limits.replyBuffer:
                self._ease()

    def _goOnLater(self) -> None:
        self._goesOn = True
        try:
            self._channels.turns.later(self._pumpOn)
        except MemoryError:
            self._goesOn = False
            raise

    def _makeRoom(self) -> None:
        """Drop channel messages in favour of what else goes to the caller, as the policy says."""
        self._put(lambda mailbox, beside: mailbox.judge(self._channels.seconds(), beside))

    def _pumpOn(self) -> None:
        self._goesOn = False
        self._pump()

    def _tooSlow(self, mailbox: Mailbox) -> None:
        self._drop()
        why = "its history has moved on without it" if mailbox.isLost else f"{mailbox.size} bytes of channel messages wait for it"
        self._connection.fail(SlowConsumer(why))

    def _drop(self) -> None:
        if self._mailbox is not None:
            size, self._mailbox = self._mailbox.size, None
            self._channels.behind.pop(self, None)
            self._connection.hold(None)
            self._connection.keep(-size)
            self._ease()

    def _ease(self) -> None:
        easing, self._easing = self._easing, None
        if easing is not None:
            easing.callback(None)
