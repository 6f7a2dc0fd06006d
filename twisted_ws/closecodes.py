"""Close codes: what each one means, and whether a client should connect again after it.

These two tables are the only source. From them come the codes that a service may send (`twisted_ws.service.checkClose`), when the
Python client connects again (`twisted_ws.client.Retry`), stops iterating and exits with 0, when ``twisted-ws.js`` connects again
(`twisted_ws.web.scripts` writes it in), and the tables of the reference (``docs/_tables.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from twisted_ws.errors import ChannelError, CloseCode

# The seconds, at random, after which to connect again when all clients were told to go at the same time.
SPREAD = (1, 10)
# A refused channel closes the connection with this code and the HTTP status of the refusal added.
REFUSED = 4000
FORBIDDEN = REFUSED + 403
EXPIRED = REFUSED + 401
NOT_RECOVERED = REFUSED + 410


class Again(Enum):
    """Whether to connect again, and when."""

    NO = "no"
    BACKOFF = "yes, with backoff from 1 s"
    SPREAD = f"yes, after a random {SPREAD[0]} to {SPREAD[1]} s: all clients were told at the same time"


@dataclass(frozen=True, slots=True)
class Close:
    """One close code.

    Attributes:
        code: the code.
        reason: the reason that comes with it, in Markdown.
        cause: when it is sent, or reported, in Markdown.
        again: whether the Python client connects again, and when.
        advice: what the client's author should know beyond `again`, in Markdown.
        browser: whether ``twisted-ws.js`` connects again; None for as the Python client does.
        isDone: whether it says that all is well.
        isSent: whether it may be sent; otherwise it is only reported to `onClose`.
    """

    code: int
    reason: str
    cause: str
    again: Again
    advice: str = ""
    browser: bool | None = None
    isDone: bool = False
    isSent: bool = True


CLOSES = (
    Close(
        CloseCode.NORMAL,
        "`idle timeout` or your own",
        "the connection has done its work, or no message has passed for `idleTimeout`",
        Again.NO,
        "when it has something to send",
        isDone=True,
    ),
    Close(CloseCode.GOING_AWAY, "`server stops`", "the server drains", Again.SPREAD, isDone=True),
    Close(
        CloseCode.PROTOCOL_ERROR,
        "`protocol error`",
        "a frame that RFC 6455 forbids",
        Again.NO,
        "no: a client library with a bug will do it again",
    ),
    Close(
        CloseCode.UNSUPPORTED_DATA,
        "`bad data: …`",
        "a message that does not match the handler's annotation; the reason names the field, or is `too many values`",
        Again.NO,
        "with the data corrected",
    ),
    Close(
        CloseCode.NO_STATUS,
        "",
        "the peer's Close had no code",
        Again.NO,
        "no; a channel has not ended, though",
        browser=True,
        isDone=True,
        isSent=False,
    ),
    Close(CloseCode.ABNORMAL, "", "the connection ended without a Close from the peer", Again.BACKOFF, isSent=False),
    Close(
        CloseCode.INVALID_PAYLOAD,
        "`invalid payload`",
        "text that is not UTF-8, compressed data that does not inflate or is truncated",
        Again.NO,
    ),
    Close(
        CloseCode.POLICY_VIOLATION,
        "`too many messages`, `too many control frames`",
        "a rate limit was exceeded",
        Again.NO,
        "with fewer messages",
    ),
    Close(CloseCode.MESSAGE_TOO_BIG, "`message too big`", "a message over `maxMessageSize`", Again.NO, "with smaller messages"),
    Close(CloseCode.MANDATORY_EXTENSION, "your own", "a client needs an extension that the server did not accept", Again.NO),
    Close(CloseCode.INTERNAL_ERROR, "`internal error`", "a handler raised; the server's log has the traceback", Again.BACKOFF),
    Close(CloseCode.SERVICE_RESTART, "your own", "a service restarts", Again.SPREAD),
    Close(
        CloseCode.TRY_AGAIN_LATER,
        "`too slow`, `overloaded`",
        "more bytes are waiting for the peer, or have come from it, than the limits allow",
        Again.BACKOFF,
    ),
    Close(CloseCode.BAD_GATEWAY, "your own", "a server behind the service, to which it forwards messages, failed", Again.BACKOFF),
)


def _refusal(status: int) -> Close:
    """Return what it means when a channel was refused with an HTTP status."""
    causes = ", ".join(f"`{code}`" for code, each in ChannelError.STATUSES.items() if each == status)
    mayPass = status == 429 or status >= 500
    return Close(REFUSED + status, "as the service says", causes, Again.NO, "yes, later" if mayPass else "", browser=mayPass)


# Those that a `ChannelService` sends.
CHANNELS = (
    *map(_refusal, sorted({*ChannelError.STATUSES.values()})),
    Close(NOT_RECOVERED, "`not recovered`", "the history no longer has `after` (raw only)", Again.NO, "yes, without `after`"),
)

# The codes that have a name of their own where connections are counted.
_NAMES = {int(each.code): str(int(each.code)) for each in (*CLOSES, *CHANNELS)}


def codeName(code: int) -> str:
    """Return a close code as it is counted: "other" for one of a service's own, because any peer can send any of these."""
    return _NAMES.get(code, "other")


SENDABLE = frozenset(each.code for each in CLOSES if each.isSent)
DONE = frozenset(each.code for each in CLOSES if each.isDone)
RETRIED = frozenset(each.code for each in CLOSES if each.again is not Again.NO)
# Those that all clients of a server get at the same time.
CROWD = frozenset(each.code for each in CLOSES if each.again is Again.SPREAD)
BROWSER = tuple(
    each.code for each in (*CLOSES, *CHANNELS) if (each.again is not Again.NO if each.browser is None else each.browser)
)
