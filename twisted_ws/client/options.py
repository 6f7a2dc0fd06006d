"""What `connect` was asked for, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from twisted_ws.client.http.address import Address
from twisted_ws.client.retry import Retry
from twisted_ws.limits import Limits

if TYPE_CHECKING:
    from twisted_ws.client.client import WebSocketClient

__all__ = ["CHARGE", "HANDSHAKE_TIMEOUT", "READ_BUFFER", "WRITE_BUFFER", "Options", "checkNumber"]

# Seconds for DNS, TCP, proxy, TLS and HTTP together: a server may take 10 for its decision, and the way there some more.
HANDSHAKE_TIMEOUT = 20.0
# Bytes that a message in a queue is charged on top of its own: empty messages are not free.
CHARGE = 64
# Bytes of messages that wait to be read, until reading from the server pauses.
READ_BUFFER = 1024 * 1024
# Bytes of messages that wait to be sent, until writes are refused. During an outage, some minutes of a busy client.
WRITE_BUFFER = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `connect` was asked for; see there.

    Attributes:
        headers: all that the user wants in the request, credentials and cookies included.
        limits: those of one connection.
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
        checkNumber("handshakeTimeout", self.handshakeTimeout)
        checkNumber("readBuffer", self.readBuffer)
        checkNumber("writeBuffer", self.writeBuffer)
        if self.readTimeout is not None:
            checkNumber("readTimeout", self.readTimeout)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry is a Retry(...), not {type(self.retry).__name__}")


def checkNumber(name: str, value: float, least: float = 0) -> None:
    """Check that an option is a number above `least`.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least < value < inf:
        raise ValueError(f"{name} must be more than {least:g} and not endless, not {value}")
