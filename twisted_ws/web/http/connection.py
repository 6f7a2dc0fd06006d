"""One HTTP/1.1 connection: Twisted's channel behind a strict reading of heads and bodies.

Twisted's channel accepts requests that two parsers read differently, sends 100 Continue before any check of credentials, does not
limit the size of a body, and restarts its idle timer at each byte. Here `wire.door.head` checks the head and
`twisted_ws.web.http.body` the body, the resource is asked between the two, and whatever the peer has to do has a deadline that
no single byte extends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from twisted_ws.logs import peerName, printable
from twisted_ws.web.http.body import Body, bodyOf, expectsContinue
from twisted_ws.web.http.errors import HttpError, retryAfter
from twisted_ws.web.http.request import HttpRequest
from twisted_ws.web.http.response import flat, responseHead
from twisted_ws.web.http.timeout import Timeout
from twisted_ws.wire.door.handshake import isUpgrade
from twisted_ws.wire.door.head import BadHead, RequestHead, emptyLines, headEnd, parseHead
from twisted_ws.wire.loop.backlog import Holding
from twisted_ws.wire.loop.transports import abort, finishWriting, hasTLS, hasUnread, innermost, peerOf, sending
from twisted_ws.wire.loop.turns import QUANTUM, TURN
from twisted_ws.wire.tls.transport import reportFailure
from twisted_ws.wire.websocket.closing import getsOn
from twisted_ws.wire.websocket.outbox import SLICE
from twisted_ws.wire.websocket.states import States

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from twisted_ws.web.http.site import HttpSite

# The steps (see `twisted_ws.wire.loop.turns`) that any request costs, and the bytes of its head that cost one more.
REQUEST = 32
HEAD_BYTES = 256
# The bytes that wait in one of Twisted's transports when it asks for a pause.
BEHIND = 64 * 1024

# Not the class's: that would put the connection into each event, and observers that keep events would keep connections.
_log = Logger()


class _State(States):
    """What a connection is doing."""

    HEAD = 0  # a head is coming, or nothing yet
    ADMITTING = 1  # the resource decides whether the request may go on
    BODY = 2  # the body is coming
    ANSWERING = 3  # the resource answers
    CLOSING = 4  # the last response is on its way; input is dropped, so that a reset does not overtake the response
    LOST = 5  # the transport is gone, or another protocol's


# Use these: see `twisted_ws.wire.websocket.states`.
HEAD, ADMITTING, BODY, ANSWERING, CLOSING, LOST = _State

HEAD_TAKEN = {HEAD: ADMITTING}
BODY_WANTED = {ADMITTING: BODY}
ANSWER_BEGUN = {HEAD: ANSWERING, ADMITTING: ANSWERING, BODY: ANSWERING}
ANSWERED = {ANSWERING: HEAD}
UPGRADED = {HEAD: LOST}
# By either side; the last response may still be on its way, and may be dropped then.
ENDED = dict.fromkeys((HEAD, ADMITTING, BODY, ANSWERING, CLOSING), CLOSING)
# It is possible again after a MemoryError.
GONE = dict.fromkeys(_State, LOST)


@implementer(IHalfCloseableProtocol)
class HttpConnection(HTTPChannel):
    """One HTTP connection: it handles one request at a time, and the next ones wait in a bounded buffer (see the module).

    `HttpSite.buildProtocol` makes it. On a WebSocket port, it is also a `twisted_ws.wire.frontdoor.PlainHTTP`.
    """

    site: HttpSite
    transport: Any
    requestFactory: type[HttpRequest] = HttpRequest
    address: str | None = None  # under which the gate counts it; None if it does not
    addresses: tuple[Any, Any] | None = None  # of peer and host, for its requests; None before the first
    _handBack: Callable[[RequestHead, bytes], None] | None = None
    _given: RequestHead | None = None  # a head that was read elsewhere
    counted = 0  # its bytes in `HttpSite.intake`
    _hasEnded = False  # whether the peer has ended its side
    _isWritten = False  # whether we have ended ours, and all is sent
    _content = 0  # bytes of the current request's body
    _size = 0  # bytes of the current answer
    _unread: Holding | None = None  # in `HttpSite.backlog`, while the peer is behind
    _unreadOf: tuple[str, bytes] | None = None  # the client and the path of what it has not read
    _isHeld = False  # whether no further request is begun
    _isLent = False  # whether a stream has the transport

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._state = HEAD
        self._input = bytearray()
        self._searched = 0  # bytes at the front of the input that are known to contain no end of a head
        self._idle = False  # between two requests
        self._body: Body | None = None
        self._wantsContinue = self._keepAlive = False
        self._corked: list[bytes] | None = None
        self._paused = False  # whether reading may need to be resumed
        self._admission: Deferred[None] | None = None
        self._advancing = False
        self._waitsForTurn = False
        self._lingered = 0  # bytes dropped since the last response
        self._sending = 0, 0  # what `sending` returned last
        self._waiters: list[Deferred[None]] = []

    def connectionMade(self) -> None:
        """Start the deadline, which TLS handshake and head share."""
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._deadline = Timeout(self.site.wheel, self._deadlineReached)
        self._deadline.set(self.site.limits.headDeadline)

    def takeOver(self, head: RequestHead, rest: bytes, handBack: Callable[[RequestHead, bytes], None]) -> None:
        """Continue after a head, and hand the connection back at the first handshake (see `PlainHTTP`)."""
        self._given, self._handBack = head, handBack
        self._input += rest
        self._advance()

    def dataReceived(self, data: bytes) -> None:
        """Take what the peer sent, and use as much as possible now."""
        if self._state < CLOSING:
            self._input += data
            self._advance()
        elif self._state is CLOSING:
            # We go on reading so that the peer can read the answer: unread bytes cause a reset, which may overtake it.
            self._lingered += len(data)
            if self._lingered > self.site.limits.lingerBytes:
                self.drop()

    # Reading

    def _advance(self) -> None:
        """Work through the buffer while this turn has room. A loop, not a recursion: hundreds of requests may wait in it."""
        if self._advancing:
            return
        if self._waitsForTurn:
            if len(self._input) > self.site.limits.head:
                self._pauseReading()
            return
        self._advancing = True
        turns = self.site.turns
        outermost = turns.begin()
        try:
            share = turns.share()
            while True:
                if (self._input or self._given) and turns.isOver(share):
                    self._waitsForTurn = True
                    turns.later(self._goOn)
                    if self._waitsForTurn:  # still: a finaliser may have run the reactor
                        break
                if not self._step():
                    break
        except Exception:
            _log.failure("an HTTP connection failed inside the server", event="request.broken")
            self.drop()
        finally:
            if outermost:
                turns.end()
            self._advancing = False
        if (self._handlingRequest or self._waitsForTurn) and len(self._input) > self.site.limits.head:
            self._pauseReading()
        if self._input or self._content or self.counted:
            self._note()
        if self._hasEnded:
            self._endToo()

    def _note(self) -> None:
        """Count the input that has not been answered yet."""
        intake, count = self.site.intake, len(self._input) + self._content
        if count != self.counted:
            intake.note(self, count)
            intake.relieve()

    def giveWay(self) -> None:
        """Refuse the request, or drop the connection: all peers have sent too much, and this one the most (see `Backlog`)."""
        if self._state is BODY:
            self._content = 0
            self._refuse(HttpError(503, "The server has no room at the moment.", headers=retryAfter()))
        else:
            self.drop()

    def _goOn(self) -> None:
        self._waitsForTurn = False
        if self._state < CLOSING:
            self._advance()
            if not self._waitsForTurn and not self._handlingRequest and self._state < CLOSING:
                self._resumeReading()

    def _step(self) -> bool:
        """Take one head or one piece of a body; return whether there may be more to do."""
        try:
            if self._state is HEAD and (self._input or self._given) and not self._waitingForTransport and not self._isHeld:
                return self._takeHead()
            if self._state is BODY:
                return self._takeBody()
        except BadHead as bad:
            self._refuse(HttpError(bad.status, bad.message))
            return True
        except HttpError as error:
            self._refuse(error)
            return True
        return False

    def _takeHead(self) -> bool:
        self.persistent = False  # until the end of this request is known
        turns = self.site.turns
        head, self._given = self._given, None
        if head is not None:
            turns.left -= REQUEST
        else:
            turns.left -= 1
            data = self._nextHead()
            if data is None:
                if self._idle and self._input:
                    self._idle = False
                    self._deadline.set(self.site.limits.headDeadline)
                return False
            turns.left -= REQUEST + len(data) // HEAD_BYTES
            head = parseHead(data, self.site.limits)
            if self._handBack is not None and isUpgrade(head):
                self._leave(head, self._handBack)
                return False
        request = self._newRequest()
        request.begin(head)
        self._body = bodyOf(head, self.site.limits)
        self._keepAlive = self.site.keepAlive and head.version == (1, 1) and not head.hasToken("connection", "close")
        self.persistent = self._keepAlive and self._body is None
        self._wantsContinue = "expect" in head.values and expectsContinue(head) and self._body is not None
        self._state = HEAD_TAKEN[self._state]
        self._handlingRequest = True
        self._deadline.clear()
        try:
            admission = request.admit()
        except Exception:
            self._notAdmitted(Failure())
            return True
        if admission is None:
            self._admitted(None)
        else:
            self._admission = admission
            admission.addCallbacks(self._admitted, self._notAdmitted)
        return True

    def _nextHead(self) -> bytes | None:
        """Take the next head from the input; return None if it is not complete yet."""
        received = self._input
        if received.startswith(b"\r\n"):
            del received[: emptyLines(received)]
        end = headEnd(received, self._searched, self.site.limits)
        self._searched = 0 if end else len(received)
        if not end:
            return None
        data = bytes(received[:end])
        del received[:end]
        return data

    def _leave(self, head: RequestHead, handBack: Callable[[RequestHead, bytes], None]) -> None:
        """Hand the connection back: it becomes a WebSocket."""
        rest, self._input, self._handBack = bytes(self._input), bytearray(), None
        self._state = UPGRADED[self._state]
        self._note()  # its next protocol counts it from now on
        self._deadline.end()
        self._resumeReading()
        self._networkProducer.unregisterProducer()  # type: ignore[attr-defined]  # a transport, or Twisted's stand-in
        handBack(head, rest)

    def _admitted(self, result: object) -> None:
        self._admission = None
        if self._state is not ADMITTING:
            return
        if self._body is None:
            self._answer()
        else:
            self._state = BODY_WANTED[self._state]
            self._handlingRequest = False
            if self._wantsContinue and not self._input:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._resumeReading()
        self._advance()

    def _notAdmitted(self, failure: Failure) -> None:
        self._admission = None
        if self._state is ADMITTING:
            self._state = ANSWER_BEGUN[self._state]
            self.requests[-1].processingFailed(failure)

    def _takeBody(self) -> bool:
        assert self._body is not None
        content, steps = self._body.take(self._input, QUANTUM)
        self.site.turns.left -= steps
        self.requests[-1].content.write(content)
        self._content += len(content)
        if self._body.done:
            self.persistent = self._keepAlive
            self._answer()
        elif not self._deadline.isSet:
            self._deadline.set(self.site.limits.bodyDeadline)
        return self._state is not BODY or steps >= QUANTUM

    def _answer(self) -> None:
        self._state = ANSWER_BEGUN[self._state]
        self._handlingRequest = True
        self._deadline.clear()
        request = self.requests[-1]
        request.content.seek(0)
        request.process()

    # Answering

    def _newRequest(self) -> HttpRequest:
        self.requests.append(request := self.requestFactory(self))
        return request

    def _refuse(self, error: HttpError) -> None:
        """Answer the current request with `error`; unless the connection is `persistent`, it ends then."""
        self._state = ANSWER_BEGUN[self._state]
        self._deadline.clear()
        request = self.requests[-1] if self.requests else self._newRequest()
        request.refuse(error)

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of a response; called for resources that are not ours."""
        self.write(responseHead(version, int(code), reason, flat(headers), None, not self.persistent))

    def cork(self) -> None:
        """Hold back what is written until `uncork`."""
        self._corked = []

    def uncork(self) -> None:
        """Write what was held back, all at once: in one packet if it is small."""
        corked, self._corked = self._corked or [], None
        self.transport.write(b"".join(corked))

    def write(self, data: bytes) -> None:
        """Write a piece of a response."""
        self._size += len(data)
        (self.transport.write if self._corked is None else self._corked.append)(data)

    def requestDone(self, request: HttpRequest) -> None:
        """Go on to the next request, or close; called by a request when it has been answered."""
        self.site.countRequest(request)
        self.requests.remove(request)
        self._handlingRequest = False
        self._content = self._size = 0
        if self._state >= CLOSING:
            return
        if not self.persistent:
            self.loseConnection()
            return
        self._state = ANSWERED[self._state]
        if self._waitingForTransport:  # `resumeProducing` goes on
            self._pauseReading()
            self._deadline.set(self.site.limits.writeDeadline)
            return
        self._awaitRequest()

    def _awaitRequest(self) -> None:
        if self._isHeld:
            self._rest()
            return
        self._idle = True
        self._deadline.set(self.site.limits.keepAlive)
        self._resumeReading()
        self._advance()

    # Flow control: the transport says when what was written waits for the peer

    def pauseProducing(self) -> None:
        """Hold further answers until the peer has taken those already written."""
        super().pauseProducing()  # type: ignore[no-untyped-call]
        self._paused = True  # if no request is being handled
        self._deadline.set(self.site.limits.writeDeadline)
        # The transport does not say how much of it waits, and holds it until all of it has gone.
        self._unread = self._unread or Holding(self._dropUnread)
        if self.requests and self.requests[-1].head is not None:
            self._unreadOf = self.requests[-1].peerAddress, self.requests[-1].path
        self.site.backlog.note(self._unread, max(self._size, BEHIND))
        self.site.backlog.relieve()
        self._sending = sending(self.transport)

    def resumeProducing(self) -> None:
        """Continue: the peer has taken what was written."""
        super().resumeProducing()  # type: ignore[no-untyped-call]
        self._deadline.clear()
        self._read()
        if self._state is CLOSING:
            self._finish()
        elif self._state is HEAD:
            self._awaitRequest()
        elif self._state is BODY:
            self._deadline.set(self.site.limits.bodyDeadline)

    def _dropUnread(self) -> None:
        """Drop the connection: too much waits for all peers together, and most of it here (see `Backlog`)."""
        address, path = self._unreadOf or (peerOf(self.transport.getPeer())[0], b"")
        self.site.throttle.info(
            _log,
            "unread answer dropped",
            "{peer}: an answer of {bytes} bytes is not being read, and there is no more room for it",
            peer=peerName(address),
            path=printable(path),
            bytes=self._unread.counted if self._unread else 0,
            event="request.unread",
        )
        self.drop()

    def _read(self) -> None:
        """Note that the peer has taken everything."""
        unread, self._unread = self._unread, None
        if unread is not None:
            self.site.backlog.note(unread, 0)

    def _letGo(self) -> None:
        """Release the input, and stop counting it and what was written."""
        self._input.clear()
        self._content = 0
        self._note()
        self._read()

    def _pauseReading(self) -> None:
        self._paused = True
        self._networkProducer.pauseProducing()
        if not self._paused:  # a finaliser has ended the pause meanwhile
            self._networkProducer.resumeProducing()

    def _resumeReading(self) -> None:
        if self._paused and not self._waitingForTransport and not (self._isHeld and self._state is HEAD):
            self._paused = False
            self._networkProducer.resumeProducing()

    # Streams: answers that bypass this connection

    def lend(self) -> Any:
        """Return the transport to a borrower that writes to it, at its own pace, until `reclaim`."""
        self._isLent = True
        self._networkProducer.unregisterProducer()  # type: ignore[attr-defined]
        return self.transport

    def reclaim(self) -> None:
        """Take back the writing side of the transport, from which the borrower has unregistered its producer."""
        self._isLent = False
        if self._state is not LOST:
            self._networkProducer.registerProducer(self, True)  # type: ignore[attr-defined]

    # The move of the whole site to another process

    def hold(self) -> None:
        """Begin no further request, and read none, until `goOn`; one that has begun goes on."""
        self._isHeld = True
        if self._state is HEAD:
            self._rest()

    def goOn(self) -> None:
        """End that."""
        self._isHeld = False
        if self._state is HEAD:
            self._awaitRequest()

    def _rest(self) -> None:
        self._deadline.clear()
        self._pauseReading()

    @property
    def isBusy(self) -> bool:
        """Whether a request is being read or answered; an event stream is none."""
        return not self._isLent and (self._state in (ADMITTING, BODY, ANSWERING) or self._waitsForTurn)

    def moving(self) -> tuple[int, bytes] | None:
        """Return the descriptor and what has come of the next request; None if the connection cannot go on elsewhere."""
        transport = self.transport
        if self._state is not HEAD or self._hasEnded or self._waitingForTransport or hasTLS(transport):
            return None
        if self._given is not None or innermost(transport) is not transport:
            return None
        return transport.fileno(), bytes(self._input)

    def arrive(self, data: bytes) -> None:
        """Go on with a connection of another process, between two requests, with what has come of the next (see `moving`)."""
        self._awaitRequest()
        if data:
            self.dataReceived(data)

    def turnAway(self) -> None:
        """Refuse a request that is not being answered yet: nobody will answer it here."""
        if self._state in (ADMITTING, BODY):
            self._refuse(HttpError(503, "The server is being replaced.", headers=retryAfter()))

    # Ending

    def readConnectionLost(self) -> None:
        """The peer has ended its side: its earlier requests are still answered."""
        self._hasEnded = True
        self._endToo()

    def _endToo(self) -> None:
        """End as soon as nothing is left to answer, because nothing more will come."""
        if self._waitsForTurn or self._waitingForTransport or self._state is LOST:
            return
        if self._state is HEAD:
            self.loseConnection()
        elif self._state is CLOSING and not self._isWritten:
            self.transport.loseConnection()
        elif self._state not in (ADMITTING, ANSWERING) or self.requests[-1].method in (b"GET", b"HEAD"):
            # An incomplete request, or one that may wait a long time, and whose client has most likely closed both sides.
            self.transport.connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        """Everything has been sent."""
        self._isWritten = True

    def whenLost(self, timeout: float) -> Deferred[None]:
        """Return a Deferred that fires when the connection is lost; it is dropped after `timeout` seconds."""
        waiter: Deferred[None] = Deferred()
        if self._state is LOST:
            waiter.callback(None)
            return waiter
        self._waiters.append(waiter)
        late = self.site.reactor.callLater(timeout, self.drop)
        return waiter.addCallback(lambda result: late.cancel() if late.active() else None)

    def loseConnection(self) -> None:
        """Close when what is written has been taken; the peer can read it even if it is still sending."""
        if self._state >= CLOSING:
            return
        self._state = ENDED[self._state]
        self._input.clear()
        self._note()
        if not self._waitingForTransport:
            self._finish()

    def _finish(self) -> None:
        self._networkProducer.unregisterProducer()  # type: ignore[attr-defined]  # a transport, or Twisted's stand-in
        self._networkProducer.resumeProducing()  # to see the peer's end of stream
        finishWriting(self.transport)
        if self._hasEnded:
            self.transport.loseConnection()
        self._deadline.set(self.site.limits.lingerDeadline)
        self._sending = sending(self.transport)

    @property
    def waitsForPeer(self) -> bool:
        """Whether the next move is the peer's (see `twisted_ws.wire.door.gate.Essential`)."""
        if self._state in (ADMITTING, ANSWERING):
            return bool(self._waitingForTransport)
        return not self._waitsForTurn

    def drop(self) -> None:
        """End the connection at once; what was written but not sent is lost."""
        if self._state is not LOST:
            try:
                self._state = ENDED[self._state]
                self._deadline.clear()
                self._letGo()
            finally:
                abort(self.transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # as HTTPChannel has it
        """Release everything; after a MemoryError, the next call goes on."""
        awaited = self._state is HEAD
        self._state = GONE[self._state]
        self._deadline.end()
        self._letGo()
        self._given = self._handBack = None
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.cancel()
        self.site.left(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
        if awaited:
            reportFailure(reason, self.site.throttle, self.transport)

    def _deadlineReached(self) -> None:
        try:
            self._judge()
        except Exception:
            self.drop()  # it would no longer have a deadline
            _log.failure("an HTTP connection failed inside the server", event="request.broken")

    def _judge(self) -> None:
        """Decide what happens when something did not come in time."""
        if self._state is CLOSING or self._waitingForTransport:
            before, self._sending = self._sending, sending(self.transport)
            if getsOn(before, self._sending, SLICE if self._waitingForTransport else 1):
                self._deadline.set(self.site.limits.writeDeadline)
            else:
                self.drop()
        elif self._waitsForTurn or hasUnread(self.transport):
            self._deadline.set(TURN)  # we have not looked at what it has sent yet: the delay is ours
        elif self._state is BODY:
            self._refuse(HttpError(408, "The body did not arrive in time."))
        elif self._input:
            self.persistent = False
            self._refuse(HttpError(408, "The request head did not arrive in time."))
        else:
            self.loseConnection()
