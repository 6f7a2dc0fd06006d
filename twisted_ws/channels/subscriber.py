"""What `Channels` asks of each subscriber, whatever its transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from twisted_ws.channels.formats import Format
from twisted_ws.channels.replay import Replay
from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import Publication, Start
from twisted_ws.wire.speedups import NEVER

__all__ = ["Subscriber"]


class Subscriber:
    """One who is subscribed to channels: a WebSocket caller, an event stream, a poll that waits.

    A transport implements `send`, `begin`, `ended` and `tell`. They are called by `Channels`, never raise, and never wait: what
    the peer cannot take now is the transport's to keep (in a `Mailbox`) or to drop.

    Attributes:
        format: makes, of a publication, what `send` gets; those with the same one (the same object) share what it makes.
        caller: who it is for services: `Caller`, or what stands for it, with a `connectionId` and a `user`.
        channels: the channels and patterns it is subscribed to. `Channels` sets it.
        gone: whether it has left for good (`Channels.leave`) and can subscribe no more.
    """

    __slots__ = ("caller", "channels", "gone")

    format: ClassVar[Format]

    def __init__(self, caller: Any) -> None:
        self.caller = caller
        self.channels: tuple[str, ...] = ()
        self.gone = False

    def begin(self, start: Start, publications: Replay | list[Publication]) -> None:
        """Take the answer to a subscription and what was missed, in this order and before anything that `send` gets."""
        raise NotImplementedError

    def send(self, message: Any) -> bool:
        """Take one message, as `format` made it; say whether it is sent or waits."""
        raise NotImplementedError

    def ended(self, channel: str, reason: str) -> None:
        """A subscription has ended: `reason` is "" when the subscriber wanted it or has gone."""

    def tell(self, notices: Sequence[OutgoingMessage]) -> None:
        """Take notices about a channel: each is the JSON of a join or leave."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection for good, at somebody's command."""
        raise NotImplementedError

    # What `fanOut` asks of a connection beside `send`: nothing, for what is no socket with the same bytes for all.

    sender: Any = NEVER

    def goOn(self) -> None:
        """Go on with a frame that was sent in part (see `twisted_ws.wire.websocket.fanout`)."""
        raise NotImplementedError
