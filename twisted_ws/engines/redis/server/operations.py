"""What is asked of the server, and asked again if it did not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import hiredis
from twisted.internet.defer import Deferred

from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.protocol import Lost
from twisted_ws.engines.redis.server.scripts import Script
from twisted_ws.errors import ChannelError

# Seconds that a request waits for a server that is away.
HOLD = 5.0


def unavailable(why: str = "The server of the channels does not answer.") -> ChannelError:
    """Return the refusal of what cannot be done now."""
    return ChannelError("unavailable", why)


class Asker(Protocol):
    """Where operations go on."""

    def giveBack(self, operation: Operation) -> None:
        """Take an operation that was not executed, or perhaps was: it is sent again, or refused."""

    def shut(self, operation: Operation) -> None:
        """The same, because the gate is closed."""

    def refused(self, operation: Operation, error: hiredis.ReplyError) -> None:
        """Take an operation that the server has answered with an error."""

    def misread(self, operation: Operation, error: Exception) -> None:
        """Take an operation that the server has answered with what no script of ours says."""


class Operation:
    """One request of the server.

    Attributes:
        later: fires with the answer, or fails with `ChannelError`.
        started: when it was asked (the wheel's seconds).
        size: about the bytes that it takes.
        isAgain: whether it may have been executed already.
        isOver: whether nobody waits for it any more.
    """

    __slots__ = ("_asker", "isAgain", "isOver", "later", "size", "started", "wheelSlot")

    # Whether a closed gate may answer.
    isGated = False
    # Of those that got no answer, the lower ones are sent first.
    order = 0

    def __init__(self, asker: Asker, started: float, size: int = 0) -> None:
        self._asker = asker
        self.started = started
        self.size = size
        self.isAgain = False
        self.isOver = False
        self.later: Deferred[Any] = Deferred(self._cancelled)
        self.wheelSlot: int | None = None

    def pack(self, link: Link) -> bytes:
        """Return the command for a link."""
        raise NotImplementedError

    def send(self, link: Link) -> None:
        """Send it."""
        link.commands.sendPacked(self.pack(link), self.answered)

    def done(self, reply: Any) -> None:
        """Take the reply."""
        raise NotImplementedError

    def answered(self, reply: Any) -> None:
        """Take the reply, an error, or the news that there is none."""
        if reply.__class__ is list:
            if self.isGated and reply[0] == b"closed":
                self._asker.shut(self)
            else:
                self.done(reply)
        elif isinstance(reply, Lost):
            self.isAgain = True
            self._asker.giveBack(self)
        elif isinstance(reply, hiredis.ReplyError):
            self._asker.refused(self, reply)
        else:
            self.done(reply)

    def finish(self, value: Any) -> None:
        """Answer, unless it is over."""
        if not self.isOver:
            self.isOver = True
            self.later.callback(value)

    def fail(self, error: ChannelError) -> None:
        """Refuse, unless it is over."""
        if not self.isOver:
            self.isOver = True
            self.later.errback(error)

    def deadlineReached(self, now: float) -> None:
        """Give up: the server was away for too long; called by the wheel."""
        self.fail(unavailable())

    def _cancelled(self, later: Deferred[Any]) -> None:
        self.isOver = True


class Call(Operation):
    """The execution of a script.

    Args:
        script: the script.
        keys: its keys.
        arguments: its arguments; for a gated script, those after the generation.
        convert: makes the answer of the reply; may raise `ChannelError`.
        isGated: whether the script looks at the gate.
    """

    __slots__ = ("_arguments", "_convert", "_keys", "_script", "isGated")

    def __init__(
        self,
        asker: Asker,
        started: float,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[bytes | str | int, ...],
        convert: Callable[[Any], Any],
        isGated: bool = False,
    ) -> None:
        super().__init__(asker, started)
        self._script = script
        self._keys = keys
        self._arguments = arguments
        self._convert = convert
        self.isGated = isGated

    def pack(self, link: Link) -> bytes:
        """Return the command for a link."""
        gate = (link.gen,) if self.isGated else ()
        command = (b"EVALSHA", self._script.sha, len(self._keys), *self._keys, *gate, *self._arguments)
        packed: bytes = hiredis.pack_command(command)
        return packed

    def done(self, reply: Any) -> None:
        """Answer."""
        if self.isOver:
            return
        try:
            value = self._convert(reply)
        except ChannelError as error:
            self.fail(error)
        except (ValueError, TypeError, LookupError) as error:  # keys that somebody else has written to
            self._asker.misread(self, error)
        else:
            self.finish(value)
