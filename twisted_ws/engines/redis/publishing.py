"""Messages on their way to the server and back."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import hiredis
from twisted.internet.defer import Deferred

from twisted_ws.engines.contract import HistoryLimits, MaybeDeferred
from twisted_ws.engines.redis.record import idOf
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.operations import Asker, Operation
from twisted_ws.engines.redis.server.protocol import Lost
from twisted_ws.engines.redis.server.scripts import PUBLISH
from twisted_ws.engines.redis.tail import Tail
from twisted_ws.engines.redis.watches import Watches
from twisted_ws.errors import ChannelError
from twisted_ws.message import Position, Published

if TYPE_CHECKING:
    from twisted_ws.wire.loop.wheel import Wheel

# Seconds after the server's answer for the message itself, which comes by another connection.
ARRIVAL = 2.0
# Channels whose keys are remembered.
PLACES = 10_000
# Messages in one command, and their bytes: the server does nothing else meanwhile.
TOGETHER = 32
TOGETHER_BYTES = 64 * 1024

_packSaid = struct.Struct(">HdBddB").pack
_packLimits = struct.Struct(">ddd").pack


def packedLimits(limits: HistoryLimits) -> bytes:
    """Return limits as the scripts want them: messages, ms, bytes."""
    return _packLimits(limits.messages, max(int(limits.age * 1000), 1), limits.bytes)


def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


class Publisher:
    """What all publications of one engine share.

    Attributes:
        instance: a name for this engine, which no other has or had: 8 letters or digits.
        tag: what the epochs that begin here end with: 3 of these.
        watches: what is watched here.
        tail: where messages are remembered that were acknowledged, and do not come.
        wheel: for deadlines.
        awaited: the publications that will come back, by number.
        keys: the names.
    """

    def __init__(
        self,
        keys: Keys,
        node: str,
        instance: str,
        watches: Watches,
        tail: Tail,
        wheel: Wheel,
        limits: HistoryLimits,
        receipts: int,
    ) -> None:
        self.keys = keys
        self.instance = instance
        self.tag = instance[-3:].encode("ascii")
        self.watches = watches
        self.tail = tail
        self.wheel = wheel
        self.awaited: dict[int, Publishing] = {}
        self._before = _sized(keys.prefix) + _sized(keys.messages)
        self._after = b"%b%b%b%b%b" % (
            self.tag,
            instance.encode("ascii"),
            packedLimits(limits),
            struct.pack(">d", receipts),
            _sized(node.encode()),
        )
        self._numbers = 0
        self._places: dict[str, bytes] = {}

    def place(self, channel: str) -> bytes:
        """Return the key of a channel."""
        found = self._places.get(channel)
        if found is None:
            if len(self._places) >= PLACES:
                self._places.clear()
            found = self._places[channel] = self.keys.of(b"m:", channel)
        return found

    def common(self, gen: bytes) -> bytes:
        """Return what the publications of a generation have in common, as the script wants it."""
        return self._before + gen + self._after

    def number(self) -> int:
        """Return the number of the next publication."""
        self._numbers += 1
        return self._numbers

    def overdue(self, now: float) -> None:
        """Do without the messages that have not come."""
        for each in [*self.awaited.values()]:
            if each.acknowledged is not None and each.acknowledged <= now - ARRIVAL:
                each.missed()

    def settle(self) -> None:
        """Take what has come for published, though its answer got lost: the server goes on without it, or was given it."""
        for each in [*self.awaited.values()]:
            each.known()


class Batch:
    """Messages of one turn of the reactor, as one command.

    Args:
        shared: what all publications share.
        gen: the generation.

    Attributes:
        operations: the messages.
        room: bytes that it has room for.
    """

    __slots__ = ("_common", "_shared", "operations", "room")

    def __init__(self, shared: Publisher, gen: bytes) -> None:
        self.operations: list[Publishing] = []
        self.room = TOGETHER_BYTES
        self._shared = shared
        self._common = shared.common(gen)

    def pack(self) -> tuple[bytes, int]:
        """Return the command, and how many messages there are."""
        shared, told = self._shared, self._shared.watches.told
        keys, said = [shared.keys.open], []
        numbers: dict[str, int] = {}
        for each in self.operations:
            channel, limits = each.channel, each.limits
            number = numbers.get(channel)
            if number is None:
                keys.append(shared.place(channel))
                number = numbers[channel] = len(keys)
            about = _packSaid(number, each.number, each.isAgain, told(channel), each.here, len(limits))
            said.append(about + limits + each.receipt if limits or each.receipt else about)
            said.append(each.body)
        packed: bytes = hiredis.pack_command((b"EVALSHA", PUBLISH.sha, len(keys), *keys, self._common, *said))  # type: ignore[arg-type]
        return packed, len(self.operations)

    def answered(self, reply: Any) -> None:
        """Give each message its answer."""
        if reply.__class__ is not list or reply[0] == b"closed":
            for operation in self.operations:
                operation.answered(reply)
            return
        parts = iter(reply)
        for operation, what, about in zip(self.operations, parts, parts, strict=True):
            if what.__class__ is int:
                operation.published(what, about)
            elif what == b"error":
                operation.answered(hiredis.ReplyError(about.decode(errors="replace")))
            else:
                operation.done([what, about])


class Publishing(Operation):
    """One message.

    Args:
        shared: what it shares with others.
        channel: the channel.
        body: the message (see `twisted_ws.engines.redis.record.encodeBody`).
        number: distinguishes it from all others of this engine.
        limits: those of the history (see `packedLimits`); b"": the server's own.
        receipt: see `twisted_ws.engines.redis.record.encodeReceipt`; b"" without.
        here: how many are subscribed here; -1 without a receipt.

    Attributes:
        channel, body, number, limits, receipt, here: see above.
        acknowledged: when the server's answer came (the wheel's time); None: it has not.
    """

    __slots__ = (
        "_answer",
        "_head",
        "_local",
        "_position",
        "_shared",
        "acknowledged",
        "body",
        "channel",
        "here",
        "limits",
        "number",
        "receipt",
    )

    isGated = True

    def __init__(
        self,
        asker: Asker,
        started: float,
        shared: Publisher,
        channel: str,
        body: bytes,
        number: int,
        limits: bytes,
        receipt: bytes = b"",
        here: int = -1,
    ) -> None:
        super().__init__(asker, started, len(body))
        self._shared = shared
        self.channel = channel
        self.body = body
        self.number = number
        self.limits = limits
        self.receipt = receipt
        self.here = here
        self.acknowledged: float | None = None
        self._local: int | None = None  # the connections here, once the message has come
        self._position: Position | None = None  # its id, once it has come
        self._head = b""
        self._answer: tuple[str, int] | None = None  # id and recipients elsewhere
        if shared.watches.hears(channel):
            shared.awaited[number] = self

    @property
    def order(self) -> int:  # type: ignore[override]
        """Return its number: the order in which messages of one node are numbered is that in which they were published."""
        return self.number

    def send(self, link: Link) -> None:
        """Send it, together with others of the same turn."""
        commands = link.commands
        batch = commands.growing
        if batch.__class__ is not Batch or len(batch.operations) == TOGETHER or batch.room < self.size:
            if commands.ended is not None:
                self.answered(Lost(commands.ended))
                return
            batch = Batch(self._shared, link.gen)
            commands.grow(batch)
        commands.waiting += 1
        batch.room -= self.size
        batch.operations.append(self)

    def published(self, recipients: int, head: bytes) -> None:
        """Take the server's answer: it is done."""
        self._answer = idOf(head), recipients
        if self._local is None:
            self._head = head
            self.acknowledged = self._shared.wheel.now
            if self.number in self._shared.awaited:
                return
            self._remember()
        self._complete()

    def _remember(self) -> None:
        """Remember it for the server, which may forget it: it has not come, and perhaps to nobody."""
        self._shared.tail.add(self.channel, self._head + self.body, self._shared.wheel.now)

    def done(self, reply: list[Any]) -> None:
        """Take another answer."""
        kind, about = reply
        if kind == b"known":
            if len(about) > 2:
                self._shared.tail.add(self.channel, about[2] + self.body, self._shared.wheel.now)
            self._answer = about[0].decode("ascii"), about[1]
            self._complete()
        elif kind == b"reused":
            self.fail(
                ChannelError("key-reused", "The idempotency key was already used for another message: nothing was published.")
            )
        else:
            self.fail(ChannelError("internal-error", "The server has given an unknown answer."))

    def arrived(self, taken: MaybeDeferred[int], position: Position) -> None:
        """Learn to how many here the message was written, or will be, and its id."""
        self._position = position
        if taken.__class__ is int:
            self._served(taken)
        else:
            taken.addCallback(self._served)  # type: ignore[union-attr]

    def _served(self, count: int) -> int:
        self._local = count
        if self._answer is not None:
            self._complete()
        return count

    def _complete(self) -> None:
        """Answer."""
        assert self._answer is not None
        self._leave()
        if not self.isOver:
            self.isOver = True
            text, recipients = self._answer
            if self._local is not None and not self.receipt:  # with a receipt, every answer is the same
                recipients += self._local
            self.later.callback(Published(self.channel, text, recipients))

    def fail(self, error: ChannelError) -> None:
        """Refuse."""
        self._leave()
        super().fail(error)

    def known(self) -> None:
        """Do without the server's answer, if the message has come."""
        if self._position is not None and self._answer is None:
            self._local = self._local or 0
            self._answer = str(self._position), self._local if self.receipt else 0
            self._complete()

    def missed(self) -> None:
        """Learn that the message itself will not come."""
        if self._answer is not None:
            self._remember()
            self._complete()

    def interrupted(self) -> None:
        """Learn that the link has ended on which the message was to come: it is sent again.

        If the server has forgotten it, others that were numbered before it are forgotten, too, perhaps; nobody could put it back
        in its place.
        """
        if self._answer is not None and self._position is None:
            self._answer = self.acknowledged = None
            self.isAgain = True
            self._asker.giveBack(self)

    def _leave(self) -> None:
        self._shared.awaited.pop(self.number, None)
        if self.wheelSlot is not None:
            self._shared.wheel.drop(self)

    def _cancelled(self, later: Deferred[Any]) -> None:
        super()._cancelled(later)
        self._leave()
