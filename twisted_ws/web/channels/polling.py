"""Polling: new messages of channels in one JSON answer; a long poll waits for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.channels.page import Page
from twisted_ws.channels.subscribers.formats import Format, jsonFields
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.engines.replay import Replay
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.message import NOWHERE, Cursor, Position, Publication, Start, cursor, parseAfter, parseLast
from twisted_ws.names import isPattern
from twisted_ws.web.channels.request import presenceOf
from twisted_ws.web.channels.stream import returnDelay
from twisted_ws.web.http.compression import answerCompressed
from twisted_ws.web.http.coroutines import answerLater
from twisted_ws.web.http.errors import HttpError, retryAfter

if TYPE_CHECKING:
    from twisted_ws.access.tokens.claims import ChannelGrants
    from twisted_ws.limits import Limits
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.channels.request import ChannelRequest
    from twisted_ws.web.http.request import HttpRequest

_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_COUNT = re.compile(r"[0-9]{1,9}")
# The steps (see `Turns`) that the answer to a waiting poll costs.
ANSWER = 60

# What is quoted, without the suffix of a proxy or server that compresses; weak tags (W/) are accepted, too.
_TAG = re.compile(r'"([^"]*?)(?:[-;]{1,2}(?:gzip|br|zstd|deflate))?"')
# A client that has one answer has one tag; a proxy, or a person, may send several.
_TAGS = 16


class Gathered:
    """The messages of one answer, up to its limits, and the position after them.

    Args:
        most: the maximum number of messages.
        limits: for `answerBytes`.

    Attributes:
        recovered: whether all messages since the requested positions are there.
        messages: each as JSON fields without braces.
    """

    def __init__(self, most: int, limits: Limits) -> None:
        self._most = most
        self._room = limits.answerBytes
        self._positions: dict[str, Position] = {}
        self._full = False
        self._answers: list[bool] = []
        self.messages: list[bytes] = []

    @property
    def recovered(self) -> bool:
        """Whether nothing was lost; False if no position was given."""
        return bool(self._answers) and all(self._answers)

    def begin(self, channel: str, position: Position | None, recovered: bool, asked: bool) -> None:
        """Note where the messages of a channel begin, and whether the request `asked` for that position."""
        if position is not None:
            self._positions[channel] = position
        if asked:
            self._answers.append(recovered)

    def add(self, publication: Publication, fields: bytes) -> bool:
        """Add a message; return False if it does not fit: then none after it does."""
        if self._full or len(self.messages) >= self._most or (self.messages and len(fields) > self._room):
            self._full = True
            return False
        self._room -= len(fields)
        self.messages.append(fields)
        if publication.channel in self._positions:
            self._positions[publication.channel] = publication.position
        return True

    def close(self) -> None:
        """Take no more messages."""
        self._full = True

    def addAll(self, runs: Sequence[Iterable[Publication]]) -> None:
        """Add the messages of several channels, ordered by time."""
        for publication in merge(*runs, key=attrgetter("at")) if len(runs) > 1 else chain(*runs):
            if not self.add(publication, jsonFields(publication)):
                return

    def place(self, bare: bool) -> str | None:
        """Return the position after the last message, with names unless `bare`; None if there are only patterns."""
        if bare:
            return next((str(position) for position in self._positions.values()), None)
        return cursor(self._positions) or None

    def tag(self, names: Sequence[str]) -> str | None:
        """Return a short form of it, for the ETag of an answer about these channels and patterns."""
        if len(names) == 1:
            return self.place(True)
        short = Cursor(names)
        for channel, position in self._positions.items():
            short.begin(channel, position)
        return str(short) if short else None


class _Question:
    """What a poll asks for.

    Raises:
        ChannelError: it is malformed.
    """

    def __init__(self, request: HttpRequest, channelRequest: ChannelRequest, limits: Limits) -> None:
        query = channelRequest.query
        self.names = channelRequest.names
        self.alone = len(self.names) == 1
        self.presence = query.get("presence") == "true"
        wait, limit = query.get("wait", "0"), query.get("limit", str(limits.answerMessages))
        if not _SECONDS.fullmatch(wait) or float(wait) > limits.pollWait:
            raise ChannelError("bad-request", f"wait must be 0 to {limits.pollWait:g} seconds.")
        if not _COUNT.fullmatch(limit) or not 1 <= int(limit) <= limits.answerMessages:
            raise ChannelError("bad-request", f"limit must be 1 to {limits.answerMessages} messages.")
        self.wait = 0.0 if request.method == b"HEAD" else float(wait)
        self.limit = int(limit)
        self.last = parseLast(query.get("last"), self.names)
        self.before = query.get("before")
        if self.before is not None and (not self.alone or isPattern(self.names[0])):
            raise ChannelError("bad-request", "To read what is before a message, name one channel.")
        seen = request.fields.get("if-none-match")
        self.tags: list[str] = [tag[1] for tag in islice(_TAG.finditer(seen or ""), _TAGS)]
        self.positions = self._positions(query.get("after"), seen)

    def _positions(self, after: str | None, seen: str | None) -> dict[str, Position]:
        if after is not None or seen is None:
            return parseAfter(after, self.names)
        for tag in self.tags:
            try:
                return parseAfter(tag, self.names)
            except ChannelError:
                pass
        # Whatever happened to the tag on its way, the client was here before: a duplicate is better than a loss.
        return dict.fromkeys(self.names, NOWHERE)


class Poll(Subscriber):
    """A poll that waits for messages; implements `twisted_ws.wire.websocket.runtime.OpenResponse`.

    It is answered in the turn after its first message, with everything that has come by then.
    """

    __slots__ = (
        "_answering",
        "_channelRequest",
        "_cut",
        "_gathered",
        "_granted",
        "_question",
        "_request",
        "_runs",
        "_server",
        "_waiting",
        "wheelSlot",
    )

    format: ClassVar[Format] = staticmethod(lambda publication: (publication, jsonFields(publication)))

    def __init__(
        self,
        request: HttpRequest,
        channelRequest: ChannelRequest,
        server: WebSocketServer,
        question: _Question,
        granted: ChannelGrants | None,
    ) -> None:
        super().__init__(channelRequest.visitor)
        channelRequest.visitor.membership = self
        self._request = request
        self._channelRequest = channelRequest
        self._server = server
        self._question = question
        self._granted = granted
        self._gathered = Gathered(question.limit, server.limits)
        # Until it waits: what was missed on each channel, and what has come since.
        self._runs: dict[str, tuple[Replay | list[Publication], list[Publication]]] = {}
        self._cut: set[str] = set()  # the channels of these whose runs end where something is missing
        self._waiting = False
        self._answering = False
        self.wheelSlot: int | None = None

    def wait(self) -> None:
        """Answer, or wait for messages, now that all subscriptions are made."""
        self._waiting = True
        self._gathered.addAll([chain(*run) for run in self._runs.values()])
        self._runs.clear()
        channels = self._server.channels
        if self._gathered.messages:
            self._answer()
            return
        self._server.visits.add(self)
        self._server.counts.polls += 1
        self._request.whenGone = self.leave
        channels.wheel.after(self, self._longest())

    def _longest(self) -> float:
        """Return how many seconds it may wait: no longer than the client's credentials count."""
        granted, identity = self._granted, self._channelRequest.visitor.identity
        ends = () if granted is None else (granted.expiresAt,)
        if identity is not None and identity.expiresAt is not None:
            ends = *ends, identity.expiresAt
        if not ends:
            return self._question.wait
        return min(self._question.wait, max(min(ends) - self._server.channels.unixTime(), 0))

    def leave(self) -> None:
        """End, because it was answered or the peer has left."""
        self._waiting = False
        self._request.whenGone = None
        if self in self._server.visits:
            self._server.visits.discard(self)
            self._server.counts.polls -= 1
        self._server.channels.wheel.drop(self)
        self._server.channels.leave(self)

    # Subscriber.

    def begin(self, start: Start, publications: Replay | list[Publication], who: dict[str, Any] | None) -> None:
        """Keep what was missed."""
        self._gathered.begin(start.channel, start.position, start.recovered, start.channel in self._question.positions)
        self._runs[start.channel] = publications, []

    def send(self, message: tuple[Publication, bytes]) -> bool:
        """Take a message, and answer soon."""
        if not self._waiting:
            if not self.gone and message[0].channel not in self._cut:
                self._runs.setdefault(message[0].channel, ([], []))[1].append(message[0])
            return not self.gone
        self._answerSoon()
        return self._gathered.add(*message)

    def ended(self, channel: str, reason: str) -> None:
        """Tell the service; answer if no channel is left."""
        self._channelRequest.service.left(self.caller, channel)
        if reason and not self.channels and self._waiting:
            self.leave()
            self._request.refuse(HttpError(403, reason))

    def disconnect(self, code: int, reason: str) -> None:
        """Answer that the client is not welcome."""
        for channel in self.channels:
            self._server.channels.unsubscribe(self, channel, reason or "disconnected")

    def judge(self) -> None:
        """Answer with what there is: the next poll is judged by the new rules."""
        self.expire()

    def expire(self) -> None:
        """Answer with what there is, because the client's credentials have ended."""
        if self._waiting:
            self._answerSoon()

    def revoke(self, token: str) -> None:
        """End what needs the subscription token with an id; answer, as when the token ends."""
        if self._granted is None or self._granted.tokenId != token:
            return
        for channel in self.channels:
            if not self._channelRequest.service.permissions.mayStay(self.caller, channel):
                self._server.channels.unsubscribe(self, channel)
        self.expire()

    def deadlineReached(self, now: float) -> None:
        """Answer, because nothing came in time; called by the wheel."""
        self._answerSoon()

    def _answerSoon(self) -> None:
        """Answer in a turn with time for it: very many polls may wait for the same message."""
        if not self._answering:
            self._server.runtime.turns.later(self._answerNow)
            self._answering = True  # set last, because memory may be short: to answer twice is harmless

    def _answerNow(self) -> None:
        if self._waiting:  # still: the peer may have left
            self._server.runtime.turns.spend(ANSWER)
            self._answer()

    def stop(self, timeout: float) -> Deferred[None]:
        """Answer at once; the client gets a position to come back with."""
        connection = self._request.channel
        connection.persistent = False
        for name, value in retryAfter(returnDelay(self._server.limits)).items():
            self._request.say(name, value)
        lost = connection.whenLost(timeout)
        if self._waiting:
            self._answer()
        return lost

    def lost(self, start: Start) -> None:
        """Answer soon, and say that messages are missing; after others, leave that to the next poll: this one is whole so far."""
        if self._waiting and self._gathered.messages:
            self._gathered.close()
            return
        if any(map(len, self._runs.get(start.channel, ()))):
            self._cut.add(start.channel)
            return
        self._gathered.begin(start.channel, start.position, False, True)
        if self._waiting:
            self._answerSoon()

    def _answer(self) -> None:
        self._waiting = False
        if self._question.presence:
            answerLater(self._request, self._answerWithPresence(), self._server.limits.upgradeDeadline)
        else:
            self.leave()
            _answer(self._request, self._question, self._gathered, self._server.limits, None)

    async def _answerWithPresence(self) -> None:
        try:
            presence = await presenceOf(self._server.channels, self._question.names)
        finally:
            self.leave()
        _answer(self._request, self._question, self._gathered, self._server.limits, presence)


