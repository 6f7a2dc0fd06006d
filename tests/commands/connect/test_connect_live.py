"""``twisted-ws connect`` with pipes and files, against our server and one that we did not write."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from tests.commands.support import COMMAND, SERVICES, command, echo, foreign, going
from tests.live.support import PATIENCE, Running, environment, running, writeService
from tests.ports import freePort


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server as a daemon, with TLS for localhost."""
    directory = tmp_path_factory.mktemp("server")
    writeService(directory, SERVICES, "services")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "trust.pem")
    leaf = authority.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    os.chmod(directory / "server.pem", 0o600)
    root = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    lock = BestAvailableEncryption(b"changeit")
    (directory / "trust.p12").write_bytes(pkcs12.serialize_key_and_certificates(None, None, None, [root], lock))
    (directory / "password").write_text("changeit\n")
    pem = str(directory / "server.pem")
    with running(
        directory, "--service", "/echo=services:Echo", "--tls-port", "0", "--certificate", pem, "--private-key", pem
    ) as server:
        server.directory = directory  # type: ignore[attr-defined]
        yield server


def url(server: Running, scheme: str = "ws") -> str:
    """Return the URL of the echo."""
    return f"{scheme}://localhost:{server.port(scheme)}/echo"


MANY = b"".join(b"%d\n" % n for n in range(100_000))


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_manyLines(server: Running, tmp_path: Path, kind: str) -> None:
    """100,000 lines (a file: 20,000) through an echo come back all, in order, though the input ends long before the last one."""
    lines = MANY if kind == "pipe" else MANY[: MANY.index(b"\n20000\n") + 1]
    (tmp_path / "lines").write_bytes(lines)
    with open(tmp_path / "lines", "rb") as file:
        done = command(tmp_path, "connect", url(server), stdin=lines if kind == "pipe" else file)
    assert done.code == 0, done
    assert done.out == lines
    assert done.err == ""


def test_manyLinesElsewhere(tmp_path: Path) -> None:
    """With --wait, so it is with a server that answers pings before it has handled the messages before them, if it is busy."""
    lines = b"".join(b"%d\n" % n for n in range(20_000))
    with foreign(echo) as there:
        done = command(tmp_path, "connect", "--wait", "2", there, stdin=lines)
    assert (done.code, done.out) == (0, lines), done


def test_lastLineWithoutEnd(server: Running, tmp_path: Path) -> None:
    """A last line without an end is a message; an empty line is an empty one; a CR before the end is not part of it."""
    done = command(tmp_path, "connect", "--json", url(server), stdin="a\r\n\nwörld".encode())
    texts = [event["data"] for event in map(json.loads, done.out.splitlines()) if event["type"] == "text"]
    assert texts == ["a", "", "wörld"]


@pytest.mark.parametrize("how", ["/dev/null", "closed"])
def test_noInput(server: Running, tmp_path: Path, how: str) -> None:
    """Without input, from /dev/null or with stdin closed, it closes at once, with exit code 0."""
    redirect = "</dev/null" if how == "/dev/null" else "<&-"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, "connect", url(server)],
        env=environment(tmp_path),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_binary(server: Running, tmp_path: Path) -> None:
    """--binary takes and gives bytes as they are."""
    data = bytes(range(256)) * 2000
    done = command(tmp_path, "connect", "--binary", url(server), stdin=data)
    assert (done.code, done.out) == (0, data)


def test_whole(server: Running, tmp_path: Path) -> None:
    """--whole makes one message of all of the input."""
    done = command(tmp_path, "connect", "-wj", url(server), stdin=b"one\ntwo\n")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [(e["type"], e["data"]) for e in events[1:-1]] == [("text", "one\ntwo\n")]
    done = command(tmp_path, "connect", "-wbj", url(server), stdin=b"\xff" * 100_000)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [(e["type"], base64.b64decode(e["data"])) for e in events[1:-1]] == [("binary", b"\xff" * 100_000)]


