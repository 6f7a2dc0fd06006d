from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twisted_ws.client import Store
from twisted_ws.commands.arguments import connectArguments, headers, store
from twisted_ws.commands.connect import ConnectOptions
from twisted_ws.errors import ConfigurationError


def options(*arguments: str) -> Any:
    """Return the options of a command line."""
    parsed = ConnectOptions()
    parsed.parseOptions([*arguments, "ws://localhost"])
    return parsed


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has no variables of ours."""
    for name in ("USER", "TOKEN", "TRUST_STORE_PASSWORD", "CLIENT_PASSWORD"):
        monkeypatch.delenv(f"TWISTED_WS_{name}", raising=False)


def test_defaults() -> None:
    """Options that were not given are left to the library."""
    arguments = connectArguments(options(), lambda text: None)
    assert arguments.keys().isdisjoint({"handshakeTimeout", "maxMessageSize", "pingInterval"})
    assert (arguments["retry"], arguments["verify"], arguments["credentials"]) == (None, True, None)


def test_given() -> None:
    """Options that were given are passed on."""
    arguments = connectArguments(
        options("--timeout", "3", "--max-message-size", "2KiB", "--ping", "0", "-r", "--insecure", "--subprotocol", "a"),
        lambda text: None,
    )
    assert (arguments["handshakeTimeout"], arguments["maxMessageSize"], arguments["pingInterval"]) == (3, 2048, 0)
    assert arguments["retry"] is not None
    assert (arguments["verify"], arguments["subProtocols"]) == (False, ["a"])


def test_headers(tmp_path: Path) -> None:
    """A secret on the command line causes a warning, without its value; one in a file does not."""
    (tmp_path / "file").write_text("Cookie: a=b\n")
    notes: list[str] = []
    assert headers([f"@{tmp_path / 'file'}", "X: 1"], notes.append) == [("Cookie", "a=b"), ("X", "1")]
    assert notes == []
    headers(["cookie: s3cret"], notes.append)
    assert len(notes) == 1
    assert "s3cret" not in notes[0]


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of credentials, and a user without a password, are mistakes."""
    (tmp_path / "file").write_text("nocolon\n")
    file = str(tmp_path / "file")

    def found(*arguments: str) -> Any:
        return connectArguments(options(*arguments), lambda text: None)["credentials"]

    with pytest.raises(ConfigurationError, match="use one of them"):
        found("--user-file", file, "--token-file", file)
    with pytest.raises(ConfigurationError, match="has no colon"):
        found("--user-file", file)
    monkeypatch.setenv("TWISTED_WS_TOKEN", "t")
    assert found("--header", "X: 1").header() == "Bearer t"
    assert found("--header", "authorization: mine") is None
    assert found("--header", "authorization: mine", "--token-file", file).header() == "Bearer nocolon"


def test_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store has its password from a file or the environment; a password without a store is a mistake."""
    (tmp_path / "file").write_text("changeit\n")
    file = str(tmp_path / "file")
    assert store(options(), "client-certificate", "client") is None
    given = options("--client-certificate", "c.p12", "--client-password-file", file)
    assert store(given, "client-certificate", "client") == Store("c.p12", "changeit")
    monkeypatch.setenv("TWISTED_WS_CLIENT_PASSWORD", "other")
    assert store(options("--client-certificate", "c.p12"), "client-certificate", "client") == Store("c.p12", "other")
    with pytest.raises(ConfigurationError, match="give --client-certificate too"):
        store(options("--client-password-file", file), "client-certificate", "client")
