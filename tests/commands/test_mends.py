from __future__ import annotations

import re
from pathlib import Path

import twisted_ws
from twisted_ws.commands.mends import _NAMES, explained
from twisted_ws.errors import ConfigurationError, ConnectionClosed


def test_names() -> None:
    """Each phrase that is translated is still one that the library says."""
    package = Path(twisted_ws.__file__).parent
    paths = [path for folder in ("client", "wire/tls") for path in package.joinpath(folder).rglob("*.py")]
    source = "".join(path.read_text() for path in paths)
    # Long texts are cut over lines in the source.
    said = re.sub(r'"\s*f?"', "", source)
    for phrase in _NAMES:
        assert phrase in said, phrase


def test_explained() -> None:
    """The library's arguments become options; closes say who closed."""
    assert explained(ValueError("allow more with handshakeTimeout")) == "allow more with --timeout"
    for what, option in (("trust store", "--trust-store-password-file"), ("client certificate", "--client-password-file")):
        closed = f"The {what} a.p12 does not open: give its password with"
        assert explained(ConfigurationError(f"{closed} Store(path, password).")) == f"{closed} {option}."
    assert explained(ConnectionClosed(4001, "why")) == "the server closed the connection with 4001 (why)"
    assert explained(ConnectionClosed(4001)) == "the server closed the connection with 4001"
    assert "without a Close (1006)" in explained(ConnectionClosed(1006))