def test_json(tmp_path: Path) -> None:
    """--json writes each event as an object: open, text, binary, ping, pong and close, with its time, in ASCII."""

    def serve(ws: Any) -> None:
        ws.send("ü\x1b\x7f\u2028")
        ws.send(b"\x00\xff")
        ws.ping(b"hi").wait(PATIENCE)
        ws.recv()
        ws.close(4001, "enough")

    with (
        foreign(serve, subprotocols=["b"]) as there,
        going(tmp_path, "connect", "-j", "--ping", "60", "--subprotocol", "b", there) as it,
    ):
        assert it.stdin is not None
        assert it.stdout is not None
        events: list[dict[str, Any]] = []
        while {each["type"] for each in events} != {"open", "text", "binary", "ping", "pong"}:
            line = it.stdout.readline()
            assert line.isascii()
            assert b"\x7f" not in line
            events.append(json.loads(line))
        it.stdin.write(b"done\n")
        it.stdin.flush()
        events += map(json.loads, it.stdout)
        assert it.wait(PATIENCE) == 40
    found = {each["type"]: each for each in events}
    assert found["open"]["data"] == {"url": there, "subprotocol": "b"}
    assert found["text"]["data"] == "ü\x1b\x7f\u2028"
    assert base64.b64decode(found["binary"]["data"]) == b"\x00\xff"
    assert base64.b64decode(found["ping"]["data"]) == b"hi"
    assert found["pong"]["seconds"] > 0
    assert found["close"]["data"] == {"code": 4001, "reason": "enough"}
    assert found["error"]["data"] == "the server closed the connection with 4001 (enough)"
    assert all(each["time"].endswith("Z") for each in events)


@pytest.mark.parametrize(
    ("close", "code"),
    [(1000, 0), (1001, 0), (1002, 12), (1008, 18), (1011, 21), (1012, 22), (1013, 23), (3000, 30), (4999, 40)],
)
def test_closeCodes(server: Running, tmp_path: Path, close: int, code: int) -> None:
    """The exit code reflects the server's close code, and one line says why unless all is well."""
    done = command(tmp_path, "connect", "--keep-open", url(server), stdin=f"close {close}\n".encode())
    assert (done.code, done.out) == (code, b"")
    assert done.err == ("" if code == 0 else f"twisted-ws: the server closed the connection with {close} (enough)\n")


def test_brokenOff(tmp_path: Path) -> None:
    """A connection that breaks without a Close gives exit code 16."""
    with foreign(lambda ws: ws.socket.shutdown(socket.SHUT_RDWR)) as there:
        done = command(tmp_path, "connect", "-k", there)
    assert done.code == 16
    assert "without a Close (1006)" in done.err


def test_refusals(server: Running, tmp_path: Path) -> None:
    """Each reason for a failure to connect has its exit code, and one line that says what to do."""
    port = server.port("ws")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.create_server(("127.0.0.1", 0)) as talkative,
        foreign(echo) as there,
    ):
        nobody = freePort()

        def greet() -> None:
            with talkative.accept()[0] as guest, suppress(ConnectionResetError):  # it leaves without a farewell
                guest.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                guest.recv(4096)

        greeter = threading.Thread(target=greet)
        greeter.start()
        for arguments, code, text in (
            ((), 2, "give one URL"),
            (("--nonsense", "ws://localhost"), 2, "there is no option --nonsense"),
            (("--ping", "often", "ws://localhost"), 2, "--ping must be a number of seconds"),
            (("http://localhost",), 2, "does not begin with ws:// or wss://"),
            (("--trust-store", "nowhere", f"wss://localhost:{port}"), 2, "The trust store nowhere cannot be read"),
            (("--insecure", f"ws://localhost:{port}"), 2, "--insecure are for wss:// URLs"),
            (("--header", "no colon", there), 2, "A header has no colon: write 'Name: value'"),
            ((f"ws://127.0.0.1:{nobody}",), 3, "nothing listens"),
            ((f"wss://localhost:{port}/echo",), 4, "does not speak TLS"),
            ((url(server, "wss"),), 4, "give its certificate with --trust-store"),
            ((f"ws://localhost:{port}/nowhere",), 5, "404"),
            ((f"ws://localhost:{port}/echo?auth",), 5, "give credentials that it accepts (--user-file,"),
            ((f"ws://127.0.0.1:{talkative.getsockname()[1]}",), 8, "does not speak HTTP/1.1: its answer begins with"),
            (("--timeout", "0.2", f"ws://127.0.0.1:{silent.getsockname()[1]}"), 7, "allow more time with --timeout"),
            (("--max-message-size", "1KiB", "-w", there), 19, "a larger --max-message-size would take it"),
        ):
            done = command(tmp_path, "connect", *arguments, stdin=b"x" * 2000)
            assert (done.code, done.out) == (code, b""), (arguments, done)
            assert text in done.err
            assert done.err.startswith("twisted-ws: ")
            assert len(done.err.splitlines()) == 1
        greeter.join(PATIENCE)


def test_notUTF8(server: Running, tmp_path: Path) -> None:
    """A line that cannot be sent as text ends it, after those before it, and says which."""
    done = command(tmp_path, "connect", url(server), stdin=b"good\n\xff\n")
    assert done.code == 1
    assert done.err == "twisted-ws: Line 2 on standard input is not UTF-8: use --binary to send bytes.\n"


