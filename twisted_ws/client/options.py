"""The arguments of `connect`, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted_ws.client.http.address import Address
from twisted_ws.client.retry import Retry
from twisted_ws.limits import Limits, checkNumber

if TYPE_CHECKING:
    from twisted_ws.client.client import WebSocketClient

# Seconds for DNS, TCP, proxy, TLS and HTTP together: a server may take 10 for its decision, and getting there takes a few more.
HANDSHAKE_TIMEOUT = 20.0
# Bytes that a message in a queue is charged on top of its own: empty messages are not free.
CHARGE = 64
# Bytes of messages that may wait to be read before reading from the server pauses.
READ_BUFFER = 1024 * 1024
# Bytes of messages that may wait to be sent before writes are refused: in an outage, some minutes of a busy client.
WRITE_BUFFER = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The arguments of `connect`; see there.

    Attributes:
        headers: those that the user wants in the request, including credentials and cookies.
        limits: those of each connection.
    """

    address: Address
    subProtocols: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compression: bool = False
    limits: Limits = field(default_factory=Limits)
    readTimeout: float | None = None
    handshakeTimeout: float = HANDSHAKE_TIMEOUT
    readBuffer: int = READ_BUFFER
    writeBuffer: int = WRITE_BUFFER
    retry: Retry | None = None
    onPing: Callable[[WebSocketClient, bytes], Any] | None = None
    onPong: Callable[[WebSocketClient, bytes], Any] | None = None
    onReconnect: Callable[[WebSocketClient], Any] | None = None

    def __post_init__(self) -> None:
        checkNumber("handshakeTimeout", self.handshakeTimeout, above=True)
        checkNumber("readBuffer", self.readBuffer, above=True)
        checkNumber("writeBuffer", self.writeBuffer, above=True)
        if self.readTimeout is not None:
            checkNumber("readTimeout", self.readTimeout, above=True)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry must be a Retry(...), not {type(self.retry).__name__}")