async def poll(request: HttpRequest, channelRequest: ChannelRequest) -> None:
    """Answer a GET with what is new, or have it answered later.

    Raises:
        ChannelError: one of the channels is refused, or the query is malformed.
    """
    server = channelRequest.service.server
    question = _Question(request, channelRequest, server.limits)
    granted = await channelRequest.granted(request)
    infos = await channelRequest.service.permitAll(channelRequest.visitor, question.names, question.presence, granted)
    if request.gone:
        return  # a hook has continued nevertheless
    if question.before is not None:
        await _page(request, channelRequest, question, granted)
        return
    if question.wait:
        waiting = Poll(request, channelRequest, server, question, granted)
        await channelRequest.subscribe(waiting, infos, question.positions, None, question.last, granted)
        waiting.wait()
        return
    gathered, runs = Gathered(question.limit, server.limits), []
    for name in question.names:
        if not isPattern(name):  # which has no history
            with concerning(name):
                if name in question.last and name not in question.positions:
                    history = await server.channels.newest(name, question.last[name])
                else:
                    history = await server.channels.history(name, question.positions.get(name))
            gathered.begin(name, history.position, history.recovered, name in question.positions)
            runs.append(history.publications)
    gathered.addAll(runs)
    presence = await presenceOf(server.channels, question.names) if question.presence else None
    channelRequest.requireValid(granted)
    _answer(request, question, gathered, server.limits, presence)


