"""One HTTP POST to the broadcast site, with the client's proxies, TLS and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from twisted_ws.client.connecting import tlsFor
from twisted_ws.client.errors import InvalidURL
from twisted_ws.client.http.address import Address, parseURL
from twisted_ws.client.http.dialing import dial, endpointFor
from twisted_ws.client.http.exchange import Exchange
from twisted_ws.client.http.request import requestHead
from twisted_ws.client.http.response import Response
from twisted_ws.commands.arguments import credentials, store
from twisted_ws.commands.exits import inHTTP
from twisted_ws.commands.secrets import readKey
from twisted_ws.logs import printable

# Bytes of the response's body that are kept.
BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """The site's response.

    Attributes:
        status: the HTTP status.
        retryAfter: the header Retry-After, as it came; "" without it.
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
        """The body as a JSON object; empty if it is not one."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


class _Post(Exchange):
    """Fires `result` with the `Answer`, whatever its status."""

    maxBody = BODY

    def responded(self, response: Response, body: bytes) -> None:
        """Take the answer."""
        self.result.callback(Answer(response.status, response.headers.get("retry-after", ""), body))


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
        raise InvalidURL(inHTTP(str(error))) from None


def _request(address: Address, options: Mapping[str, Any], message: bytes) -> bytes:
    kind = "text/plain; charset=utf-8"
    if options["binary"] or options["json"]:
        kind = "application/octet-stream" if options["binary"] else "application/json"
    headers = [("Content-Type", kind), ("Content-Length", str(len(message))), ("Connection", "close")]
    who = credentials(options, "key-file", lambda path: readKey(path, "TWISTED_WS_API_KEY"))
    if who is not None:
        headers.append(("Authorization", who.header()))
    return requestHead("POST", address, headers) + message


def post(
    reactor: Any, options: Mapping[str, Any], message: bytes, endpoint: IStreamClientEndpoint | None = None
) -> Deferred[Answer]:
    """Post a message.

    Args:
        reactor: the reactor.
        options: those of ``twisted-ws broadcast``.
        message: not empty.
        endpoint: connects instead of DNS, TCP and proxy.

    Returns:
        A Deferred that fires with the `Answer`, or fails with a `ConnectError`; it can be cancelled.

    Raises:
        InvalidURL: the URL cannot be a site's.
        ConfigurationError: a file cannot be used; the text names it.
        ValueError: another option cannot be used.
    """
    address = _address(options["url"])
    made = _Post(address, _request(address, options, message))
    trust, certificate = store(options, "trust-store", "trust-store"), store(options, "client-certificate", "client")
    tls = tlsFor(address, trust, certificate, not options["insecure"])
    return dial(reactor, endpoint or endpointFor(reactor, address, True), tls, made, options["timeout"])
