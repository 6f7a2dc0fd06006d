"""The client's errors in the words of the command line."""

from __future__ import annotations

import re

from twisted_ws.errors import CloseCode, ConnectionClosed

__all__ = ["explained"]

# What the library calls its arguments, and what the options are called.
_NAMES = {
    "handshakeTimeout": "--timeout",
    "a larger maxMessageSize": "a larger --max-message-size",
    "as trustStore": "with --trust-store",
    "clientCertificate": "--client-certificate",
    "trustStore, clientCertificate and verify": "--trust-store, --client-certificate and --insecure",
    "give credentials=Basic(user, password)": "put user:password into a file for --user-file",
    "give credentials that it takes": "give credentials that it takes (--user-file, --token-file, --header @FILE)",
    "credentials are given twice: in credentials, and in the header Authorization": "the header Authorization is given twice",
    "(there are subProtocols and compression)": "(there are --subprotocol and --compression)",
}
_PATTERN = re.compile("|".join(map(re.escape, sorted(_NAMES, key=len, reverse=True))))


def explained(error: BaseException) -> str:
    """Return one line that says what went wrong and what to do."""
    if isinstance(error, ConnectionClosed):
        if error.statusCode == CloseCode.ABNORMAL:
            return "the connection ended without a Close (1006): the server, or the way to it, is gone; --retry comes back"
        reason = f" ({error.reason})" if error.reason else ""
        return f"the server closed the connection with {error.statusCode}{reason}"
    text = str(error)
    password = "--trust-store-password-file" if text.startswith("The trust store ") else "--client-password-file"
    return _PATTERN.sub(lambda match: _NAMES[match[0]], text).replace("Store(path, password)", password)
