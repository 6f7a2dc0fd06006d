"""One open connection as a service sees it."""

from __future__ import annotations

import secrets
import string
from functools import cache
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, Protocol

from twisted_ws.limits import checkNumber
from twisted_ws.message import BINARY, PING, PONG, TEXT, Message, binaryPayload, controlPayload, textPayload
from twisted_ws.service import checkClose
from twisted_ws.upgrade import Identified

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.connection import Connection
    from twisted_ws.message import Position, Start
    from twisted_ws.upgrade import UpgradeRequest


def newNodeId() -> str:
    """Return what distinguishes a server from all others that work with the same engine: 6 random letters and digits."""
    return "".join([secrets.choice(string.ascii_lowercase + string.digits) for _ in range(6)])


@cache
def _first() -> str:
    """Return the name of the first server of this process; it is made when it is needed, so processes that are forked differ."""
    return newNodeId()


# Not generators: after an error inside, such as a lack of memory, these go on.
nodeIds = chain(islice(iter(_first, None), 1), iter(newNodeId, None))
connectionIds = map("{}.{}".format, iter(_first, None), count(1))  # of all servers of the process, and of all transports


class Membership(Protocol):
    """A caller's part in channels.

    Attributes:
        channels: the names it is subscribed to.
    """

    channels: tuple[str, ...]

    def subscribe(self, channel: str, after: str | Position | None = None, last: int | None = None) -> Deferred[Start]:
        """See `Caller.subscribe`."""

    def unsubscribe(self, channel: str) -> bool:
        """See `Caller.unsubscribe`."""

    def leave(self) -> None:
        """End every subscription, because the caller has gone."""

    def expiring(self, seconds: float) -> None:
        """Tell the client that its credentials end soon, and the connection with them."""

    def lapse(self, channel: str, reason: str = ...) -> None:
        """End a subscription whose token has expired, or is revoked, unless it needs none."""

    def revoke(self, token: str) -> None:
        """End what needs the subscription token with an id, which is revoked."""


class Registry(Protocol):
    """The open callers of a server, and what a caller asks of it."""

    def add(self, caller: Caller, /) -> None:
        """Add a caller that has come."""

    def discard(self, caller: Caller, /) -> None:
        """Remove a caller that leaves; do nothing if it is not there."""

    def renamed(self, caller: Any, before: Any, /) -> None:
        """Note that a caller has another user than `before`."""

    def enroll(self, caller: Caller, /) -> Membership:
        """Return what takes part in channels for a caller that has no membership yet."""


