from __future__ import annotations

import datetime
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.commands.support import Done, command
from tests.engines.redis.servers import Server
from tests.live.support import running
from tests.outbox.postgres import Postgres
from tests.ports import freePort
from twisted_ws.commands.check import RIGHT, WARNED, WRONG

KEY = "0123456789abcdef"


def check(directory: Path, *arguments: str) -> tuple[int, Any]:
    """Return the exit code and the JSON of ``twisted-ws check``."""
    done = command(directory, "check", "--json", *arguments)
    return done.code, json.loads(done.out)


def configured(directory: Path, text: str) -> tuple[str, str]:
    """Return the option for a configuration file with this text."""
    (directory / "push.toml").write_text(text)
    return "--config", "push.toml"


def codes(findings: list[dict[str, str]]) -> list[str]:
    """Return the codes of errors or warnings."""
    return [each["code"] for each in findings]


def secret(directory: Path, name: str, text: str) -> None:
    """Write a file that only its owner may read."""
    (directory / name).write_text(text)
    (directory / name).chmod(0o600)


def everything(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return each file below a directory, with its time of change and what is in it."""
    files = [each for each in directory.rglob("*") if not each.is_dir()]
    return {str(each): (os.lstat(each).st_mtime_ns, each.read_bytes() if each.is_file() else b"") for each in files} | {
        str(each): (0, b"") for each in directory.rglob("*") if each.is_dir()
    }


SAFE = """
interface = "127.0.0.1"
authenticate = ["site"]
api-key-file = "keys"

[authenticators.site]
type = "jwt"
secret-file = "secret"

[services."/channels"]
target = "channels"

[channels."orders.*"]
subscribe = ["granted", "scope:staff"]
publish = "nobody"
"""


def safe(directory: Path) -> tuple[str, str]:
    """Return the option for a configuration that deserves no warning."""
    secret(directory, "secret", "s" * 64)
    secret(directory, "keys", f"shop: {KEY} publish:orders.*\n")
    return configured(directory, SAFE)


def test_itSaysWhatWouldBe(tmp_path: Path) -> None:
    """The report has where the server would listen, its services, and who may do what with channels and with which key."""
    code, report = check(tmp_path, *safe(tmp_path), "--strict")
    assert (code, report["ok"], report["errors"], report["warnings"]) == (RIGHT, True, [], [])
    assert [(each["option"], each["where"], each["public"], each["tls"]) for each in report["listens"]] == [
        ("broadcast-port", "8081", False, False),
        ("port", "8080", False, False),
    ]
    assert report["services"] == [
        {"path": "/channels", "target": "channels", "authenticate": ["site"], "scopes": [], "decides": False}
    ]
    assert report["channels"] == [
        {"pattern": "orders.*", "subscribe": ["granted", "scope:staff"], "publish": ["nobody"], "presence": None}
    ]
    assert report["publishers"] == [{"name": "shop", "line": 1, "scopes": "publish:orders.*", "ended": False}]


def test_exposedSecrets(tmp_path: Path) -> None:
    """What the server would warn of in its log is a warning, by its event."""
    option = safe(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    report = check(tmp_path, *option)[1]
    assert codes(report["warnings"]) == ["secret.exposed"]


def test_forAPerson(tmp_path: Path) -> None:
    """As text, it is a line for each thing, and the verdict is the last."""
    done = command(tmp_path, "check", *safe(tmp_path))
    lines = done.out.decode().splitlines()
    assert "WebSocket: --port 8080 on 127.0.0.1, from this machine only" in lines
    assert "Service /channels: channels; asked who comes: site" in lines
    assert "Channels orders.*: subscribe: granted or scope:staff; publish: nobody" in lines
    assert "API key shop (line 1): publish:orders.*" in lines
    assert lines[-1] == "nothing is wrong, 0 warnings"
    assert (done.code, done.err) == (RIGHT, "")


def test_warningsCountOnlyIfWanted(tmp_path: Path) -> None:
    """Warnings alone are exit code 0, and 2 with --strict."""
    code, report = check(tmp_path)
    assert (code, report["errors"], codes(report["warnings"])) == (RIGHT, [], ["no-authentication"])
    assert check(tmp_path, "--strict")[0] == WARNED


def test_oneMistakeDoesNotHideTheNext(tmp_path: Path) -> None:
    """Mistakes in several parts are all there, each in a line that says what to do, and the exit code is 1."""
    secret(tmp_path, "keys", "short\n")
    option = configured(
        tmp_path,
        'pages = "missing"\nport = 8081\ninterface = "127.0.0.1"\noutbox = "postgresql://x:planted@host/d"\n'
        'api-key-file = "keys"\ncertificate = "missing.pem"\ntls-port = 8443\nhistory-file = "/nowhere/history"\n'
        'engine = "redis://user:planted@host:x"\n'
        '[services."/a"]\ntarget = "nothing:Here"\n[services."/b"]\ntarget = "channels"\nextra = 1\n',
    )
    code, report = check(tmp_path, *option, "--strict")
    text = "\n".join(each["text"] for each in report["errors"])
    assert code == WRONG
    assert not report["ok"]
    for said in (
        "/a",
        "no option extra",
        "shorter than 16 characters",
        "missing.pem",
        "/nowhere/history",
        "--engine",
        "--pages",
        "--outbox",
    ):
        assert said in text
    assert "planted" not in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 70000\n", "push.toml: port must be"),
        ('[services."/x"]\ntarget = "demo"\nscope = 1\nscopes = 2\n', "push.toml:4"),
        ("nonsense", "push.toml is not valid TOML"),
    ],
)
def test_aFileThatCannotBeRead(tmp_path: Path, text: str, said: str) -> None:
    """A mistake in the file itself names the file, and the line where that is known."""
    code, report = check(tmp_path, *configured(tmp_path, text))
    assert (code, codes(report["errors"])) == (WRONG, ["configuration"])
    assert said in report["errors"][0]["text"]


def test_aWrongOption(tmp_path: Path) -> None:
    """A wrong option is an error like others, also as JSON, so that a script reads one thing."""
    code, report = check(tmp_path, "--prot", "8080")
    assert code == WRONG
    assert "did you mean --port" in report["errors"][0]["text"]


HOSTILE = """
import os, socket, subprocess, threading
print("planted output")

def tries():
    for do in (
        lambda: open("written", "w"),
        lambda: os.mkdir("made"),
        lambda: os.remove("push.toml"),
        lambda: os.rename("push.toml", "moved"),
        lambda: os.chmod("push.toml", 0),
        lambda: subprocess.run(["touch", "run"]),
        lambda: os.system("touch system"),
        lambda: os.fork() or os._exit(0),
        lambda: socket.create_server(("127.0.0.1", {port})),
        lambda: socket.create_connection(("127.0.0.1", {open})),
    ):
        try:
            do()
        except (OSError, RuntimeError):
            pass

tries()
threading.Thread(target=threading.Event().wait, name="planted").start()

class Service:
    def __init__(self):
        tries()

    def onTextMessage(self, caller, text):
        pass

class Insistent(Service):
    def __init__(self):
        open("written", "w")

from twisted_ws import WebSocketService
"""


def test_nothingIsChangedOrStarted(tmp_path: Path) -> None:
    """With services, keys, state and logs that would all change something, no file changes, no port opens, nobody is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        source = HOSTILE.replace("{port}", str(freePort())).replace("{open}", str(listening.getsockname()[1]))
        (tmp_path / "hostile.py").write_text(source)
        (tmp_path / "history").write_bytes(b"damaged")
        secret(tmp_path, "keys", f"shop: {KEY} publish:*\n")
        os.mkfifo(tmp_path / "fifo")
        option = configured(
            tmp_path,
            'history-file = "history"\naudit-log = "audit"\nstate-directory = "state/deep"\ntls-port = 0\nlisten = ["unix:%s"]\n'
            'api-key-file = "keys"\ninterceptor = []\n'
            '[services."/a"]\ntarget = "hostile:Service"\n[services."/b"]\ntarget = "hostile:Insistent"\n'
            '[services."/c"]\ntarget = "demo"\n' % (tmp_path / "s"),
        )
        before = everything(tmp_path)
        code, report = check(tmp_path, *option)
        assert everything(tmp_path) == before
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert (code, report["errors"]) == (RIGHT, []), report
    said = "\n".join(each["text"] for each in report["warnings"])
    for each in ("write written", "make made", "remove push.toml", "run touch", "run touch system", "open a port"):
        assert f"tried to {each} " in said
    assert "the thread planted" in said
    assert [each["path"] for each in report["services"]] == ["/a", "/c"]
    assert "/b" in next(each["text"] for each in report["warnings"] if each["code"] == "not-checked")


def test_pipesAndDevicesHoldNothingUp(tmp_path: Path) -> None:
    """A pipe or a device in place of any file is an error at once."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("api-key-file", "history-file", "audit-log"):
        for path in ("fifo", "/dev/zero"):
            code, report = check(tmp_path, *configured(tmp_path, f'{name} = "{path}"\n'))
            assert code == WRONG, (name, path)
            assert "not a regular file" in report["errors"][0]["text"]


def test_namesCannotControlTheTerminal(tmp_path: Path) -> None:
    """What settings have of control characters is escaped."""
    option = configured(tmp_path, '[services."/\\u001b[31m"]\ntarget = "demo"\n[services."/ok"]\ntarget = "no\\u001b[2J:X"\n')
    done = command(tmp_path, "check", *option)
    assert b"\x1b" not in done.out + done.err.encode()
    assert b"\\x1b[31m" in done.out


def test_besideARunningServer(tmp_path: Path) -> None:
    """The settings of a running server are right, though its ports and sockets are taken, and it notices nothing."""
    option = configured(
        tmp_path, f'history-file = "history"\nlisten = ["unix:{tmp_path}/s"]\n[services."/ws"]\ntarget = "demo"\n'
    )
    with running(tmp_path, *option) as server:
        server.waitFor("WebSocket on ws")
        ports = ("--port", str(server.port("ws")), "--broadcast-port", str(server.port("http")))
        code, report = check(tmp_path, *option, *ports)
        assert (code, report["errors"]) == (RIGHT, [])
        with server.client("/ws/subscribe"):
            pass


def test_certificates(tmp_path: Path) -> None:
    """A certificate that ends in 20 days is a warning, and one that fits no key is an error."""
    authority = trustme.CA()
    for days, found in ((30, []), (19, ["certificate-expires"]), (-1, ["certificate-expired"])):
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
        begin = end - datetime.timedelta(days=90)
        issued = authority.issue_cert("push.example", not_before=begin, not_after=end)
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
        (tmp_path / "both.pem").chmod(0o600)
        options = ("--tls-port", "8443", "--certificate", "both.pem", "--port", "off", "--interface", "127.0.0.1")
        code, report = check(tmp_path, *options)
        assert (code, codes(report["warnings"])) == (RIGHT, found)
    authority.issue_cert("other.example").private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "other.pem").chmod(0o600)
    code, report = check(tmp_path, *options, "--private-key", "other.pem")
    assert code == WRONG
    assert "other.pem" in report["errors"][0]["text"]


# Those whom the server would ask.


@contextmanager
def site(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Answer each request in the same way, and give the URL and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{found.server_port}", asked
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


def asking(directory: Path, url: str) -> tuple[str, str]:
    """Return the option for a configuration that asks a key set and an application."""
    return configured(
        directory,
        f'interface = "127.0.0.1"\nauthenticate = ["keys", "application"]\n[services."/channels"]\ntarget = "channels"\n'
        f'[authenticators.keys]\ntype = "jwt"\njwks = "{url}/jwks"\nissuer = "i"\naudience = "a"\n'
        f'[authenticators.application]\ntype = "http"\nurl = "{url}/who"\n',
    )


KEYS = b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'


def test_nobodyIsAskedUnlessThatIsWanted(tmp_path: Path) -> None:
    """Only --connect asks key sets and applications, each once, and the report has their answers."""
    with site(200, KEYS) as (url, asked):
        assert check(tmp_path, *asking(tmp_path, url))[0] == RIGHT
        assert asked == []
        code, report = check(tmp_path, *asking(tmp_path, url), "--connect")
    assert (code, report["errors"]) == (RIGHT, [])
    assert sorted(asked) == ["/jwks", "/who"]
    assert report["asked"] == [
        f"authenticators.keys: {url}/jwks: 1 key",
        f"authenticators.application: {url}/who: it answers 200 without credentials",
    ]


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), (404, KEYS), (500, b""), (200, b'{"keys": []}')])
def test_answersThatAreNoUse(tmp_path: Path, status: int, body: bytes) -> None:
    """An answer without keys, or with a wrong status, is an error."""
    with site(status, body) as (url, _):
        code, report = check(tmp_path, *asking(tmp_path, url), "--connect")
    assert code == WRONG
    assert report["errors"][0]["text"].startswith("authenticators.keys: ")


def test_nobodyAnswers(tmp_path: Path) -> None:
    """Where nobody listens, each of them is an error, and so is the engine; no password is shown."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        secret(tmp_path, "password", "planted")
        options = ("--engine", f"redis://127.0.0.1:{port}", "--engine-password-file", "password", "--connect")
        done = command(tmp_path, "check", *asking(tmp_path, f"http://127.0.0.1:{port}"), *options)
    assert done.code == WRONG
    lines = [line for line in done.out.decode().splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in lines] == ["authenticators.keys:", "authenticators.application:", "--engine:"]
    assert b"planted" not in done.out


def test_theEngineAnswers(tmp_path: Path) -> None:
    """With --connect, an engine is looked at: its nodes are counted, none comes, and no key is written."""
    valkey = Server()
    try:
        options = (*safe(tmp_path), "--engine", f"redis://127.0.0.1:{valkey.port}", "--connect")
        code, report = check(tmp_path, *options)
        assert (code, report["errors"]) == (RIGHT, [])
        assert report["asked"] == [f"--engine redis://127.0.0.1:{valkey.port}: it answers; nodes: 0"]
        with socket.create_connection(("127.0.0.1", valkey.port)) as connection:
            connection.sendall(b"DBSIZE\r\n")
            assert connection.recv(100) == b":0\r\n"
            connection.sendall(b"SET tw1:gate x\r\n")
            assert connection.recv(100) == b"+OK\r\n"
        code, report = check(tmp_path, *options)
        assert (code, [each["code"] for each in report["errors"]]) == (WRONG, ["no-answer"])
        assert "has keys of another application behind tw1:" in report["errors"][0]["text"]
    finally:
        valkey.kill()


def test_theOutboxAnswers(tmp_path: Path) -> None:
    """With --connect, the table of the outbox is looked for; without, nobody is asked; a missing table is an error."""
    with Postgres() as postgres:
        options = (*safe(tmp_path), "--outbox", postgres.dsn)
        assert check(tmp_path, *options)[1]["asked"] == []
        code, report = check(tmp_path, *options, "--connect")
        assert (code, report["errors"], report["asked"]) == (RIGHT, [], ["--outbox: the table is there"])
        postgres.execute("DROP TABLE twisted_ws_outbox")
        code, report = check(tmp_path, *options, "--connect")
        assert (code, codes(report["errors"])) == (WRONG, ["no-answer"])
        assert "there is no table twisted_ws_outbox" in report["errors"][0]["text"]
    code, report = check(tmp_path, *options, "--connect")
    assert (code, codes(report["errors"])) == (WRONG, ["no-answer"])


def test_whatIsSaidStaysOffStandardOutput(tmp_path: Path) -> None:
    """What a module prints when it is imported is on standard error, so that the JSON can be read."""
    (tmp_path / "chatty.py").write_text("print('planted')\nfrom twisted_ws.services.demo import Demo\n")
    done: Done = command(tmp_path, "check", "--json", "--service", "/ws=chatty:Demo")
    assert json.loads(done.out)["ok"]
    assert "planted" in done.err
