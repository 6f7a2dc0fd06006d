"""One message on its way to the server and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis
from twisted.internet.defer import Deferred

from twisted_ws.engines.contract import MaybeDeferred
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.operations import Asker, Operation
from twisted_ws.engines.redis.server.scripts import PUBLISH
from twisted_ws.engines.redis.tail import Tail
from twisted_ws.engines.redis.watches import Watches
from twisted_ws.errors import ChannelError
from twisted_ws.message import Published

if TYPE_CHECKING:
    from twisted_ws.wire.loop.wheel import Wheel

# Seconds after the server's answer for the message itself, which comes by another connection.
ARRIVAL = 2.0


# Channels whose keys are remembered.
PLACES = 10_000


class Publisher:
    """What all publications of one engine share.

    Attributes:
        keys: the names.
        node: the id of the node.
        instance: a name for this engine, which no other has or had.
        tag: what the epochs that begin here end with.
        watches: what is watched here.
        tail: where acknowledged messages are remembered.
        wheel: for deadlines.
        awaited: the publications that will come back, by uid.
        receipts: the milliseconds that receipts are kept.
    """

    def __init__(self, keys: Keys, node: str, instance: str, watches: Watches, tail: Tail, wheel: Wheel, receipts: int) -> None:
        self.keys = keys
        self.node = node.encode()
        self.instance = instance.encode("ascii")
        self.tag = instance[-3:].encode("ascii")
        self.watches = watches
        self.tail = tail
        self.wheel = wheel
        self.awaited: dict[bytes, Publishing] = {}
        self.receipts = receipts
        self._numbers = 0
        self._places: dict[str, tuple[tuple[bytes, ...], bytes, bytes]] = {}

    def places(self, channel: str) -> tuple[tuple[bytes, ...], bytes, bytes]:
        """Return the keys of a channel, its name, and its pub/sub channel, as the script wants them."""
        found = self._places.get(channel)
        if found is None:
            keys, name = self.keys, channel.encode("ascii")
            prefix = keys.prefix
            own = tuple([prefix + letter + name for letter in (b"m:", b"s:", b"c:")])
            if len(self._places) >= PLACES:
                self._places.clear()
            found = self._places[channel] = (keys.gate, *own, keys.names), name, keys.messages + name
        return found

    def number(self) -> int:
        """Return the number of the next publication."""
        self._numbers += 1
        return self._numbers

    def isOwn(self, uid: bytes) -> bool:
        """Return whether a message was published here."""
        return uid.startswith(self.instance + b"-")


class Publishing(Operation):
    """One message.

    Args:
        shared: what it shares with others.
        channel: the channel.
        envelope: the message.
        number: with the instance, its uid.
        history: messages, ms, bytes, and the ms that the channel lives.
        receipt: idempotency key and fingerprint; None without.
        here: how many are subscribed here; with a receipt only.
    """

    __slots__ = ("_answer", "_channel", "_envelope", "_here", "_history", "_local", "_number", "_receipt", "_shared", "_uid")

    isGated = True

    def __init__(
        self,
        asker: Asker,
        started: float,
        shared: Publisher,
        channel: str,
        envelope: bytes,
        number: int,
        history: tuple[bytes, bytes, bytes, bytes],
        receipt: tuple[str, bytes] | None,
        here: int,
    ) -> None:
        super().__init__(asker, started, len(envelope))
        self._shared = shared
        self._channel = channel
        self._envelope = envelope
        self._number = number
        self._history = history
        self._receipt = receipt
        self._here = here
        self._uid = b"%b-%d" % (shared.instance, number)
        self._local: int | None = None  # the connections here, once the message has come
        self._answer: tuple[str, int] | None = None  # id and recipients elsewhere
        if shared.watches.hears(channel):
            shared.awaited[self._uid] = self

    def pack(self, link: Link) -> bytes:
        """Return the command."""
        shared = self._shared
        names, channel, topic = shared.places(self._channel)
        values: tuple[bytes | int, ...] = (
            link.run,
            link.gen,
            shared.tag,
            shared.instance,
            self._number,
            b"1" if self.isAgain else b"0",
            shared.node,
            channel,
            topic,
            self._envelope,
            *self._history,
        )
        if self._receipt is not None:
            key, fingerprint = self._receipt
            names = (*names, b"%br:%b:%b" % (shared.keys.prefix, channel, key.encode()))
            values = (
                *values,
                fingerprint,
                shared.receipts,
                self._here,
                b"%b:%b" % (key.encode().hex().encode("ascii"), fingerprint.hex().encode("ascii")),
            )
        packed: bytes = hiredis.pack_command((b"EVALSHA", PUBLISH.sha, len(names), *names, *values))  # type: ignore[arg-type]
        return packed

    def done(self, reply: list[Any]) -> None:
        """Take the server's answer."""
        kind = reply[0]
        if kind == b"ok":
            line: bytes = reply[1]
            epoch, offset, _ = line.split(b" ", 2)
            self._answer = f"{epoch.decode('ascii')}:{offset.decode('ascii')}", reply[2]
            if self._local is None:
                # It may get lost before it comes, and the server may forget it then.
                self._shared.tail.add(self._channel, line + b"\n" + self._envelope, self._shared.wheel.now)
                if self._uid in self._shared.awaited:
                    self._shared.wheel.after(self, ARRIVAL)
                    return
            self._complete()
        elif kind == b"known":
            if len(reply) > 3:
                self._shared.tail.add(self._channel, reply[3] + b"\n" + self._envelope, self._shared.wheel.now)
            self._answer = reply[1].decode("ascii"), reply[2]
            self._complete()
        elif kind == b"reused":
            self.fail(
                ChannelError("key-reused", "The idempotency key was already used for another message: nothing was published.")
            )
        else:
            self.fail(ChannelError("internal-error", "The server has given an unknown answer."))

    def arrived(self, taken: MaybeDeferred[int]) -> None:
        """Learn to how many here the message was written, or will be."""
        if isinstance(taken, Deferred):
            taken.addCallback(self._served)
        else:
            self._served(taken)

    def _served(self, count: int) -> int:
        self._local = count
        if self._answer is not None:
            self._complete()
        return count

    def _complete(self) -> None:
        assert self._answer is not None
        if not self.isOver:
            # With a receipt, every answer is the same.
            local = 0 if self._receipt is not None else self._local or 0
            self.finish(Published(self._channel, self._answer[0], self._answer[1] + local))

    def finish(self, value: Any) -> None:
        """Answer."""
        self._leave()
        super().finish(value)

    def fail(self, error: ChannelError) -> None:
        """Refuse."""
        self._leave()
        super().fail(error)

    def missed(self) -> None:
        """Learn that the message itself will not come: the way to the server has ended."""
        if self._answer is not None:
            self._complete()

    def deadlineReached(self, now: float) -> None:
        """Do without the message itself, or give up; called by the wheel."""
        if self._answer is not None:
            self._complete()
        else:
            super().deadlineReached(now)

    def _leave(self) -> None:
        self._shared.awaited.pop(self._uid, None)
        if self.wheelSlot is not None:
            self._shared.wheel.drop(self)

    def _cancelled(self, later: Deferred[Any]) -> None:
        super()._cancelled(later)
        self._leave()
