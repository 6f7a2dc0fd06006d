"""The options by which a command reaches a broadcast site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python.usage import UsageError

from twisted_ws.commands.options import CommandOptions, number

# Seconds.
TIMEOUT = 20
EXAMPLE = "http://localhost:8081"


class SiteOptions(CommandOptions):
    """The options of a command that has the URL of a broadcast site as its first argument."""

    optFlags: Sequence[Sequence[Any]] = [
        ["insecure", None, "accept any certificate of the server: for tests only"],
    ]
    optParameters: Sequence[Sequence[Any]] = [
        ["key-file", None, None, "file with the API key, perhaps the server's own key file (else $TWISTED_WS_API_KEY)"],
        ["user-file", None, None, "file with user:password for HTTP Basic (else $TWISTED_WS_USER)"],
        ["timeout", None, None, f"seconds for each request [{TIMEOUT}]"],
        ["trust-store", None, None, "file of the certificates to trust instead of the system's: PEM or PKCS #12"],
        ["trust-store-password-file", None, None, "file with its password (else $TWISTED_WS_TRUST_STORE_PASSWORD)"],
        ["client-certificate", None, None, "file with the client's certificate, key and chain: PEM or PKCS #12"],
        ["client-password-file", None, None, "file with its password (else $TWISTED_WS_CLIENT_PASSWORD)"],
    ]

    groups: Mapping[str, Sequence[str]] = {
        "Credentials": ("key-file", "user-file"),
        "Connection and TLS": (
            *("timeout", "trust-store", "trust-store-password-file", "client-certificate", "client-password-file"),
            *("insecure",),
        ),
    }

    def __init__(self) -> None:
        super().__init__()
        self["url"] = ""

    def takeURL(self, arguments: Sequence[str]) -> list[str]:
        """Take the URL, and return the other arguments.

        Raises:
            UsageError: there is none.
        """
        if not arguments:
            raise UsageError(f"give the URL of the broadcast site, such as {EXAMPLE}")
        self["url"] = arguments[0]
        return list(arguments[1:])

    def postOptions(self) -> None:
        """Check what can be checked without reading a file."""
        self["timeout"] = number(self, "timeout", 0.001) or TIMEOUT
