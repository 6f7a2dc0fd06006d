"""Tails at one server: what is published to a channel, or what some callers receive and send, kept until it is fetched.

Whoever wants a tail asks all servers several times a second, with the list of all that it wants. What is no longer asked for
ends, so nothing is left behind by whoever has gone; and a server that comes later knows at once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from twisted_ws.caller import connectionIds
from twisted_ws.channels.subscribers.formats import Format
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.errors import ChannelError, ConnectionClosed
from twisted_ws.inspection.callers import find, userOf
from twisted_ws.logs import printable
from twisted_ws.message import BINARY, Kind, Publication, Start
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.websocket.observing import isObserved, observe

if TYPE_CHECKING:
    from twisted_ws.engines.replay import Replay
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "tails"
# Lines a second of one tail, at each server and at all together; more are counted. Nobody reads faster.
RATE = 200
# Seconds between two questions.
INTERVAL = 0.25
# Lines that wait to be fetched.
WAITING = round(RATE * INTERVAL)
# Seconds after which a tail ends that nobody asks for any longer.
FORGOTTEN = 5.0
# Callers of one user that are followed at once.
FOLLOWED = 100
# Characters of a message that are shown; bytes of a binary one, which become as many characters of base64.
SHOWN = 1000
BINARY_SHOWN = 750
# What a tail follows.
CHANNEL, CONNECTION, USER = "channel", "connection", "user"


class Wanted(Struct, frozen=True):
    """One tail that somebody wants.

    Attributes:
        id: distinguishes it from all others, also those of other sites.
        kind: `CHANNEL`, `CONNECTION` or `USER`.
        name: which.
        at: the server that follows a channel, since each would be told of the same messages; "" for all.
    """

    id: str
    kind: str
    name: str
    at: str = ""


class Asked(Struct, frozen=True):
    """All that one site wants.

    Attributes:
        site: the id of its server.
        tails: all of them.
    """

    site: str
    tails: tuple[Wanted, ...]


class Line(Struct, omit_defaults=True):
    """One thing that has happened."""

    time: float
    node: str
    what: str
    connection: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    data: str | UnsetType = UNSET
    cut: bool = False
    note: str | UnsetType = UNSET


class Seen(Struct):
    """What one server has seen of one tail since it was asked last.

    Attributes:
        lines: in order.
        skipped: how many more there were.
        isThere: whether there is anything to follow: a channel always is.
        refused: why the tail cannot be.
    """

    lines: list[msgspec.Raw]
    skipped: int
    isThere: bool
    refused: str = ""


class Answer(Struct):
    """What one server answers."""

    node: str
    tails: dict[str, Seen]


_encode = msgspec.json.Encoder().encode
_decodeAsked = msgspec.json.Decoder(Asked).decode


class Tail:
    """One tail at one server.

    Args:
        server: the server.
        wanted: what it follows.
    """

    def __init__(self, server: WebSocketServer, wanted: Wanted) -> None:
        self.wanted = wanted
        self._server = server
        self._lines: list[msgspec.Raw] = []
        self._skipped = 0

    def note(self, what: str, make: Callable[[], dict[str, Any]]) -> None:
        """Keep a line, or count it if there are too many; only then is it made."""
        if len(self._lines) >= WAITING:
            self._skipped += 1
            return
        line = Line(self._server.runtime.unixTime(), self._server.node.id, what, **make())
        self._lines.append(msgspec.Raw(_encode(line)))

    def take(self) -> Seen:
        """Return what has been kept, and begin anew."""
        lines, self._lines = self._lines, []
        skipped, self._skipped = self._skipped, 0
        return Seen(lines, skipped, self.isThere, self.refused)

    @property
    def isThere(self) -> bool:
        """Whether there is anything to follow here."""
        return True

    refused = ""

    def look(self) -> None:
        """Find out what has changed; called before each `take`."""

    def end(self) -> None:
        """Stop following."""


class ChannelTail(Tail):
    """The messages of a channel or pattern, by a subscription that nobody is told of."""

    def __init__(self, server: WebSocketServer, wanted: Wanted) -> None:
        super().__init__(server, wanted)
        self._subscriber = _Ear(self)
        self.refused = ""
        try:
            begun = server.channels.subscribe(self._subscriber, wanted.name)
        except ChannelError as error:
            self.refused = error.message
        else:
            begun.addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        if failure.check(ConnectionClosed):
            return  # it has ended meanwhile
        failure.trap(ChannelError)
        self.refused = failure.value.message

    def published(self, publication: Publication) -> None:
        """Note a message."""
        self.note("published", lambda: {**_of(publication), **_shown(publication.kind, publication.payload)})

    def end(self) -> None:
        """Unsubscribe."""
        self._server.channels.leave(self._subscriber)


class _Nobody:
    """Who has subscribed, where a caller would be: no roster knows it, and presence does not tell of it."""

    user = life = None

    def __init__(self) -> None:
        self.connectionId = next(connectionIds)
        self.request = UpgradeRequest("/")
        self.membership: Any = None


def _asItIs(publication: Publication) -> Publication:
    return publication


class _Ear(Subscriber):
    """The subscription of a tail."""

    __slots__ = ("_tail",)

    format: ClassVar[Format] = staticmethod(_asItIs)
    isCounted = False

    def __init__(self, tail: ChannelTail) -> None:
        super().__init__(_Nobody())
        self.caller.membership = self
        self._tail = tail

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Take the answer: a tail begins with what comes."""

    def send(self, message: Publication) -> bool:
        """Note a message, without being a recipient of it."""
        self._tail.published(message)
        return False

    def goOn(self) -> None:
        """Nothing is sent in parts."""

    def expire(self) -> None:
        """Nothing expires."""

    def disconnect(self, code: int, reason: str) -> None:
        """Nobody knows it who could."""


