"""The beginning of a watch."""

from __future__ import annotations

from collections.abc import Callable

import hiredis

from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.operations import Call
from twisted_ws.engines.redis.watches import Watch
from twisted_ws.names import isPattern


class Watching(Call):
    """The beginning of a watch: the server is asked for the position once it has confirmed the subscription."""

    __slots__ = ("subscribe", "watch")

    watch: Watch
    subscribe: Callable[[Watching, Link], None]

    def send(self, link: Link) -> None:
        """Subscribe, or ask."""
        if self.watch.link is link and self.watch.isConfirmed:
            super().send(link)
        else:
            self.subscribe(self, link)

    def pack(self, link: Link) -> bytes:
        """Return the command."""
        if isPattern(self.watch.channel):
            packed: bytes = hiredis.pack_command(("PING",))
            return packed
        return super().pack(link)