def test_trust(server: Running, tmp_path: Path) -> None:
    """A private authority is trusted from PEM, or PKCS #12 with its password from a file or the environment; else --insecure."""
    directory = server.directory  # type: ignore[attr-defined]
    there = url(server, "wss")
    pkcs = ("--trust-store", str(directory / "trust.p12"))
    for arguments, more in (
        (("--trust-store", str(directory / "trust.pem")), {}),
        ((*pkcs, "--trust-store-password-file", str(directory / "password")), {}),
        (pkcs, {"TWISTED_WS_TRUST_STORE_PASSWORD": "changeit"}),
    ):
        done = command(tmp_path, "connect", there, *arguments, stdin=b"hello\n", **more)
        assert (done.code, done.out, done.err) == (0, b"hello\n", ""), done
    done = command(tmp_path, "connect", there, "--insecure", stdin=b"hello\n")
    assert (done.code, done.out) == (0, b"hello\n")
    assert done.err.startswith("twisted-ws: The certificate of localhost is NOT VERIFIED")


def test_credentials(tmp_path: Path) -> None:
    """Headers and credentials come from files and the environment; a secret on the command line causes a warning."""
    seen: list[Any] = []

    def look(ws: Any) -> None:
        seen.append(ws.request.headers)

    (tmp_path / "headers").write_text("# mine\nX-One: 1\n\nX-Two: two: 2\n")
    (tmp_path / "user").write_text("ann:se:cret\n")
    (tmp_path / "token").write_text("t0ken\n")
    with foreign(look) as there:
        for arguments, more, wanted in (
            (("--header", "@headers", "--header", "X-Three: 3"), {}, {"X-One": "1", "X-Two": "two: 2", "X-Three": "3"}),
            (("--user-file", "user"), {}, {"Authorization": "Basic " + base64.b64encode(b"ann:se:cret").decode()}),
            (("--token-file", "token"), {"TWISTED_WS_USER": "a:b"}, {"Authorization": "Bearer t0ken"}),
            ((), {"TWISTED_WS_USER": "a:b"}, {"Authorization": "Basic " + base64.b64encode(b"a:b").decode()}),
            ((), {"TWISTED_WS_TOKEN": "other"}, {"Authorization": "Bearer other"}),
            (("--header", "Authorization: Mine"), {"TWISTED_WS_TOKEN": "other"}, {"Authorization": "Mine"}),
        ):
            done = command(tmp_path, "connect", there, *arguments, **more)
            assert done.code == 0, done
            assert dict(seen[-1].raw_items()).items() >= wanted.items()
            assert ("every user of this machine can read the Authorization" in done.err) == ("Authorization: Mine" in arguments)


def _afterAWhile(ws: Any) -> None:
    """Let so many round trips go by that a client that means to close has done it."""
    for _ in range(10):
        ws.ping().wait(PATIENCE)


def test_one(tmp_path: Path) -> None:
    """--one waits for one message, however late, and leaves."""

    def slowly(ws: Any) -> None:
        ws.recv()
        _afterAWhile(ws)
        ws.send("answer")
        ws.send("more")
        list(ws)

    with foreign(slowly) as there:
        done = command(tmp_path, "connect", "-1", there, stdin=b"question\n")
    assert (done.code, done.out) == (0, b"answer\n")


@pytest.mark.parametrize("option", ["--no-stdin", "--keep-open"])
def test_staying(tmp_path: Path, option: str) -> None:
    """--no-stdin leaves standard input to others, --keep-open goes on after its end: both stay until the server closes."""
    heard: list[Any] = []

    def talk(ws: Any) -> None:
        _afterAWhile(ws)
        ws.send("late")
        ws.close()
        heard.extend(ws)

    with foreign(talk) as there:
        done = command(tmp_path, "connect", option, there, stdin=b"a line\n")
    assert (done.code, done.out) == (0, b"late\n")
    assert heard == ([] if option == "--no-stdin" else ["a line"])


def test_flushed(server: Running, tmp_path: Path) -> None:
    """A message is written to standard output as soon as it comes."""
    with going(tmp_path, "connect", url(server)) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        for line in (b"one\n", b"two\n"):
            it.stdin.write(line)
            it.stdin.flush()
            assert it.stdout.readline() == line
        it.stdin.close()
        assert it.wait(PATIENCE) == 0


