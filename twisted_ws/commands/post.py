"""One HTTP POST to the broadcast site, by the ways of the client: its proxies, its TLS, its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from twisted_ws.client.errors import BadHandshake, ConnectError, ConnectFailed, HandshakeTimeout, InvalidURL, seconds
from twisted_ws.client.http.address import Address, parseURL
from twisted_ws.client.http.response import bodyOf, checkStart, parseResponse
from twisted_ws.client.http.credentials import Basic, Bearer
from twisted_ws.client.http.dialing import unreachable
from twisted_ws.client.http.proxies import proxyFor
from twisted_ws.client.http.tls import explain
from twisted_ws.client.http.tunnel import TunnelEndpoint
from twisted_ws.commands.arguments import store
from twisted_ws.commands.secrets import readKey, secret
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable
from twisted_ws.wire.loop.transports import abort
from twisted_ws.wire.tls.client import ClientTLS
from twisted_ws.wire.tls.stores import loadClientKey, loadTrust

__all__ = ["Answer", "post"]

# Bytes of the answer's head, and of its body, that are kept.
HEAD = 16 * 1024
BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site said.

    Attributes:
        status: the HTTP status.
        retryAfter: the header Retry-After, as it came; "" without.
        body: at most `BODY` bytes.
    """

    status: int
    retryAfter: str
    body: bytes

    @property
    def text(self) -> str:
        """The body's first line, safe to print."""
        return printable(self.body.decode("utf-8", "replace").strip().partition("\n")[0], 200)

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty, if it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):  # no JSON, or nested as no site does it
            return {}
        return found if isinstance(found, dict) else {}


class _Post(Protocol):
    """Sends a request, and collects its answer."""

    transport: Any

    def __init__(self, where: str, request: bytes) -> None:
        self.answered: Deferred[Answer] = Deferred(lambda _: self._drop())
        self._where = where
        self._request = request
        self._data = b""

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        try:
            self._judge(isWhole=False)
        except BadHandshake as error:
            self._fail(error)

    def _judge(self, isWhole: bool) -> None:
        while (end := self._data.find(b"\r\n\r\n", 0, HEAD)) >= 0:
            head, rest = self._data[: end + 4], self._data[end + 4 :]
            response = parseResponse(head, 100)
            if response.status < 200:
                self._data = rest
                continue
            body, isComplete = bodyOf(response, rest)
            if isComplete or isWhole or len(rest) > BODY:
                self._drop()
                if not self.answered.called:
                    self.answered.callback(Answer(response.status, response.headers.get("retry-after", ""), body[:BODY]))
            return
        checkStart(self._data)
        if len(self._data) >= HEAD:
            raise BadHandshake(f"the answer of {self._where} has no end in {HEAD} bytes: it is no broadcast site")

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        error: Any = reason.value
        try:
            self._judge(isWhole=True)
        except BadHandshake as bad:
            error = bad
        if isinstance(error, ConnectError):
            self._fail(error)
        elif isinstance(error, SSL.Error):
            self._fail(explain(self.transport, self._where, error))
        else:
            self._fail(
                ConnectFailed(f"{self._where} closed the connection without an answer: check the port, and http: or https:")
            )

    def _fail(self, error: ConnectError) -> None:
        self._drop()
        if not self.answered.called:
            self.answered.errback(Failure(error))

    def _drop(self) -> None:
        if self.transport is not None:
            abort(self.transport)


class _Factory(Factory):
    noisy = False

    def __init__(self, made: _Post) -> None:
        self._made = made

    def buildProtocol(self, addr: IAddress | None) -> _Post:
        return self._made


def _address(url: str) -> Address:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https"):
        shown = (rest or url).partition("?")[0].rpartition("@")[2]
        if separator and scheme.isalpha():
            shown = f"{scheme}://{shown}"
        raise InvalidURL(
            f'"{printable(shown, 100)}" does not begin with http:// or https://: write http://host:port/broadcaster/broadcast'
        )
    try:
        return parseURL(f"{'ws' if scheme == 'http' else 'wss'}://{rest}")
    except InvalidURL as error:
        raise InvalidURL(str(error).replace("wss://", "https://").replace("ws://", "http://")) from None


def _request(address: Address, options: Mapping[str, Any], message: bytes) -> bytes:
    kind = (
        "application/octet-stream"
        if options["binary"]
        else "application/json"
        if options["json"]
        else "text/plain; charset=utf-8"
    )
    lines = [
        f"POST {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(message)}",
        "Connection: close",
        *(f"Authorization: {each.header()}" for each in _credentials(options)),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + message


def _credentials(options: Mapping[str, Any]) -> list[Basic | Bearer]:
    """Return who we are, at most one: from a file, else from the environment."""
    if options["key-file"] is not None and options["user-file"] is not None:
        raise ConfigurationError("--key-file and --user-file are two ways to say who you are: give one of them.")
    key = None if options["user-file"] is not None else readKey(options["key-file"], "TWISTED_WS_API_KEY")
    if key is not None:
        return [Bearer(key)]
    user = secret(options["user-file"], "TWISTED_WS_USER", "user file")
    if user is None:
        return []
    name, colon, password = user.partition(":")
    if not colon:
        raise ConfigurationError("--user-file (or TWISTED_WS_USER) has no colon: write user:password.")
    return [Basic(name, password)]


def _tls(address: Address, options: Mapping[str, Any]) -> ClientTLS | None:
    trust = store(options, "trust-store", "trust-store")
    certificate = store(options, "client-certificate", "client")
    if not address.isSecure:
        if trust is not None or certificate is not None or options["insecure"]:
            raise ConfigurationError(
                "--trust-store, --client-certificate and --insecure are for https:// URLs: http:// has no TLS."
            )
        return None
    return ClientTLS(
        address.name,
        None if trust is None else loadTrust(trust),
        None if certificate is None else loadClientKey(certificate),
        not options["insecure"],
    )


def post(
    reactor: Any, options: Mapping[str, Any], message: bytes, endpoint: IStreamClientEndpoint | None = None
) -> Deferred[Answer]:
    """Post a message.

    Args:
        reactor: the reactor.
        options: those of ``twisted-ws broadcast``.
        message: not empty.
        endpoint: connects in place of DNS, TCP and proxy.

    Returns:
        A Deferred that fires with the answer, or fails with a `ConnectError`; it can be cancelled.

    Raises:
        InvalidURL: the URL is not that of a site.
        ConfigurationError: a file cannot be used; the text names it.
        ValueError: another option cannot be used.
    """
    address = _address(options["url"])
    made = _Post(address.hostAndPort, _request(address, options, message))
    factory: Any = _Factory(made)
    if (tls := _tls(address, options)) is not None:
        factory = tls.wrap(factory, reactor)
    proxy = proxyFor(address, True)
    way: Any = endpoint or HostnameEndpoint(reactor, *((proxy or address).host, (proxy or address).port))
    if proxy is not None and endpoint is None:
        way = TunnelEndpoint(way, proxy, address)

    async def attempt() -> Answer:
        try:
            await way.connect(factory)
        except ConnectError:
            raise
        except Exception as error:
            raise unreachable(address.hostAndPort, error) from None
        return await made.answered

    def late(result: object, timeout: float) -> Failure:
        text = (
            f"{address.hostAndPort} gave no answer in {seconds(timeout)}: check address and network, or allow more with --timeout"
        )
        return Failure(HandshakeTimeout(text))

    return Deferred.fromCoroutine(attempt()).addTimeout(options["timeout"], reactor, late)
