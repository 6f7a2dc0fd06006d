"""One open connection, as everything above the wire sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.errors import WebSocketError
    from twisted_ws.frames import OutgoingMessage


class Connection(Protocol):
    """What callers, subscribers and the dispatcher ask of a connection; `WebSocketConnection` implements it.

    Every method may be called at any time, also after the close, and never raises because of the state of the connection.

    Attributes:
        sender: where a frame for many goes straight to the socket (`twisted_ws.wire.speedups.Sender`).
    """

    sender: Any

    def isOpen(self) -> bool:
        """Return whether messages can be written: from the 101 until either side sends Close."""

    def isSecure(self) -> bool:
        """Return whether the connection uses TLS."""

    # Writing.

    def writeFrame(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send one whole message or control frame.

        The Deferred fires when the kernel has taken the bytes, or fails with `ConnectionClosed`; a failure that nobody handles
        is not reported.
        """

    def reply(self, opcode: int, payload: str | bytes) -> None:
        """Send a message without a Deferred; do nothing when the connection is not open. A str is sent as UTF-8.

        Raises:
            ValueError: the text has a lone surrogate.
        """

    def sendText(self, payload: bytes) -> bool:
        """Send a text message to this peer alone, without a Deferred; return whether the connection is open and took it."""

    def send(self, message: OutgoingMessage) -> bool:
        """Send a message that goes to many callers; return whether the connection is open and took it."""

    def sendAll(self, messages: Sequence[OutgoingMessage]) -> bool:
        """Send several such messages in one write; see `send`."""

    def goOn(self) -> None:
        """Send the rest of a frame that `sender` has begun."""

    def startClose(self, payload: bytes, timeout: float) -> Deferred[None]:
        """Send Close after everything that is queued, and wait at most `timeout` seconds for the peer; fires when closed."""

    def fail(self, error: WebSocketError) -> None:
        """Tell the service about `error`, then close with the error's code and reason."""

    def remind(self, at: float | None, call: Callable[[], None] | None = None) -> None:
        """Call `call` once, at a moment of the wheel's clock, if the connection is open then; replaces what was set before.

        Args:
            at: seconds; None: call nothing.
            call: what to call.
        """

    # What waits for the peer.

    def bufferedAmount(self) -> int:
        """Return the number of bytes that the kernel has not taken yet."""

    def waiting(self) -> int:
        """Return the number of bytes queued behind the frame that is being written, including what they are charged."""

    def keep(self, by: int) -> None:
        """Count `by` more bytes that are held for this connection elsewhere, or fewer if negative."""

    def hold(self, goOn: Callable[[], None] | None, makeRoom: Callable[[], None] | None = None) -> None:
        """Stop frames for many from bypassing what waits elsewhere for this connection; None: allow it again.

        Args:
            goOn: called when there is room again.
            makeRoom: called when too much waits.
        """

    def activity(self) -> int:
        """Return a number that grows with each message or control frame that the service writes."""

    # Reading.

    def pauseReading(self) -> None:
        """Read no more bytes from the peer until `resumeReading`; what was read already is still delivered."""

    def resumeReading(self) -> None:
        """Undo `pauseReading`."""

    def waits(self, size: int) -> None:
        """Set the number of bytes of received messages that wait for a handler to `size`."""

    def mayLog(self, kind: str) -> int:
        """Return whether one more line of this kind may be logged: a peer that makes a service fail must not fill the log.

        See `twisted_ws.logs.Throttle.allows`.
        """
