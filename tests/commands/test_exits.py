from __future__ import annotations

import re
from pathlib import Path

import pytest

import twisted_ws
from twisted_ws.client import errors
from twisted_ws.commands.exits import PHRASES, codeOf, explained, forClose, forStatus
from twisted_ws.errors import ConfigurationError, ConnectionClosed, InvalidPayload, MessageTooBig, ProtocolError, TransportError
from twisted_ws.upgrade import Headers


def _refused(status: int) -> errors.HandshakeRefused:
    return errors.HandshakeRefused("no", status, Headers(()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionClosed(1000), 0),
        (ConnectionClosed(1006), 16),
        (ConnectionClosed(4000), 40),
        (_refused(403), 5),
        (errors.Redirected("there", 301, Headers(())), 5),
        (_refused(429), 6),
        (_refused(503), 6),
        (errors.HandshakeTimeout("late"), 7),
        (errors.UntrustedCertificate("no"), 4),
        (errors.WrongName("no"), 4),
        (errors.BadHandshake("no"), 8),
        (errors.ProxyRefused("no", 407), 5),
        (errors.ProxyRefused("no", 502), 3),
        (errors.ConnectFailed("no"), 3),
        (errors.InvalidURL("no"), 2),
        (ConfigurationError("no"), 2),
        (ValueError("no"), 2),
        (ProtocolError("no"), 12),
        (InvalidPayload("no"), 17),
        (MessageTooBig("no"), 19),
        (TransportError("no"), 16),
        (RuntimeError("no"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_codeOf(error: Exception, code: int) -> None:
    """Each cause has its exit code."""
    assert codeOf(error) == code


def test_closes() -> None:
    """Each possible close code has an exit code other than 0, except those that mean success."""
    fine = {code for code in (*range(1000, 1016), *range(3000, 5000)) if forClose(code) == 0}
    assert fine == {1000, 1001, 1005}
    assert {forClose(code) for code in range(3000, 4000)} == {30}
    assert {forClose(code) for code in range(4000, 5000)} == {40}


def test_statuses() -> None:
    """Each exit code shows whether another attempt is worthwhile."""
    assert {status for status in range(300, 600) if forStatus(status) == 6} == {408, 425, 429, *range(500, 600)}


def test_names() -> None:
    """Each phrase that is replaced is still one that the library uses."""
    package = Path(twisted_ws.__file__).parent
    paths = [path for folder in ("client", "wire/tls") for path in package.joinpath(folder).rglob("*.py")]
    source = "".join(path.read_text() for path in paths)
    # Long texts are cut over lines in the source.
    said = re.sub(r'"\s*f?"', "", source)
    for phrase in PHRASES:
        assert phrase in said, phrase


def test_explained() -> None:
    """The library's arguments become options; an explained close says which side closed."""
    assert explained(ValueError("allow more time with handshakeTimeout")) == "allow more time with --timeout"
    for what, option in (("trust store", "--trust-store-password-file"), ("client certificate", "--client-password-file")):
        closed = f"The {what} a.p12 does not open: give its password with"
        assert explained(ConfigurationError(f"{closed} Store(path, password).")) == f"{closed} {option}."
    assert explained(ConnectionClosed(4001, "why")) == "the server closed the connection with 4001 (why)"
    assert explained(ConnectionClosed(4001)) == "the server closed the connection with 4001"
    assert "without a Close (1006)" in explained(ConnectionClosed(1006))
