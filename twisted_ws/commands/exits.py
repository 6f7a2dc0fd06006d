"""How a command ends: the exit code, and the line that explains it."""

from __future__ import annotations

import re
import signal
from enum import IntEnum

from twisted_ws.client.errors import BadHandshake, ConnectError, HandshakeRefused, HandshakeTimeout, ProxyRefused, TLSFailed
from twisted_ws.closecodes import DONE
from twisted_ws.errors import CloseCode, ConfigurationError, ConnectionClosed, WebSocketError

# Statuses that may change: a script may try again.
_LATER = (408, 425, 429)

# The library's names for its arguments, and those of the options.
PHRASES = {
    "handshakeTimeout": "--timeout",
    "a larger maxMessageSize": "a larger --max-message-size",
    "as trustStore": "with --trust-store",
    "clientCertificate": "--client-certificate",
    "trustStore, clientCertificate and verify": "--trust-store, --client-certificate and --insecure",
    "give credentials=Basic(user, password)": "put user:password into a file for --user-file",
    "give credentials that it accepts": "give credentials that it accepts (--user-file, --token-file, --header @FILE)",
    "as credentials, and as the header Authorization": "by an option, and as the header Authorization",
    "(see subProtocols and compression)": "(see --subprotocol and --compression)",
}
_PATTERN = re.compile("|".join(map(re.escape, sorted(PHRASES, key=len, reverse=True))))


class Exit(IntEnum):
    """The exit codes; those for close codes are from `forClose`."""

    OK = 0
    FAILED = 1  # the input cannot be sent, or there is a bug
    USAGE = 2
    UNREACHABLE = 3
    TLS = 4
    REFUSED = 5
    LATER = 6
    TIMEOUT = 7
    NO_WEBSOCKET = 8
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


def forClose(code: int) -> int:
    """Return the exit code for a close code: 12 for 1002, ... 24 for 1014; 30 for 3000-3999, 40 for 4000-4999."""
    if code in DONE:
        return Exit.OK
    if 1000 < code < 1016:
        return code - 990
    return 30 if code < 4000 else 40


def forStatus(status: int) -> int:
    """Return the exit code for the HTTP status of a refusal."""
    return Exit.LATER if status in _LATER or status >= 500 else Exit.REFUSED


def codeOf(error: BaseException) -> int:
    """Return the exit code for the error that ended a command."""
    if isinstance(error, ConnectionClosed):
        return forClose(error.statusCode)
    if isinstance(error, HandshakeRefused):
        return forStatus(error.status)
    if isinstance(error, HandshakeTimeout):
        return Exit.TIMEOUT
    if isinstance(error, TLSFailed):
        return Exit.TLS
    if isinstance(error, BadHandshake):
        return Exit.NO_WEBSOCKET
    if isinstance(error, ProxyRefused) and error.status in (401, 403, 407):
        return Exit.REFUSED
    if isinstance(error, (ConfigurationError, ValueError)):  # an InvalidURL too
        return Exit.USAGE
    if isinstance(error, ConnectError):
        return Exit.UNREACHABLE
    if isinstance(error, WebSocketError):
        return forClose(CloseCode.ABNORMAL if error.code is None else error.code)
    return Exit.FAILED


def explained(error: BaseException) -> str:
    """Return one line that says what went wrong and what to do."""
    if isinstance(error, ConnectionClosed):
        if error.statusCode == CloseCode.ABNORMAL:
            return "the connection ended without a Close (1006): the server or the network is gone; --retry reconnects"
        reason = f" ({error.reason})" if error.reason else ""
        return f"the server closed the connection with {error.statusCode}{reason}"
    text = str(error)
    password = "--trust-store-password-file" if text.startswith("The trust store ") else "--client-password-file"
    return _PATTERN.sub(lambda match: PHRASES[match[0]], text).replace("Store(path, password)", password)


def inHTTP(text: str) -> str:
    """Return a text of the library about a ws: URL as one about an http: URL."""
    return text.replace("wss://", "https://").replace("ws://", "http://")