class CallerTail(Tail):
    """What some callers receive and send: one connection, or all of a user's."""

    def __init__(self, server: WebSocketServer, wanted: Wanted) -> None:
        super().__init__(server, wanted)
        self._followed: dict[Any, _Followed] = {}
        for each in self._find():
            self._followed[each] = _Followed(self, each)

    @property
    def isThere(self) -> bool:
        """Whether any of them is here."""
        return bool(self._followed)

    def _find(self) -> Sequence[Any]:
        if self.wanted.kind == CONNECTION:
            each = find(self._server, self.wanted.name)
            return () if each is None else (each,)
        server, user = self._server, self.wanted.name
        return [*server.callers.find(user=user), *server.channels.visitors.find(user=user)][:FOLLOWED]

    def look(self) -> None:
        """Follow those that have come, and forget those that have left."""
        now = dict.fromkeys(self._find())
        for each in [each for each in self._followed if each not in now]:
            self._followed.pop(each).end(hasLeft=True)
        for each in now:
            if each not in self._followed:
                self._followed[each] = _Followed(self, each)
                self.note("opened", partial(dict, connection=each.connectionId, user=_orUnset(userOf(each))))
        for followed in self._followed.values():
            followed.look()

    def end(self) -> None:
        """Let them go."""
        for each in self._followed.values():
            each.end()
        self._followed.clear()


