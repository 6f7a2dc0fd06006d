"""Authenticators in real daemons, for WebSockets and event streams."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.access.kinds.certificates import DAY, Authority, save
from tests.daemon.workers.support import ended, workers
from tests.engines.redis.servers import Server
from tests.live.support import PATIENCE, Running, curl, running, until, unverified, writeService
from tests.memory import clientFrame

SERVICE = """
from twisted_ws import WebSocketService

class Who(WebSocketService):
    def onOpen(self, caller):
        return f"{caller.user} {sorted(caller.identity.scopes)}"

    def onTextMessage(self, caller, text):
        return text
"""
SERVICES = """[services]
"/who" = {target = "rooms:Who"}
"/channels/{channel}" = {target = "channels"}
[channels."*"]
subscribe = "users"
"""


def configured(directory: Path, text: str, **files: str) -> tuple[str, str]:
    """Write a configuration with these services, and files of secrets beside it; return the option that names it."""
    writeService(directory, SERVICE)
    for name, content in files.items():
        (directory / name).write_text(content)
        os.chmod(directory / name, 0o600)
    (directory / "ws.toml").write_text(text + SERVICES)
    return "--config", "ws.toml"


def said(connect: Callable[[], object]) -> str:
    """Return what a client hears first, or the status with which it is refused."""
    try:
        with connect() as client:  # type: ignore[attr-defined]
            return str(client.recv(PATIENCE))
    except InvalidStatus as refused:
        return str(refused.response.status_code)


def streams(server: Running, *arguments: str, path: str = "/channels/news", scheme: str = "http") -> str:
    """Return the status with which an event stream is answered; one that opens is left after its head."""
    port = server.port("wss" if scheme == "https" else "ws")
    url = f"{scheme}://localhost:{port}{path}"
    # HEAD answers as GET does, and ends.
    return curl("--head", "-H", "Accept: text/event-stream", "-o", "/dev/null", "-w", "%{http_code}", *arguments, url)


def test_tickets(tmp_path: Path) -> None:
    """Two workers take a ticket once, however many clients come with it at the same time; its secret is in no line of the log."""
    secret = "planted-0123456789-0123456789-0123456789"
    options = configured(
        tmp_path, 'workers = 2\nauthenticate = ["t"]\n[authenticators.t]\ntype = "ticket"\nsecret-file = "key"\n', key=secret
    )
    with running(tmp_path, *options) as server:

        def ticket() -> str:
            body = json.dumps({"user": "ann", "scopes": ["chat"]})
            return str(json.loads(server.curl("--json", body, path="/api/tickets"))["token"])

        with ThreadPoolExecutor(8) as threads:
            for _ in range(3):
                token = ticket()
                answers = list(threads.map(lambda _, token=token: said(lambda: server.client(f"/who?ticket={token}")), range(8)))
                assert sorted(answers) == ["401"] * 7 + ["ann ['chat']"]
        token = ticket()
        assert streams(server, path=f"/channels/news?ticket={token}") == "200"
        assert streams(server, path=f"/channels/news?ticket={token}") == "401"
        assert streams(server) == "401"
        arguments = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert secret not in server.output
    assert token not in server.output
    assert secret.encode() not in arguments


def test_passwords(tmp_path: Path) -> None:
    """A password from a file opens WebSockets and event streams; wrong ones are counted, and no password is in the log."""
    table = '[authenticators.b]\ntype = "basic"\nfile = "users"\n[limits]\nauthFailures = 4\n'
    password = "planted-password"
    with running(tmp_path, *configured(tmp_path, f'authenticate = ["b"]\n{table}', users=f"ann:{password}:chat\n")) as server:

        def come(user: str, password: str) -> str:
            value = base64.b64encode(f"{user}:{password}".encode()).decode()
            return said(lambda: server.client("/who", additional_headers={"Authorization": f"Basic {value}"}))

        assert come("ann", password) == "ann ['chat']"
        assert come("ann", "guess") == "401"
        assert streams(server, "-u", f"ann:{password}") == "200"
        assert streams(server) == "401"
        assert [streams(server, "-u", "ann:guess") for _ in range(4)] == ["401", "401", "401", "429"]
        assert come("ann", password) == "429"
    assert password not in server.output
    assert base64.b64encode(f"ann:{password}".encode()).decode() not in server.output


def test_certificates(tmp_path: Path) -> None:
    """The certificate of a TLS client names its user on WebSockets and event streams, until a revocation list has it."""
    authority = Authority(begin=datetime.now(UTC) - DAY)
    lamp, key = authority.issue("lamp-7")
    client = save(tmp_path, "lamp.pem", lamp, key)
    save(tmp_path, "ca.pem", authority.certificate)
    lists = tmp_path / "lists"
    lists.write_bytes(authority.revoke([]))
    table = 'tls-port = 0\nclient-ca = "ca.pem"\n[authenticators.c]\ntype = "certificate"\ncrl-file = "lists"\n'
    options = configured(tmp_path, f'authenticate = ["c"]\n{table}')
    with running(tmp_path, *options) as server:
        context = unverified()
        context.load_cert_chain(client)

        def come() -> str:
            return said(lambda: server.client("/who", secure=True, ssl=context))

        def stream() -> str:
            return streams(server, "--insecure", "--cert", client, scheme="https")

        assert (come(), stream()) == ("lamp-7 []", "200")
        assert said(lambda: server.client("/who")) == "401"  # the plain port
        lists.write_bytes(authority.revoke([lamp]))
        server.signal(signal.SIGHUP)
        server.waitFor("reloaded")
        assert (come(), stream()) == ("401", "401")
    assert "The certificate is revoked" in server.output


def test_jwt(tmp_path: Path) -> None:
    """A token opens every transport, in a header or as a subprotocol; it ends them with itself, and is in no line of the log."""
    secret = "planted-0123456789-0123456789-0123456789"
    table = '[authenticators.site]\ntype = "jwt"\nsecret-file = "key"\nissuer = "https://shop.example"\nleeway = 0\n'
    options = configured(tmp_path, f'authenticate = ["site"]\n{table}', key=secret)

    def token(user: str = "ann", seconds: float = 600, key: str = secret, **claims: object) -> str:
        made = {"iss": "https://shop.example", "sub": user, "exp": time.time() + seconds, **claims}
        return jwt.encode(made, key, "HS256")

    with running(tmp_path, *options) as server:

        def come(token: str) -> str:
            return said(lambda: server.client("/who", additional_headers={"Authorization": f"Bearer {token}"}))

        good = token(scope="chat")
        assert come(good) == "ann ['chat']"
        offers = [Subprotocol("chat"), Subprotocol(f"twisted-ws.bearer.{good}")]
        assert said(lambda: server.client("/who", subprotocols=offers)) == "ann ['chat']"
        assert streams(server, "-H", f"Authorization: Bearer {good}") == "200"
        url = f"http://localhost:{server.port('ws')}/channels/news"
        poll = curl("-H", f"Authorization: Bearer {good}", url)
        assert json.loads(poll)["messages"] == []
        assert json.loads(curl("-H", f"Authorization: Bearer {good}", "-d", "x", url))["error"] == "forbidden"
        for bad in (
            token(seconds=-1),
            token(key="another-0123456789-0123456789-0123456789"),
            token(iss="https://evil.example"),
            "x",
        ):
            assert come(bad) == streams(server, "-H", f"Authorization: Bearer {bad}") == "401"
        assert "www-authenticate: bearer" in curl("-i", url).lower()
        with server.client("/who", additional_headers={"Authorization": f"Bearer {token(seconds=2)}"}) as client:
            client.recv(PATIENCE)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "expired")
    assert secret not in server.output
    assert good not in server.output


def test_ticketsOfTwoMachines(tmp_path: Path) -> None:
    """Two servers that share Redis take a ticket once, whichever made it, however many clients come to both with it."""
    table = 'authenticate = ["t"]\n[authenticators.t]\ntype = "ticket"\nsecret-file = "key"\n'
    with Server() as valkey, ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = configured(tmp_path / name, table, key="k" * 32)
            engine = ("--engine", f"redis://127.0.0.1:{valkey.port}")
            servers.append(stack.enter_context(running(tmp_path / name, *options, *engine)))
        threads = stack.enter_context(ThreadPoolExecutor(8))
        for maker in servers:
            token = json.loads(maker.curl("--json", '{"user": "ann"}', path="/api/tickets"))["token"]
            answers = list(
                threads.map(lambda n, token=token: said(lambda: servers[n % 2].client(f"/who?ticket={token}")), range(8))
            )
            assert sorted(answers) == ["401"] * 7 + ["ann []"]


def test_ticketsWithoutRedis(tmp_path: Path) -> None:
    """While Redis is away a ticket is not taken, and not used up; one that was used stays so, even if Redis forgets that."""
    table = 'authenticate = ["t"]\n[authenticators.t]\ntype = "ticket"\nsecret-file = "key"\n'
    options = configured(tmp_path, table, key="k" * 32)
    with Server() as valkey, running(tmp_path, *options, "--engine", f"redis://127.0.0.1:{valkey.port}") as server:

        def ticket() -> str:
            return str(json.loads(server.curl("--json", '{"user": "ann"}', path="/api/tickets"))["token"])

        def come(token: str) -> str:
            return said(lambda: server.client(f"/who?ticket={token}"))

        def isReady() -> bool:
            return '"ready"' in server.curl(path="/readyz")

        until(isReady)
        used = ticket()
        assert come(used) == "ann []"
        valkey.kill()
        until(lambda: not isReady())
        kept = ticket()
        assert come(kept) == "503"
        valkey.forget()
        valkey.start()
        until(isReady)
        assert [come(each) for each in (kept, kept, used)] == ["ann []", "401", "401"]


def test_revokedForAllWorkers(tmp_path: Path) -> None:
    """A revocation ends connections at every worker, and opens none at a worker that is started later."""
    secret = "0123456789-0123456789-0123456789"
    table = '[authenticators.site]\ntype = "jwt"\nsecret-file = "key"\n'
    options = configured(tmp_path, f'workers = 2\nauthenticate = ["site"]\n{table}', key=secret)
    claims = {"exp": time.time() + 600, "iat": time.time() - 5}
    made = {"token": {"sub": "ann", "jti": "one"}, "user": {"sub": "bob", "jti": "two"}, "kept": {"sub": "eve", "jti": "three"}}
    tokens = {name: {"Authorization": f"Bearer {jwt.encode({**claims, **each}, secret, 'HS256')}"} for name, each in made.items()}
    with running(tmp_path, *options) as server, ExitStack() as stack:
        clients = {
            name: [stack.enter_context(server.client("/who", additional_headers=header)) for _ in range(8)]
            for name, header in tokens.items()
        }
        for each in [client for same in clients.values() for client in same]:
            each.recv(PATIENCE)
        server.curl("--json", '{"token": "one"}', path="/api/revoke")
        server.curl("--json", '{"user": "bob"}', path="/api/revoke")
        assert {ended(client) for name in ("token", "user") for client in clients[name]} == {4401}
        assert all(client.ping().wait(PATIENCE) for client in clients["kept"])
        killed = workers(server)[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(found := workers(server)) == 2 and killed not in found)
        # Those that the kernel gives to the new one wait until it has begun.
        for _ in range(12):
            for name, header in tokens.items():
                expected = "eve []" if name == "kept" else "401"
                assert said(lambda header=header: server.client("/who", additional_headers=header)) == expected


@pytest.mark.parametrize("environment", [{}, {"TWISTED_WS_LANE": "0"}, {"TWISTED_WS_SPEEDUPS": "0"}], ids=str)
def test_firstMessage(tmp_path: Path, environment: dict[str, str]) -> None:
    """A client whose token is in its first message is heard in order, whatever came in the same packet; others are closed."""
    secret = "planted-0123456789-0123456789-0123456789"
    text = 'authenticate = ["site"]\n[authenticators.site]\ntype = "jwt"\nsecret-file = "key"\nsources = ["message"]\n'
    options = configured(tmp_path, text + "[limits]\nauthDeadline = 1\n", key=secret)
    token = jwt.encode({"sub": "ann", "exp": time.time() + 600}, secret, "HS256")
    auth = json.dumps({"type": "auth", "token": token}).encode()
    with running(tmp_path, *options, more=environment) as server:
        with server.client("/who") as client:
            frames = [clientFrame(1, auth), *(clientFrame(1, b"%d" % number) for number in range(300))]
            client.socket.sendall(b"".join(frames))
            assert json.loads(client.recv(PATIENCE))["user"] == "ann"
            assert client.recv(PATIENCE) == "ann []"
            assert [client.recv(PATIENCE) for _ in range(300)] == [str(number) for number in range(300)]
        with server.client("/who") as client:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "not authenticated in time")
    assert token not in server.output
    assert secret not in server.output
