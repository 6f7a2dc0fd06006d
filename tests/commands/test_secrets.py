from __future__ import annotations

from pathlib import Path

import pytest

from twisted_ws.commands.secrets import header, headersIn, line, readKey, secret
from twisted_ws.errors import ConfigurationError


@pytest.mark.parametrize("content", ["s3 cret", "s3 cret\n", "s3 cret\r\n"])
def test_line(tmp_path: Path, content: str) -> None:
    """A secret is the one line of its file."""
    (tmp_path / "file").write_bytes(content.encode())
    assert line(str(tmp_path / "file"), "token file") == "s3 cret"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "must have exactly one line"),
        (b"one\ntwo\n", "must have exactly one line"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 65537, "is larger than 64 KiB"),
        (None, "cannot be read (No such file or directory)"),
    ],
    ids=["empty", "two", "latin", "large", "missing"],
)
def test_wrongFiles(tmp_path: Path, content: bytes | None, text: str) -> None:
    """The error names a file that cannot be a secret, but does not show its content."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        line(str(file), "token file")
    assert str(raised.value).startswith(f"The token file {file} {text}")
    assert "one\n" not in str(raised.value)


def test_wrongPath() -> None:
    """A path that no file can have is an error like the others."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        line("a\0b", "token file")


def test_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file wins over the environment; an empty variable is none."""
    (tmp_path / "file").write_text("filed\n")
    monkeypatch.setenv("SECRET", "kept")
    assert secret(str(tmp_path / "file"), "SECRET", "file") == "filed"
    assert secret(None, "SECRET", "file") == "kept"
    monkeypatch.setenv("SECRET", "")
    assert secret(None, "SECRET", "file") is None


def test_readKey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key stands alone, or behind its name as in the server's own file, whose first key is used."""
    file = tmp_path / "keys"
    for content in ("k1\n", "# all\n\n shop: k1 \nother: k2\n", "shop: k1 until=2099-01-01 publish:a.* read:b\n"):
        file.write_text(content)
        assert readKey(str(file), "KEY") == "k1"
    monkeypatch.setenv("KEY", "k3")
    assert readKey(None, "KEY") == "k3"
    monkeypatch.delenv("KEY")
    assert readKey(None, "KEY") is None
    file.write_text("# none\n")
    with pytest.raises(ConfigurationError, match="has no key"):
        readKey(str(file), "KEY")
    file.write_text(f"shop: sha256:{'0' * 64} publish:a.*\n")
    with pytest.raises(ConfigurationError, match="give a file with the key itself"):
        readKey(str(file), "KEY")


def test_headers(tmp_path: Path) -> None:
    """Headers are written as in HTTP; one without a colon is not repeated, because it may be a secret."""
    assert header("X-A:  b: c ") == ("X-A", "b: c")
    (tmp_path / "file").write_text("# mine\nA: 1\n\nB:2\n")
    assert list(headersIn(str(tmp_path / "file"))) == [("A", "1"), ("B", "2")]
    with pytest.raises(ConfigurationError) as raised:
        header("s3cret")
    assert "s3cret" not in str(raised.value)
