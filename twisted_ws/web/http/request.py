"""One request of an HTTP site, from its head to its answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers as RawHeaders
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request

from twisted_ws.logs import peerName, printable
from twisted_ws.telemetry import tracing
from twisted_ws.upgrade import Headers
from twisted_ws.web.http.errors import HttpError, notAllowed
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.web.http.response import flat, responseHead
from twisted_ws.wire.door.head import RequestHead
from twisted_ws.wire.loop.transports import isSecure, peerOf

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.web.http.connection import HttpConnection
    from twisted_ws.web.http.site import HttpSite

# Not the class's: that would put the request into each event, and observers that keep events would keep requests.
_log = Logger()


class _Star(HttpResource):
    """The target "*": the server as a whole (RFC 9110 section 9.3.7)."""

    allowedMethods = (b"OPTIONS",)


class HttpRequest(Request):
    """A twisted.web request whose resource is found, and asked, before the body is read.

    Errors are JSON (see `HttpError`); any other exception of a resource is a 500 that tells the peer nothing. The body is kept in
    memory (the connection limits it) and never parsed as a form.

    Attributes:
        head: the checked head; None when it could not be parsed.
        fields: the request's headers as text, by name in any case.
        gone: whether the peer has left, so that nothing can be answered any more.
        whenGone: called once if it leaves before the answer is finished.
        found: what the resource learnt when it was asked, for its answer.
        by: who made it, where credentials are checked.
        isShown: whether a page of another origin may read the answer (see `twisted_ws.web.channels.cors`).
        operation: what it asks for, as it is counted: one of few words; "" while nobody has said so.
        countedFrom: when its head was there, by the reactor's clock: the beginning of the work that found it.
        bodyType: the parsed Content-Type (see `twisted_ws.web.http.content`); None until it is needed.
    """

    channel: HttpConnection
    site: HttpSite
    transport: Any
    content: BytesIO
    defaultContentType = b"text/plain; charset=utf-8"
    head: RequestHead = None  # type: ignore[assignment]  # no resource is asked before it is there
    fields = Headers(())
    queued = False
    _requestHeaders: RawHeaders | None = None
    _responseHeaders: RawHeaders | None = None
    gone = False
    span: Any = None  # of OpenTelemetry, until the answer
    _parent: Any = None
    whenGone: Callable[[], object] | None = None
    found: Any = None
    by: Any = None
    isShown = False
    operation = ""
    countedFrom = 0.0
    _known: tuple[str, bool] | None = None  # a cache of `_whose`: functools.cached_property takes a lock each time
    bodyType: tuple[str, bool] | None = None
    _resource: IResource

    def __init__(self, channel: HttpConnection) -> None:
        # Everything that Twisted's own __init__ sets, except for what is made on demand.
        self.channel = channel
        self.site = channel.site
        self.transport = channel.transport
        if channel.addresses is None:  # once for all requests, after the PROXY protocol has said what they are
            channel.addresses = self.transport.getPeer(), self.transport.getHost()
        self.client, self.host = channel.addresses
        self.notifications = []
        self.cookies = []
        self._said: dict[str, str] = {}
        self._adapterCache: dict[str, object] = {}
        self.clientproto = b"HTTP/1.1"
        self.content = BytesIO()

    @property
    def responseHeaders(self) -> RawHeaders:
        """The headers of the answer in twisted.web's form, made on demand; our own code uses `say`."""
        made = self._responseHeaders
        if made is None:
            made = self._responseHeaders = RawHeaders()
            for name, value in self._said.items():
                made.setRawHeaders(name, [value])
        return made

    @responseHeaders.setter
    def responseHeaders(self, headers: RawHeaders) -> None:
        self._responseHeaders = headers

    @property
    def requestHeaders(self) -> RawHeaders:
        """The request's headers in twisted.web's form, made on demand; our own code reads `fields`."""
        made = self._requestHeaders
        if made is None:
            made = self._requestHeaders = RawHeaders()
            for name, value in self.head.headers if self.head is not None else ():
                made.addRawHeader(name.encode("ascii"), value.encode("latin-1"))
        return made

    @requestHeaders.setter
    def requestHeaders(self, headers: RawHeaders) -> None:
        """Ignore those that twisted.web begins with."""

    def begin(self, head: RequestHead) -> None:
        """Take over the head."""
        self.head = head
        self.countedFrom = self.site.turns.since or self.site.turns.seconds()
        self.fields = Headers(head.headers, head.values)
        self.method = head.method.encode("ascii")
        self.uri = head.target.encode("ascii")
        self.path = self.uri.partition(b"?")[0]
        self.clientproto = b"HTTP/%d.%d" % head.version

    # The next two are for resources that are not ours, and made on demand.

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        """The arguments of the query, in twisted.web's form."""
        query = self.uri.partition(b"?")[2]
        return parse_qs(query, keep_blank_values=True) if query else {}

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]
        """The cookies, in twisted.web's form."""
        found: dict[bytes, bytes] = {}
        self.__dict__["received_cookies"] = found
        if self.head is not None and "cookie" in self.head.values:
            self.parseCookies()  # type: ignore[no-untyped-call]
        return found

    @property
    def peerAddress(self) -> str:
        """The client's IP address as text; "" for a UNIX socket. Behind a trusted proxy: the address it reports."""
        return self._whose[0]

    def isSecure(self) -> bool:
        """Return whether the client uses TLS (behind a trusted proxy: whether the proxy says so)."""
        return bool(self._forceSSL) or self._whose[1]

    @property
    def _whose(self) -> tuple[str, bool]:
        known = self._known
        if known is None:
            known = peerOf(self.client)[0], isSecure(self.transport)
            if self.head is not None:
                known = self.site.proxies.client(*known, self.head)
            self._known = known
        return known

    def admit(self) -> Deferred[None] | None:
        """Find the resource, and ask whether it wants the body.

        Raises:
            HttpError: the answer.
        """
        self.site.checkHost(self)
        self.prepath = []
        self.sitepath: list[bytes] = []
        segments = self.path[1:].split(b"/")
        self.postpath = [unquote_to_bytes(segment) for segment in segments] if b"%" in self.path else segments
        if self.path == b"*":
            self.postpath = []
            self._resource = _Star()
        else:
            self._resource = getChildForRequest(self.site.resource, self)
        if not isinstance(self._resource, HttpResource):
            return None
        if tracing.tracer is not None and self._resource.isTraced:
            self._beginSpan()
            return tracing.within(self.span, self._resource.admit, self)  # type: ignore[no-any-return]
        return self._resource.admit(self)

    def _beginSpan(self) -> None:
        """Make a span of this request, which ends with its answer."""
        parent = tracing.parentOf(lambda name: self.fields.get(name))
        self._parent = tracing.asPublisher(parent)
        attributes = {
            "http.request.method": self.method.decode("ascii"),
            "url.path": self.path.decode("ascii"),
            "client.address": self.peerAddress,
        }
        self.span = tracing.start("request", "server", attributes, parent)

    def _endSpan(self, status: int) -> None:
        span, self.span = self.span, None
        tracing.finish(span, None, status)

    def process(self) -> None:
        """Let the resource answer; called once, when the whole body is in `content`."""
        try:
            if self.span is None:
                self.render(self._resource)
            else:
                tracing.within(self.span, self.render, self._resource, parent=self._parent)
        except Exception:
            self.processingFailed(Failure())

    def render(self, resource: Any) -> None:
        """Answer with what `resource` renders."""
        try:
            body = resource.render(self)
        except UnsupportedMethod as unsupported:
            raise notAllowed(tuple(unsupported.allowedMethods)) from None
        if body is not NOT_DONE_YET:
            self.answer(body)

    def answer(self, body: bytes) -> None:
        """Send a whole response, unless the peer has left."""
        if not isinstance(body, bytes):
            raise TypeError(f"a resource renders bytes or NOT_DONE_YET, not {type(body).__name__}")
        if self.gone:
            return
        if self.span is not None:
            self._endSpan(self.code)
        hasBody = self.code not in (204, 304)
        if self.cookies or self.etag is not None or self.lastModified is not None:  # only resources that are not ours have these
            if hasBody:
                self.say("Content-Length", str(len(body)))
            self.channel.cork()
            self.write(body)  # type: ignore[no-untyped-call]
            self.channel.uncork()
            self.finish()  # type: ignore[no-untyped-call]
            return
        self.startedWriting = self.finished = 1
        head = self._head(len(body) if hasBody else None)
        self.channel.write(head + body if hasBody and self.method != b"HEAD" else head)
        self._cleanup()  # type: ignore[no-untyped-call]

    def say(self, name: str, value: str) -> None:
        """Set a header of the answer, with one value.

        Args:
            name: in its usual spelling.
            value: text. Line ends become spaces.
        """
        if self._responseHeaders is None and value.isascii() and value.isprintable():
            self._said[name] = value
        else:
            self.responseHeaders.setRawHeaders(name, [value])

    def writeHead(self) -> None:
        """Write the head of an answer whose body follows bit by bit."""
        self.startedWriting = 1
        self.channel.write(self._head(None))

    def _head(self, length: int | None) -> bytes:
        said = self._said if self._responseHeaders is None else flat(self._responseHeaders)
        return responseHead(self.clientproto, self.code, self.code_message, said, length, not self.channel.persistent)

    def refuse(self, error: HttpError) -> None:
        """Answer with an error, and log one line if it wants that."""
        if error.isLogged:
            self.channel.site.throttle.info(
                _log,
                f"request refused with {error.status}",
                "{peer}: {status} {code}: {reason} ({method} {path}{hint})",
                peer=peerName(self.peerAddress),
                status=error.status,
                code=error.slug,
                **tracing.ofSpan(self.span),
                origin=self._origin(),
                # Not "message", which Twisted overwrites for observers of its older log.
                reason=printable(error.message),  # a service's own text may contain anything
                # Without the query: secrets travel there.
                method=printable(self.method) if self.head is not None else "?",
                path=printable(self.path) if self.head is not None else "?",
                hint=f"; {printable(error.hint)}" if error.hint else "",
                event="request.refused",
            )
        self._sendError(error)

    def _origin(self) -> str:
        return printable(", ".join(self.head.getAll("origin"))) if self.head is not None else ""

    def processingFailed(self, reason: Failure) -> None:
        """Answer for a resource that raised: with its `HttpError`, or with a 500 and a traceback in the log."""
        error = reason.value
        if isinstance(error, HttpError) and not self.startedWriting:
            if not self.gone:
                self.refuse(error)
            return
        if turn := self.site.throttle.allows(f"request failed with {type(error).__name__}"):
            _log.failure(
                "{method} {path} failed",
                reason,
                method=printable(self.method),
                path=printable(self.path),
                **tracing.ofSpan(self.span),
                event="request.failed",
                peer=peerName(self.peerAddress),
                status=500,
                origin=self._origin(),
                suppressed=turn - 1,
            )
        if self.gone:
            return
        if self.startedWriting:
            # Half a response: only an abrupt end tells the peer that it is incomplete.
            self.channel.drop()
        else:
            self._responseHeaders, self._said = None, {}
            self._sendError(HttpError(500, "The server failed to answer; its log says why."))

    def _sendError(self, error: HttpError) -> None:
        self.setResponseCode(error.status, error.phrase)
        self.say("Content-Type", "application/json")
        for name, value in error.headers.items():  # a service may spell them in any way
            self.responseHeaders.setRawHeaders(name, [value] if isinstance(value, str) else list(value))
        self.answer(error.body())

    def connectionLost(self, reason: Failure) -> None:
        """The peer left before the answer was finished."""
        self.gone = True
        if self.span is not None:
            self._endSpan(499)  # as nginx says it
        whenGone, self.whenGone = self.whenGone, None
        try:
            if whenGone is not None:
                whenGone()
        except Exception:
            _log.failure("the work for a request whose peer has left could not be cancelled", event="request.broken")
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
