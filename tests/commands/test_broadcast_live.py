"""``twisted-ws broadcast`` against our server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.commands.support import command, going
from tests.live.support import PATIENCE, Running, running
from tests.ports import freePort

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose broadcast site has TLS, and wants a key or a password."""
    directory = tmp_path_factory.mktemp("server")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "trust.pem")
    leaf = authority.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    (directory / "keys").write_text(f"# ours\nshop: {KEY}\n")
    (directory / "passwords").write_text("ada:correct horse\n")
    for name in ("server.pem", "keys", "passwords"):
        os.chmod(directory / name, 0o600)
    pem = str(directory / "server.pem")
    arguments = ("--broadcast-tls-port", "0", "--certificate", pem, "--private-key", pem)
    guards = ("--api-key-file", str(directory / "keys"), "--auth", f"file:{directory / 'passwords'}")
    with running(directory, *arguments, *guards) as server:
        server.directory = directory  # type: ignore[attr-defined]
        yield server


def site(server: Running, path: str = "/broadcaster/broadcast", scheme: str = "http") -> str:
    """Return a URL of the broadcast site."""
    return f"{scheme}://localhost:{server.port(scheme)}{path}"


def _file(server: Running, name: str) -> str:
    return str(server.directory / name)  # type: ignore[attr-defined]


def test_messages(server: Running, tmp_path: Path) -> None:
    """The message is the argument, a file, or standard input; text or binary."""
    (tmp_path / "message").write_bytes("from a file, ü".encode())
    key = ("--key-file", _file(server, "keys"))
    with server.client() as client:
        for arguments, stdin, wanted in (
            (("from the command line",), b"", "from the command line"),
            (("--", "-5"), b"", "-5"),
            (("--file", "message"), b"", "from a file, ü"),
            ((), b"from\nstdin\n", "from\nstdin\n"),
            (("--binary",), b"\x00\xff", b"\x00\xff"),
        ):
            done = command(tmp_path, "broadcast", *key, site(server), *arguments, stdin=stdin)
            assert (done.code, done.out, done.err) == (0, b"OK\n", ""), (arguments, done)
            assert client.recv(PATIENCE) == wanted


def test_channel(server: Running, tmp_path: Path) -> None:
    """A message to a channel goes the same way, and the number of recipients and its id are printed."""
    key = ("--key-file", _file(server, "keys"))
    with server.client("/channels/orders.42") as client:
        done = command(tmp_path, "broadcast", *key, site(server, "/channels/orders.42"), "Hello!")
        assert done.code == 0, done
        assert done.out.startswith(b"1 recipient, id ")
        assert "Hello!" in str(client.recv(PATIENCE))
        done = command(tmp_path, "broadcast", *key, "--json", site(server, "/channels/orders.7"), '{"a": 1}')
        assert done.out.startswith(b"0 recipients, id ")


def test_credentials(server: Running, tmp_path: Path) -> None:
    """Key and password come from a file or from the environment; a bare key is a key file too."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "user").write_text("ada:correct horse\n")
    for arguments, more in (
        (("--key-file", "key"), {}),
        ((), {"TWISTED_WS_API_KEY": KEY}),
        (("--user-file", "user"), {"TWISTED_WS_API_KEY": "no key"}),
        ((), {"TWISTED_WS_USER": "ada:correct horse"}),
    ):
        done = command(tmp_path, "broadcast", site(server), "Hello!", *arguments, **more)
        assert (done.code, done.out, done.err) == (0, b"OK\n", ""), (arguments, done)


def test_secure(server: Running, tmp_path: Path) -> None:
    """TLS works with a trust store or, with a warning, without checking the certificate."""
    key = ("--key-file", _file(server, "keys"))
    there = site(server, scheme="https")
    done = command(tmp_path, "broadcast", *key, "--trust-store", _file(server, "trust.pem"), there, "Hello!")
    assert (done.code, done.out, done.err) == (0, b"OK\n", ""), done
    done = command(tmp_path, "broadcast", *key, "--insecure", there, "Hello!")
    assert (done.code, done.out) == (0, b"OK\n")
    assert "NOT VERIFIED" in done.err
    done = command(tmp_path, "broadcast", *key, there, "Hello!")
    assert done.code == 4
    assert "--trust-store" in done.err


def test_refusals(server: Running, tmp_path: Path) -> None:
    """A failure is one line that says what to do, and an exit code by its cause."""
    there = site(server)
    (tmp_path / "empty").write_text("# nothing\n")
    nobody = freePort()
    key = ("--key-file", _file(server, "keys"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for arguments, code, text in (
            ((), 2, "give one URL"),
            ((there, "a", "b"), 2, "give one URL"),
            ((there, "a", "--file", "b"), 2, "given twice"),
            ((there, "a", "-bj"), 2, "different kinds"),
            ((there,), 2, "The message is empty"),
            ((there, "--file", "nowhere"), 2, "The file nowhere cannot be read (No such file or directory)"),
            ((there, "a", "--key-file", "nowhere"), 2, "The key file nowhere cannot be read"),
            ((there, "a", "--key-file", "empty"), 2, "has no key"),
            ((there, "a", "--insecure"), 2, "are for https:// URLs"),
            (("ws://localhost/ws", "a"), 2, '"ws://localhost/ws" does not begin with http:// or https://'),
            (("localhost:8081", "a"), 2, '"localhost:8081" does not begin with'),
            (("a:secret@localhost/?b=http://c", "a"), 2, '"c" does not begin with'),
            (("http://local host", "a"), 2, '"http://local host" has a space'),
            ((f"http://127.0.0.1:{nobody}", "a"), 3, "nothing listens"),
            ((there.replace("http", "https"), "a"), 4, "or use http://"),
            (
                (there, "a"),
                5,
                "give credentials that it accepts (--key-file, --user-file)",
            ),
            ((site(server, "/nowhere"), "a", *key), 5, "404 (There is nothing here): check the URL"),
            ((f"http://localhost:{server.port('ws')}/ws", "a", *key), 5, "use the broadcast port"),
            (("--timeout", "0.2", f"http://127.0.0.1:{silent.getsockname()[1]}", "a"), 7, "allow more time with --timeout"),
        ):
            done = command(tmp_path, "broadcast", *arguments)
            assert (done.code, done.out) == (code, b""), (arguments, done)
            assert text in done.err
            assert len(done.err.splitlines()) == 1
    done = command(tmp_path, "broadcast", there, *key, stdin=b"x" * 1_048_577)
    assert done.code == 5
    assert "413 (The body is larger than 1048576 bytes): send it in parts" in done.err


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it, and the exit code is 130."""
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with silent, going(tmp_path, "broadcast", url, "Hello!") as it, silent.accept()[0]:
        it.send_signal(signal.SIGINT)
        out: Any = it.communicate(timeout=PATIENCE)
        assert (it.returncode, *out) == (130, b"", b"")


def test_brokenPipe(server: Running, tmp_path: Path) -> None:
    """Without a reader for its output, the command still ends in order."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as broken:
        key = ("--key-file", _file(server, "keys"))
        with going(tmp_path, "broadcast", *key, site(server), "Hello!", stdout=broken) as it:
            assert it.communicate(timeout=PATIENCE)[1] == b""
            assert it.returncode == 141
