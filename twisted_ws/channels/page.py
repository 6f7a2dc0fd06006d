"""A page of a channel's history, read backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted_ws.channels.subscribers.formats import jsonFields
from twisted_ws.errors import ChannelError
from twisted_ws.message import parseBefore

if TYPE_CHECKING:
    from twisted_ws.channels.channels import Channels
    from twisted_ws.limits import Limits
    from twisted_ws.message import Publication


# The steps (see `Turns`) of a message, and how many of its bytes are one step more.
STEPS = 2
BYTES = 2048


class Page:
    """The newest messages of a channel, or the newest before one of them, for one answer.

    Args:
        limits: the server's.
        limit: messages at most; None: `Limits.answerMessages`.
        room: bytes at most, unless the first message alone has more.

    Attributes:
        messages: each as JSON fields without braces, in order.
        next: the `before` of the page before this one; None if there is none.

    Raises:
        ChannelError: the limit is more than an answer may have.
    """

    def __init__(self, limits: Limits, limit: int | None, room: int) -> None:
        if limit is not None and limit > limits.answerMessages:
            raise ChannelError("bad-request", f"limit must be 1 to {limits.answerMessages} messages.")
        self._limit = limits.answerMessages if limit is None else limit
        self._room = room
        self.messages: list[bytes] = []
        self.next: str | None = None

    async def read(self, channels: Channels, channel: str, before: str | None) -> None:
        """Read it from a channel.

        Args:
            channels: the channels.
            channel: the name.
            before: the id of a message; None: the page ends with the newest one.

        Raises:
            ChannelError: `before` is not an id, the name is invalid, or the engine cannot be asked.
        """
        place = None if before is None else parseBefore(before)
        # One more than fits shows whether there is another page.
        history = await channels.newest(channel, self._limit + 1, place)
        oldest: Publication | None = None
        for each in reversed([*history.publications]):
            fields = jsonFields(each) if len(self.messages) < self._limit else b""
            if oldest is not None and (not fields or len(fields) > self._room):
                self.next = str(oldest.position)
                break
            self._room -= len(fields)
            self.messages.append(fields)
            oldest = each
        self.messages.reverse()
        channels.turns.spend(STEPS * len(self.messages) + sum(map(len, self.messages)) // BYTES)