def test_retry(tmp_path: Path) -> None:
    """--retry reconnects after a loss, says so on standard error, and keeps what was typed meanwhile."""
    seen: list[str] = []

    def firstTimeLost(ws: Any) -> None:
        seen.append(ws.id)
        if len(seen) == 1:
            ws.close(1011)
        else:
            ws.send("here again")
            echo(ws)

    with foreign(firstTimeLost) as there, going(tmp_path, "connect", "--retry", there) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        assert it.stderr is not None
        assert b"not connected: the connection is closed (1011); attempt 1 in" in it.stderr.readline()
        it.stdin.write(b"meanwhile\n")
        it.stdin.flush()
        assert it.stdout.readline() == b"here again\n"
        assert it.stdout.readline() == b"meanwhile\n"
        it.stdin.close()
        assert it.wait(PATIENCE) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(tmp_path: Path, number: int, code: int) -> None:
    """A signal closes with 1000, and the exit code is the signal's."""
    closes = []

    def listen(ws: Any) -> None:
        ws.send("ready")
        echo(ws)
        closes.append(ws.close_code)

    with foreign(listen) as there, going(tmp_path, "connect", there) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"ready\n"
        it.send_signal(number)
        assert it.wait(PATIENCE) == code
        assert it.stderr is not None
        assert it.stderr.read() == b""
    assert closes == [1000]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_signalAndSilence(tmp_path: Path, twice: bool) -> None:
    """A server that answers nothing, not even our Close, does not delay the end: a second Ctrl-C ends it at once."""
    release = threading.Event()

    def mute(ws: Any) -> None:
        ws.send("ready")
        release.wait(PATIENCE)

    with foreign(mute) as there, going(tmp_path, "connect", there) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"ready\n"
        it.send_signal(signal.SIGINT)
        if twice:
            it.send_signal(signal.SIGINT)
        assert it.wait(PATIENCE) == 130
        release.set()


def test_signalWhileConnecting(tmp_path: Path) -> None:
    """Ctrl-C ends an attempt to connect."""
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, going(tmp_path, "connect", f"ws://127.0.0.1:{silent.getsockname()[1]}") as it, silent.accept()[0]:
        it.send_signal(signal.SIGINT)
        assert it.wait(PATIENCE) == 130


def test_brokenPipe(server: Running, tmp_path: Path) -> None:
    """When the reader of its output is gone, it ends silently."""
    with going(tmp_path, "connect", "-k", url(server)) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        it.stdin.write(b"first\n")
        it.stdin.flush()
        assert it.stdout.readline() == b"first\n"
        it.stdout.close()
        it.stdin.write(b"second\n")
        it.stdin.flush()
        assert it.wait(PATIENCE) == 141
        assert it.stderr is not None
        assert it.stderr.read() == b""


def test_fullDisk(server: Running, tmp_path: Path) -> None:
    """Output that cannot be written for another reason is an error that says so."""
    with open("/dev/full", "wb") as full, going(tmp_path, "connect", "-k", url(server), stdout=full) as it:
        _, error = it.communicate(b"hello\n", PATIENCE)
        assert it.returncode == 1
        assert error.decode().startswith("twisted-ws: standard output cannot be written (No space left on device)")


def test_closedOutput(server: Running, tmp_path: Path) -> None:
    """With standard output closed, nothing that comes can be written: an error, and no socket is taken for it."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "connect", url(server)],
        env=environment(tmp_path),
        input=b"hello\n",
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"twisted-ws: standard output cannot be written (Bad file descriptor)")


def test_slowReader(tmp_path: Path) -> None:
    """While nobody reads the output, the server is not read from, so little is kept; later, nothing is missing."""
    sent: list[int] = []

    def flood(ws: Any) -> None:
        for n in range(400):
            ws.send(b"%7d\n" % n * 8192)
            sent.append(n)

    with foreign(flood) as there, going(tmp_path, "connect", "-nb", there) as it:
        assert it.stdout is not None
        first = it.stdout.read(8)
        assert first == b"      0\n"
        before = -1
        while before != len(sent):
            before = len(sent)
            threading.Event().wait(0.5)
        assert before < 400
        rest = it.stdout.read()
        assert len(rest) + 8 == 400 * 65536
        assert it.wait(PATIENCE) == 0


def test_signalWhileFull(tmp_path: Path) -> None:
    """Ctrl-C does not wait for the reader of our output."""

    def flood(ws: Any) -> None:
        while True:
            ws.send(b"x" * 65536)

    with foreign(flood) as there, going(tmp_path, "connect", "-nb", there) as it:
        assert it.stdout is not None
        assert it.stdout.read(1) == b"x"
        it.send_signal(signal.SIGINT)
        assert it.wait(PATIENCE) == 130


def test_quickStart() -> None:
    """Its help loads neither the reactor nor TLS nor Autobahn."""
    code = "import sys\nfrom twisted_ws.__main__ import main\ntry:\n main(['connect', '--help'])\nexcept SystemExit: pass\n"
    code += "print({'twisted.internet.reactor', 'autobahn', 'OpenSSL', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
