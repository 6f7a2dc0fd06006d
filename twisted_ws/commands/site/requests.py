"""Requests to a broadcast site: JSON for JSON, and event streams, with the client's proxies, TLS and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.client.connecting import tlsFor
from twisted_ws.client.errors import BadHandshake, ConnectFailed, InvalidURL
from twisted_ws.client.http.address import Address, parseURL
from twisted_ws.client.http.dialing import dial, endpointFor
from twisted_ws.client.http.exchange import Exchange
from twisted_ws.client.http.request import requestHead
from twisted_ws.client.http.response import Response
from twisted_ws.commands.arguments import credentials, store
from twisted_ws.commands.exits import Exit, codeOf, explained, forStatus, inHTTP
from twisted_ws.commands.secrets import readKey
from twisted_ws.commands.site.events import Chunks, Events
from twisted_ws.commands.site.options import EXAMPLE
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ConfigurationError, WebSocketError
from twisted_ws.limits import MIB
from twisted_ws.logs import printable

T = TypeVar("T")

# Bytes of an answer: a page of callers has some hundred KiB at most.
BODY = 4 * MIB


# What comes of a site that says something unexpected.
STRANGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)


class NoSite(BadHandshake):
    """The answer is not one that a broadcast site gives."""

    def __init__(self) -> None:
        super().__init__("the answer is not one that a broadcast site of twisted_ws gives: check the URL, and the versions")


class Refused(WebSocketError):
    """The site has refused a request.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Ask(Exchange):
    maxBody = BODY

    def responded(self, response: Response, body: bytes) -> None:
        """Fire with the body, or fail."""
        if 200 <= response.status < 300:
            self.result.callback(body)
        else:
            self.result.errback(Failure(_refusal(response, body)))