async def _page(request: HttpRequest, channelRequest: ChannelRequest, question: _Question, granted: ChannelGrants | None) -> None:
    """Answer with what is before a message."""
    server = channelRequest.service.server
    page = Page(server.limits, question.limit, server.limits.answerBytes)
    await page.read(server.channels, question.names[0], question.before)
    channelRequest.requireValid(granted)
    body = [b'{"messages":[', b",".join([b"{" + fields + b"}" for fields in page.messages])]
    body += [b'],"next":', msgspec.json.encode(page.next), b"}\n"]
    request.say("Cache-Control", "no-cache")
    request.say("Content-Type", "application/json")
    answerCompressed(request, b"".join(body), server.limits.gzipFrom)


def _answer(request: HttpRequest, question: _Question, gathered: Gathered, limits: Limits, presence: Any) -> None:
    place, tag = gathered.place(question.alone), gathered.tag(question.names)
    request.say("Cache-Control", "no-cache")
    if tag is not None:
        request.say("ETag", f'"{tag}"')
        if tag in question.tags and not gathered.messages and not presence:
            request.setResponseCode(304)
            request.answer(b"")
            return
    body = [b'{"id":', msgspec.json.encode(place), b',"recovered":', b"true" if gathered.recovered else b"false"]
    body += [b',"messages":[', b",".join([b"{" + fields + b"}" for fields in gathered.messages]), b"]"]
    if presence:
        body += [b',"presence":', msgspec.json.encode(presence[question.names[0]] if question.alone else presence)]
    request.say("Content-Type", "application/json")
    answerCompressed(request, b"".join([*body, b"}\n"]), limits.gzipFrom)