class Caller(Identified):
    """One open connection; a handler may keep it as long as it likes and call it from anywhere in the reactor's thread.

    The writing methods return a Deferred (awaitable) that fires with None when the kernel has taken the bytes, and fails with
    `ConnectionClosed` if it never will. It may be ignored.

    Attributes:
        connectionId: never used twice, not even by another process: the process, a dot, and a number.
        request: the opening handshake, an `UpgradeRequest`.
        negotiatedSubProtocol: the chosen subprotocol, None without one.
        attributes: a dict for the service.
        membership: its part in channels, None until it has one; set by services with a kind of their own.
        life: what ends it in time, a `twisted_ws.access.lifetime.Lifetime`; None while nothing does.
        since: when it came, in Unix time.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_connection",
        "_place",
        "_registry",
        "_user",
        "connectionId",
        "life",
        "membership",
        "negotiatedSubProtocol",
        "request",
        "since",
    )

    def __init__(
        self,
        connection: Connection,
        request: UpgradeRequest,
        negotiatedSubProtocol: str | None = None,
        registry: Registry | None = None,
        since: float = 0.0,
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._place: Any = None  # its place in the crowd of its server
        self.membership: Membership | None = None
        self.life: Any = None
        self._attributes: dict[str, Any] | None = None
        self.connectionId = next(connectionIds)
        self.request = request
        self.negotiatedSubProtocol = negotiatedSubProtocol
        self.since = since
        self._user: Any = request.user

    @property
    def user(self) -> Any:
        """The user of this connection, as set by ``request.user`` in onUpgrade or by the service (a str for presence)."""
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        before, self._user = self._user, user
        if self._registry is not None:
            self._registry.renamed(self, before)

    @property
    def attributes(self) -> dict[str, Any]:
        """A dict for what the service wants to keep with this connection."""
        if self._attributes is None:
            self._attributes = {}
        return self._attributes

    @property
    def bufferedAmount(self) -> int:
        """Bytes written to this caller that the kernel has not taken yet."""
        return self._connection.bufferedAmount()

    def isOpen(self) -> bool:
        """Return whether messages can be written: from the 101 until either side sends Close."""
        return self._connection.isOpen()

    def isSecure(self) -> bool:
        """Return whether the connection uses TLS."""
        return self._connection.isSecure()

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels and patterns that this caller is subscribed to."""
        return () if self.membership is None else self.membership.channels

    def subscribe(self, channel: str, after: str | Position | None = None, last: int | None = None) -> Deferred[Start]:
        """Send this caller what is published to a channel from now on, each message as it was published.

        Args:
            channel: a name, or a pattern such as ``orders.*``.
            after: a position, such as the id of a message: what was published since is sent first. "0": all that is kept.
            last: without `after`, so many of the newest messages that are kept are sent first, at least 1.

        Returns:
            A Deferred of the `Start`, which tells whether everything since `after` was recovered. It has fired already, unless
            the engine has to ask another process.

        Raises:
            ChannelError: invalid name or position, already subscribed, or more than `Limits.channelsPerCaller`.
            ConnectionClosed: the Deferred fails with it if the caller has left.
            RuntimeError: the caller belongs to no server.
            ValueError: `last` is less than 1.
        """
        if last is not None and last < 1:
            raise ValueError(f"last must be 1 or more messages, not {last!r}")
        if self.membership is None:
            if self._registry is None:
                raise RuntimeError("this caller belongs to no server, so there are no channels")
            self.membership = self._registry.enroll(self)
        return self.membership.subscribe(channel, after, last)

    def unsubscribe(self, channel: str) -> bool:
        """Stop sending a channel to this caller; return whether it was subscribed."""
        return self.membership is not None and self.membership.unsubscribe(channel)

    def leaveChannels(self) -> None:
        """End every subscription; the server calls it when nothing can be written any more."""
        if self.membership is not None:
            self.membership.leave()

    def writeTextMessage(self, text: str) -> Deferred[None]:
        """Send one text message.

        Raises:
            TypeError: `text` is not a str.
            ValueError: `text` has a lone surrogate, which UTF-8 cannot encode.
        """
        return self._connection.writeFrame(TEXT, textPayload(text))

    def writeBinaryMessage(self, data: bytes | bytearray | memoryview) -> Deferred[None]:
        """Send one binary message.

        Raises:
            TypeError: `data` is not bytes-like.
        """
        return self._connection.writeFrame(BINARY, binaryPayload(data))

    def writeMessage(self, value: Any) -> Deferred[None]:
        """Send `value`: a str as text, bytes as binary, anything else as JSON text.

        Raises:
            TypeError: JSON has no form for `value`.
            ValueError: text with a lone surrogate.
        """
        message = Message.of(value)
        return self._connection.writeFrame(message.kind.opcode, message.payload)

    def ping(self, data: bytes = b"") -> Deferred[None]:
        """Send a ping with at most 125 bytes.

        Raises:
            ValueError: `data` is longer than 125 bytes (RFC 6455 section 5.5).
            TypeError: `data` is not bytes-like.
        """
        return self._connection.writeFrame(PING, controlPayload(data))

    def pong(self, data: bytes = b"") -> Deferred[None]:
        """Send a pong with at most 125 bytes.

        Raises:
            ValueError: `data` is longer than 125 bytes (RFC 6455 section 5.5).
            TypeError: `data` is not bytes-like.
        """
        return self._connection.writeFrame(PONG, controlPayload(data))

    def close(self, code: int = 1000, reason: str = "", timeout: float = 60) -> Deferred[None]:
        """Send what is queued, then a Close frame, and wait for the peer's Close.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999.
            reason: at most 123 bytes of UTF-8.
            timeout: seconds for all of this, after which the connection is dropped; 0 does not wait for the peer's Close.

        Returns:
            A Deferred that fires with None when the connection is closed, for whatever reason; it never fails.

        Raises:
            ValueError: a code that must not be sent, a reason that is too long, a negative or infinite timeout.
            TypeError: an argument of the wrong type.
        """
        payload = checkClose(code, reason)
        checkNumber("timeout", timeout)
        return self._connection.startClose(payload, timeout)

    def __repr__(self) -> str:
        return f"<Caller {self.connectionId} {self.request.path!r}>"
