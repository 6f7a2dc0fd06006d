"""``twisted-ws password`` makes a line that the authenticator ``basic`` accepts, of a password that nobody else sees."""

from __future__ import annotations

import getpass
import io
import os

import pytest

from twisted_ws.access.kinds.passwords import PasswordFile
from twisted_ws.commands.main import main


class Piped(io.TextIOWrapper):
    """Standard input that is not a terminal."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


class Terminal(Piped):
    """Standard input that is one."""

    def isatty(self) -> bool:
        return True


def made(capsys, monkeypatch, data, *arguments):
    monkeypatch.setattr("sys.stdin", Piped(data))
    code = main(["password", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def usersOf(tmp_path, text):
    path = tmp_path / "users"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return PasswordFile(os.fspath(path))


@pytest.mark.parametrize("password", [b"correct horse", b" a:b#c ", "grün".encode(), b"\xff\xfe"])
def test_piped(capsys, monkeypatch, tmp_path, password):
    """The line is right in the file of the authenticator, whatever is in the password, and has the scopes."""
    code, out, _ = made(capsys, monkeypatch, password + b"\n", "ann", "--scope", "chat", "--scope", "read")
    assert code == 0
    assert password not in os.fsencode(out)
    users = usersOf(tmp_path, out)
    assert users.check("ann", password) == {"chat", "read"}
    assert users.check("ann", password + b"x") is None


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (b"", ["ann"]),
        (b"\n", ["ann"]),
        (b"one\ntwo\n", ["ann"]),
        (b"x" * 5000, ["ann"]),
        (b"right\n", ["a:b"]),
        (b"right\n", ["#ann"]),
        (b"right\n", [" ann"]),
        (b"right\n", [""]),
        (b"right\n", ["x" * 129]),
        (b"right\n", ["ann", "--scope", "a b"]),
        (b"right\n", ["ann", "--scope", "a:b"]),
        (b"right\n", ["ann", "--scope", ""]),
        (b"right\n", []),
        (b"right\n", ["ann", "S3CRET"]),
    ],
)
def test_refused(capsys, monkeypatch, data, arguments):
    """What the file cannot have writes nothing to it, and says what is wrong without a password."""
    code, out, err = made(capsys, monkeypatch, data, *arguments)
    assert (code, out) == (2, "")
    assert err
    assert "S3CRET" not in err


@pytest.mark.parametrize("again", ["horse", "hose"])
def test_terminal(capsys, monkeypatch, tmp_path, again):
    """On a terminal it is typed twice, without an echo: what was mistyped writes nothing."""
    typed = iter(["horse", again])
    monkeypatch.setattr("sys.stdin", Terminal(b""))
    monkeypatch.setattr(getpass, "getpass", lambda prompt, stream: next(typed))
    code = main(["password", "ann"])
    out = capsys.readouterr().out
    if again == "horse":
        assert usersOf(tmp_path, out).check("ann", b"horse") == frozenset()
    else:
        assert (code, out) == (2, "")


def test_nothingTyped(capsys, monkeypatch):
    """Whoever ends the input instead is told in one line."""

    def ended(prompt, stream):
        raise EOFError

    monkeypatch.setattr("sys.stdin", Terminal(b""))
    monkeypatch.setattr(getpass, "getpass", ended)
    assert main(["password", "ann"]) == 2
    assert capsys.readouterr().err.endswith("no password was given\n")
