"""What `Channels` asks of each subscriber, whatever its transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from twisted_ws.access.refusals import REVOKED
from twisted_ws.channels.subscribers.formats import Format
from twisted_ws.engines.replay import Replay
from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import Publication, Start
from twisted_ws.wire.speedups import NEVER


class Subscriber:
    """A subscriber of channels: a WebSocket caller, an event stream, or a poll that waits.

    A transport implements `send`, `begin`, `ended` and `tell`. `Channels` calls them; they never raise and never wait. What the
    peer cannot take yet, the transport keeps (in a `Mailbox`) or drops.

    Attributes:
        transport: as its resumptions are counted; "": they are not, because each poll is one.
        format: makes, of a publication, what `send` gets; subscribers with the same object share what it makes.
        caller: what services see of it: a `Caller` or a `Visitor`.
        channels: the channels and patterns that it is subscribed to; set by `Channels`.
        gone: whether it has left for good (`Channels.leave`) and can subscribe no more.
        isCounted: whether it is among the subscribers that anybody is told of; the same for all with one format.
    """

    __slots__ = ("caller", "channels", "gone")

    transport: ClassVar[str] = ""
    format: ClassVar[Format]
    isCounted: ClassVar[bool] = True

    def __init__(self, caller: Any) -> None:
        self.caller = caller
        self.channels: tuple[str, ...] = ()
        self.gone = False

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Take the answer to a subscription, then what was missed, before anything that `send` gets.

        Args:
            start: the answer.
            publications: what was missed.
            who: who is there, as it appears in JSON, if that was asked for.
        """
        raise NotImplementedError

    def send(self, message: Any) -> bool:
        """Take one message, as `format` made it; return whether it is sent or waits."""
        raise NotImplementedError

    def ended(self, channel: str, reason: str) -> None:
        """A subscription has ended; `reason` is "" if the subscriber asked for that or has gone."""

    def lost(self, start: Start) -> None:
        """A subscription goes on from `start`, and something before that was neither sent nor can be had."""

    def degraded(self, isDegraded: bool) -> None:
        """The engine does not reach what it works with, or does so again: until then, nothing is published."""

    def tell(self, notices: Sequence[OutgoingMessage]) -> None:
        """Take notices about a channel: each is the JSON of a join or leave."""

    def judge(self) -> Any:
        """End what rules that have changed do not allow any more; return a Deferred if somebody has to be asked for that."""

    def expire(self) -> None:
        """End, because the credentials of the client have; it may come back with new ones."""
        raise NotImplementedError

    def revoke(self, token: str) -> None:
        """End what needs the subscription token with an id, which is revoked."""
        life = self.caller.life
        for channel in () if life is None else life.withToken(token):
            life.release(channel)
            self.lapse(channel, REVOKED)

    def lapse(self, channel: str, reason: str) -> None:
        """End a subscription whose token has expired, or is revoked, unless it needs none."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection for good, at the request of somebody else."""
        raise NotImplementedError

    # What `FanOuts` asks of a connection besides `send`; this default never takes the same bytes as others.

    sender: Any = NEVER

    def goOn(self) -> None:
        """Send the rest of a frame that was sent in part (see `twisted_ws.wire.websocket.fanout`)."""
        raise NotImplementedError