class _Followed:
    """One caller that is followed; implements `twisted_ws.wire.websocket.observing.Observer`."""

    def __init__(self, tail: CallerTail, caller: Any) -> None:
        self._tail = tail
        self._caller = caller
        self._channels = caller.channels
        self._isClosed = False
        connection = caller._connection
        self._stop = None if connection is None else observe(connection, self)

    def received(self, message: str | bytes) -> None:
        """Note a message from it."""
        binary = isinstance(message, bytes)
        payload = message.encode("utf-8", "replace") if isinstance(message, str) else message
        kind = Kind.BINARY if binary else Kind.TEXT
        self._tail.note("received", lambda: {"connection": self._caller.connectionId, **_shown(kind, payload)})

    def sent(self, opcode: int, payload: Any, publication: Any) -> None:
        """Note a message to it."""

        def make() -> dict[str, Any]:
            data = payload.encode("utf-8", "replace") if isinstance(payload, str) else payload
            kind = Kind.BINARY if opcode == BINARY else Kind.TEXT
            about = {} if publication is None else _of(publication)
            return {"connection": self._caller.connectionId, **about, **_shown(kind, data)}

        self._tail.note("sent", make)

    def ended(self, code: int, reason: str) -> None:
        """Note its end."""
        self._isClosed = True
        note = printable(f"{code} {reason}".rstrip())
        self._tail.note("closed", lambda: {"connection": self._caller.connectionId, "note": note})

    def look(self) -> None:
        """Note what it has subscribed to, and what it has left."""
        connection = self._caller._connection
        if connection is not None and not self._isClosed and not isObserved(connection):
            self._stop = observe(connection, self)  # a hand-over has looked whether it can go, and it has not gone
        before, self._channels = self._channels, self._caller.channels
        if before is not self._channels:
            for what, some, others in ("unsubscribed", before, self._channels), ("subscribed", self._channels, before):
                for channel in dict.fromkeys(some):
                    if channel not in others:
                        self._tail.note(what, partial(dict, connection=self._caller.connectionId, channel=channel))

    def end(self, hasLeft: bool = False) -> None:
        """Let it go."""
        if hasLeft and not self._isClosed:
            self._tail.note("closed", lambda: {"connection": self._caller.connectionId})
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


def _orUnset(text: str | None) -> Any:
    return UNSET if text is None else text


def _of(publication: Publication) -> dict[str, Any]:
    return {"channel": publication.channel, "id": f"{publication.epoch}:{publication.offset}"}


def _shown(kind: Kind, payload: Any) -> dict[str, Any]:
    """Return a message as it is shown: its kind, size, and beginning, with control characters escaped."""
    size = len(payload)
    if kind is Kind.BINARY:
        data, isCut = base64.b64encode(bytes(payload[:BINARY_SHOWN])).decode("ascii"), size > BINARY_SHOWN
    else:
        text = bytes(payload[: 4 * SHOWN]).decode("utf-8", "replace")
        data = printable(text, SHOWN)
        isCut = size > 4 * SHOWN or len(data) > SHOWN
    return {"kind": kind.value, "bytes": size, "data": data, "cut": isCut}


class Tails:
    """All tails at one server, by who wants them.

    Args:
        server: the server.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self.wheelSlot: int | None = None
        self._server = server
        self._sites: dict[str, tuple[float, dict[str, Tail]]] = {}

    def __len__(self) -> int:
        return sum(len(tails) for _, tails in self._sites.values())

    def answer(self, payload: bytes) -> bytes:
        """Begin what is wanted, end what is not wanted any more, and return what was seen."""
        asked, server = _decodeAsked(payload), self._server
        now = server.runtime.wheel.seconds()
        _, tails = self._sites.get(asked.site, (0.0, {}))
        wanted = {each.id: each for each in asked.tails if each.at in ("", server.node.id)}
        for name in [name for name, tail in tails.items() if wanted.get(name) != tail.wanted]:
            tails.pop(name).end()
        for name, each in wanted.items():
            if name not in tails:
                tails[name] = (ChannelTail if each.kind == CHANNEL else CallerTail)(server, each)
        if tails:
            self._sites[asked.site] = now, tails
            server.runtime.wheel.after(self, FORGOTTEN)
        else:
            self._sites.pop(asked.site, None)
        for tail in tails.values():
            tail.look()
        return _encode(Answer(server.node.id, {name: tail.take() for name, tail in tails.items()}))

    def deadlineReached(self, now: float) -> None:
        """End what nobody has asked for lately; called by the wheel."""
        for site, (asked, tails) in tuple(self._sites.items()):
            if now - asked >= FORGOTTEN:
                del self._sites[site]
                for tail in tails.values():
                    tail.end()
        if self._sites:
            self._server.runtime.wheel.after(self, FORGOTTEN)


def answerTails(server: WebSocketServer) -> Tails:
    """Let all servers with the same engine have tails at this one."""
    tails = Tails(server)
    server.node.answers[KIND] = tails.answer
    return tails
