"""The answer to a handshake that is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted_ws.wire.websocket.receiver import EventReceiver

if TYPE_CHECKING:
    from twisted_ws.wire.websocket.connection import WebSocketConnection


@dataclass(slots=True)
class Welcome:
    """The answer to a handshake that is accepted.

    Attributes:
        subProtocol: the chosen one, None without.
        headers: more headers for the 101, checked.
        idleTimeout: the service's, seconds; 0: none.
        attend: makes the receiver of the connection's events, once it is open.
        path: the service's, as it was mounted.
    """

    subProtocol: str | None
    headers: tuple[tuple[str, str], ...]
    idleTimeout: float
    attend: Callable[[WebSocketConnection], EventReceiver]
    path: str = ""