class _Stream(Exchange):
    """An event stream: `result` fires when it has begun, `ended` when it ends."""

    def __init__(self, address: Address, request: bytes, take: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(address, request)
        self.ended: Deferred[None] = Deferred(lambda _: self.end())
        self._take = take
        self._events: Events | None = None
        self._chunks: Chunks | None = None

    def headReceived(self) -> None:
        """Begin to read the stream."""
        response = self._response
        assert response is not None
        if response.status == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
            isChunked = response.headers.get("transfer-encoding", "").lower() == "chunked"
            self._chunks = Chunks() if isChunked else None
            self._events = Events()
            self.result.callback(self)
            self._feed(self.release())

    def responded(self, response: Response, body: bytes) -> None:
        """Fail: this is no stream."""
        self.result.errback(Failure(_refusal(response, body)))

    def dataReceived(self, data: bytes) -> None:
        """Read the stream, once it has begun."""
        if self._events is None:
            super().dataReceived(data)
        elif not self.ended.called:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            self._read(data)
        except STRANGE:
            self.end()
            if not self.ended.called:
                self.ended.errback(Failure(NoSite()))

    def _read(self, data: bytes) -> None:
        assert self._events is not None
        for each in self._events.feed(data if self._chunks is None else self._chunks.feed(data)):
            try:
                frame = msgspec.json.decode(each)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(frame, dict):
                self._take(frame)

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008 - as the base class has it
        """End."""
        if self._events is None:
            super().connectionLost(reason)
        elif not self.ended.called:
            self.ended.errback(Failure(ConnectFailed("the server, or the network, has ended the stream")))


_decodeObject = msgspec.json.Decoder(dict[str, Any]).decode


def understood(answer: object, kind: type[T]) -> T:
    """Return what a site has answered, if it is of the expected kind.

    Raises:
        NoSite: it is not.
    """
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError:
        raise NoSite from None


def _refusal(response: Response, body: bytes) -> Refused:
    try:
        fields = msgspec.json.decode(body)
        said = printable(fields["message"], 300).removesuffix(".")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        said = printable(body.decode("utf-8", "replace").partition("\n")[0], 200)
    if response.status == 401:
        said += ": give credentials that it accepts (--key-file, --user-file)"
    elif response.status in (404, 405, 426) and not body.startswith(b'{"error":"not-found","message":"There is no '):
        said += ": the URL must be that of the broadcast site (by default port 8081)"
    return Refused(response.status, f"the site refused with {response.status} ({said})")


class Site:
    """A broadcast site, as the options of a command describe it.

    Args:
        reactor: the reactor.
        options: those of a `SiteOptions`.

    Raises:
        InvalidURL: the URL cannot be a site's.
        ConfigurationError: a file cannot be used; the text names it.
        ValueError: another option cannot be used.
    """

    def __init__(self, reactor: Any, options: Mapping[str, Any]) -> None:
        self._reactor = reactor
        self._timeout = options["timeout"]
        scheme, separator, rest = options["url"].partition("://")
        if not separator or scheme not in ("http", "https"):
            shown = printable((rest or options["url"]).partition("?")[0].rpartition("@")[2], 100)
            raise InvalidURL(f'"{shown}" does not begin with http:// or https://: write {EXAMPLE}')
        self._base = f"{'ws' if scheme == 'http' else 'wss'}://{rest.partition('/')[0]}"
        who = credentials(options, "key-file", lambda path: readKey(path, "TWISTED_WS_API_KEY"))
        self._headers = [] if who is None else [("Authorization", who.header())]
        trust, certificate = store(options, "trust-store", "trust-store"), store(options, "client-certificate", "client")
        self._tls = tlsFor(self._address("/"), trust, certificate, not options["insecure"])

    def _address(self, path: str) -> Address:
        try:
            return parseURL(self._base + path)
        except InvalidURL as error:
            raise InvalidURL(inHTTP(str(error))) from None

    def _request(self, method: str, path: str, body: Any, accept: str) -> tuple[Address, bytes]:
        address = self._address(path)
        headers = [*self._headers, ("Accept", accept), ("Connection", "close")]
        content = b""
        if body is not None:
            content = msgspec.json.encode(body)
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        return address, requestHead(method, address, headers) + content

    async def ask(self, method: str, path: str, body: Any = None, **query: str | int) -> dict[str, Any]:
        """Return the JSON that the site answers.

        Raises:
            Refused: it refuses.
            ConnectError: it cannot be reached, or is no broadcast site.
        """
        address, request = self._request(method, path + (f"?{urlencode(query)}" if query else ""), body, "application/json")
        made = _Ask(address, request)
        answer = await dial(self._reactor, endpointFor(self._reactor, address, True), self._tls, made, self._timeout)
        try:
            return _decodeObject(answer) if answer else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise NoSite from None

    async def watch(self, channels: Mapping[str, int], take: Callable[[dict[str, Any]], object]) -> Deferred[None]:
        """Open an event stream of the server's own channels.

        Args:
            channels: with how many of the last messages each begins; 0 for none.
            take: called with each frame.

        Returns:
            A Deferred that fails when the stream ends, or has what `take` cannot take; it can be cancelled.

        Raises:
            Refused: the site refuses.
            ConnectError: it cannot be reached.
        """
        last = max(channels.values(), default=0)
        path = "/api/events?" + "&".join(f"channel={quote(each)}" for each in channels) + (f"&last={last}" if last else "")
        address, request = self._request("GET", path, None, "text/event-stream")
        made = _Stream(address, request, take)
        await dial(self._reactor, endpointFor(self._reactor, address, True), self._tls, made, self._timeout)
        return made.ended


def explain(error: BaseException) -> int:
    """Say why a command ends, and return its exit code."""
    if isinstance(error, Refused):
        complain(str(error))
        return forStatus(error.status)
    text = explained(error)
    complain(text if isinstance(error, InvalidURL) else inHTTP(text))
    return codeOf(error)


# What `explain` explains.
ERRORS = (WebSocketError, ConfigurationError, ValueError, TypeError)
__all__ = ["ERRORS", "STRANGE", "Exit", "NoSite", "Refused", "Site", "explain", "understood"]
