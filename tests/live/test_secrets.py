"""Secrets of every kind, planted in a real daemon: whatever is refused or fails, none of them is said to anybody."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import itsdangerous
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.access.kinds.certificates import DAY, Authority, save
from tests.engines.redis.servers import Server
from tests.live.directory import ADMIN, ADMIN_PASSWORD, directory
from tests.live.nursery import run
from tests.live.support import COMMAND, PATIENCE, TWIST, TWISTD, Running, environment, running, writeService
from tests.live.test_django import SETTINGS, onSite

# A service whose binding and hooks fail; and without the limit on lines of one kind, which could hide a secret from this test.
SERVICE = """
from dataclasses import dataclass
from twisted_ws import WebSocketService, logs
from twisted_ws.channels.service import ChannelService

logs.Throttle.allows = lambda self, kind: 1

@dataclass
class Login:
    password: int

class Who(WebSocketService):
    dispatcherField = "type"
    def onOpen(self, caller):
        return f"{caller.user}"
    def onMessage(self, caller, message: Login):
        raise RuntimeError("the service failed")

class Bad(ChannelService):
    def __init__(self):
        super().__init__(publish=True, wildcards=True, presence=True)
    def onUpgrade(self, request):
        if "fail" in request.query:
            raise RuntimeError("the service failed")
        return self
    def onSubscribe(self, caller, channel):
        raise RuntimeError("the service failed")
    def onPublish(self, caller, channel, message):
        raise RuntimeError("the service failed")
"""
KINDS = {
    "site": 'type = "jwt"\nsecret-file = "site.key"\nissuer = "site"\nsources = ["header", "subprotocol", "cookie:t", "query:t"]',
    "provider": 'type = "jwt"\njwks = "{back}/jwks"\nissuer = "provider"\naudience = "push"\ndeadline = 30',
    "ticket": 'type = "ticket"\nsecret-file = "ticket.key"\nsources = ["query:t", "header", "subprotocol", "cookie:t"]',
    "flask": 'type = "signed-cookie"\npreset = "flask"\nsecret-file = "flask.key"\ncookie = "t"',
    "starlette": 'type = "signed-cookie"\npreset = "starlette"\nsecret-file = "flask.key"\ncookie = "t"',
    "signed": 'type = "signed-cookie"\npreset = "django"\nsecret-file = "flask.key"\ncookie = "t"',
    "django": 'type = "django"\nsettings = "shopsettings"\nproject = "site"\ncookie = "t"\ncache = 0',
    "basic": 'type = "basic"\nfile = "users"\nchecker = ["file:{place}/checked"]'.replace("checker ", "checkers "),
    "ldap": 'type = "ldap"\nurl = "ldap://127.0.0.1:{ldap}"\nbind-dn = "{admin}"\npassword-file = "ldap.password"\n'
    'base = "ou=people,dc=example"\ngroup-base = "ou=groups,dc=example"\ndeadline = 30\ncache = 0',
    "shop": 'type = "http"\nurl = "{back}/whoami"\nsecret-file = "hook.key"\ndeadline = 30\ncache = 0\nforward = ["x-session"]',
    "introspection": 'type = "introspection"\nurl = "{back}/introspect"\nclient = "push"\nclient-secret-file = "client.key"\n'
    'deadline = 30\ncache = 0\nsources = ["header", "subprotocol", "cookie:t"]',
    "certificate": 'type = "certificate"\nheader = "x-certificate"\nverify-header = "x-verified"',
}
# What comes to each kind: its own, right or nearly so.
KINDS_OF_TOKENS = {
    "site": ("good", "lasting", "expired", "foreign", "strange", "channel"),
    "provider": ("kid",),
    "ticket": ("ticket",),
    "flask": ("flask",),
    "starlette": ("flask",),
    "signed": ("flask",),
    "django": ("django",),
    "basic": ("users",),
    "ldap": ("password",),
    "shop": ("opaque",),
    "introspection": ("opaque",),
    "certificate": ("opaque",),
}
FILES = ("site.key", "ticket.key", "flask.key", "users", "checked", "ldap.password", "hook.key", "client.key", "api.keys", "auth")


def planted(name: str) -> str:
    """Return a secret that can be told from all others."""
    return f"pl4nted-{name.replace('.', '-')}-0123456789abcdef0123456789abcdef"


SECRETS = {
    name: planted(name) for name in (*FILES, "store", "django", "redis", "password", "claim", "session", "opaque", "message")
}


def forms(secret: str) -> Iterator[str]:
    """Yield a secret as it may be written: plain, in hexadecimal, and in base64 wherever it begins."""
    yield secret
    yield secret.encode().hex()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode().rstrip("=")
        yield encoded[-(-before * 8 // 6) : len(encoded) - 2]


class BackEnd(BaseHTTPRequestHandler):
    """What the server asks: it answers wrongly in every way, with everything that it was told."""

    answers: ClassVar[Counter[str]] = Counter()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        told = "".join(f"{name}: {value} " for name, value in self.headers.items())
        told += self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        key = {"kty": "RSA", "kid": "k", "n": base64.urlsafe_b64encode(os.urandom(256)).decode().rstrip("="), "e": "AQAB"}
        echoes: list[tuple[int, Any]] = [
            (200, {"user": "ann", "info": told, "active": True, "sub": "ann", "keys": [{**key, "d": SECRETS["claim"]}]}),
            (401, told),
            (403, told),
            (500, told),
            (200, told),
            (200, {"user": [told], "active": told, "keys": told}),
            (200, {"user": told * 9, "active": True, "sub": told * 9, "keys": [{"kty": "oct", "k": SECRETS["claim"]}]}),
            (
                200,
                {"user": "ann", "grants": {"subscribe": [told]}, "active": True, "sub": "a", "twisted_ws": {"subscribe": [told]}},
            ),
            (200, "x" * 70_000 + told),
            (302, told),
        ]
        status, answer = echoes[self.answers[self.path] % len(echoes)]
        self.answers[self.path] += 1
        body = json.dumps(answer).encode() if isinstance(answer, dict) else answer.encode()
        self.send_response(status)
        self.send_header("Location", f"http://127.0.0.1:1/{SECRETS['session']}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def backEnd() -> Iterator[str]:
    """Run it; yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BackEnd) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def writeAll(place: Path, values: dict[str, Any], chain: str, workers: str) -> None:
    """Write the configuration and the files of secrets."""
    for name in FILES:
        text = f"ann:{SECRETS[name]}" if name in ("users", "checked", "auth") else SECRETS[name]
        (place / name).write_text({"ldap.password": ADMIN_PASSWORD, "api.keys": f"shop: {text}"}.get(name, text) + "\n")
        (place / name).chmod(0o600)
    for name in ("redis", "store"):
        (place / f"{name}.password").write_text(SECRETS[name])
        (place / f"{name}.password").chmod(0o600)
    authority = Authority(begin=datetime.now(UTC) - DAY)
    certificate, made = authority.issue("localhost")
    pem = Path(save(place, "tls.pem", certificate, made)).read_bytes()
    key: Any = load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE") :], None)
    password = BestAvailableEncryption(SECRETS["store"].encode())
    (place / "store.p12").write_bytes(pkcs12.serialize_key_and_certificates(b"one", key, certificate, None, password))
    tables = "".join(f"[authenticators.{name}]\n{table.format(**values)}\n" for name, table in KINDS.items())
    services = "".join(
        f'"/who/{name}" = {{target = "rooms:Who", authenticate = ["{name}"]}}\n'
        f'"/news/{name}/{{channel}}" = {{target = "channels", authenticate = ["{name}"]}}\n'
        for name in KINDS
    )
    (place / "ws.toml").write_text(
        f'{workers}authenticate = [{chain}]\nlog-format = "json"\n{tables}[limits]\nauthFailures = 100000\nupgradeDeadline = 60\n'
        f'[services]\n{services}"/channels" = {{target = "channels", presence = true}}\n'
        '"/bad/{channel}" = {target = "rooms:Bad"}\n[channels."*"]\nsubscribe = "granted"\npublish = "granted"\n'
    )
    writeService(place, SERVICE)


def tokens() -> dict[str, str]:
    """Return a token, session or password of each kind, good or nearly so; none of it may be shown either."""
    now = int(time.time())
    claims = {"sub": "ann", "exp": now + 50, "iat": now, "jti": "id", "secret": SECRETS["claim"]}
    key = SECRETS["site.key"]
    session = {"_user_id": "ann", "secret": SECRETS["session"]}
    signer = itsdangerous.URLSafeTimedSerializer(
        SECRETS["flask.key"], salt="cookie-session", signer_kwargs={"key_derivation": "hmac"}
    )
    return {
        "good": jwt.encode({**claims, "iss": "site"}, key, "HS256"),
        # One that may not stand in a URL, however long the test takes on a busy machine.
        "lasting": jwt.encode({**claims, "iss": "site", "exp": now + 3000}, key, "HS256"),
        "expired": jwt.encode({**claims, "iss": "site", "exp": now - 50}, key, "HS256"),
        "forged": jwt.encode({**claims, "iss": "site"}, "f" * 32, "HS256"),
        "foreign": jwt.encode({**claims, "iss": "elsewhere"}, key, "HS256"),
        "kid": jwt.encode(
            {**claims, "iss": "provider", "aud": "push"}, SECRETS["opaque"], "HS256", headers={"kid": SECRETS["opaque"]}
        ),
        "channel": jwt.encode({**claims, "channels": ["a"]}, key, "HS256", headers={"typ": "twisted-ws-sub+jwt"}),
        "strange": jwt.encode({**claims, "iss": "site", "sub": [SECRETS["claim"]], "scope": 5}, key, "HS256"),
        "ticket": jwt.encode({**claims, "aud": "twisted-ws-ticket"}, SECRETS["ticket.key"], "HS256"),
        "flask": signer.dumps(session),
        "opaque": SECRETS["opaque"],
        "long": SECRETS["opaque"] * 250,
        "key": key,
        "users": SECRETS["users"],
        "password": SECRETS["password"],
    }


class Driver:
    """Sends requests, and keeps all that it hears.

    Args:
        server: the daemon.
    """

    def __init__(self, server: Running) -> None:
        self._server = server
        self.heard: list[str] = []

    def send(self, port: int, head: str, body: str = "") -> int:
        """Send a request with these lines, and return the status."""
        text = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}" if body else f"{head}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(text.encode("utf-8"))
            heard = b""
            while chunk := connection.recv(65536):
                heard += chunk
                head, end, rest = heard.decode("utf-8", "replace").partition("\r\n\r\n")
                if end and ("content-length" not in head.lower() or _hasAll(head, rest)):
                    break
        self.heard.append(heard.decode("utf-8", "replace"))
        return int(heard.split(b" ", 2)[1]) if heard.startswith(b"HTTP") else 0

    def everyTransport(self, path: str, *lines: str, query: str = "") -> None:
        """Come with these headers in every way that there is."""
        port = self._server.port("ws")
        common = f"Host: localhost:{port}\r\n" + "".join(f"{line}\r\n" for line in lines)
        who, news = f"/who/{path}", f"/news/{path}/a"
        key = "MDEyMzQ1Njc4OWFiY2RlZg=="
        upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        self.send(port, f"GET {who}{query} HTTP/1.1\r\n{common}{upgrade}")
        self.send(port, f"GET {news}{query} HTTP/1.1\r\n{common}Connection: close\r\nAccept: text/event-stream")
        self.send(port, f"GET {news}{query} HTTP/1.1\r\n{common}Connection: close")
        self.send(
            port, f"POST {news}{query} HTTP/1.1\r\n{common}Connection: close\r\nContent-Type: text/plain", SECRETS["message"]
        )

    def everySource(self, kind: str, token: str) -> None:
        """Come with a token wherever there may be one, and in places where it does not belong."""
        encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        basic = base64.b64encode(f"ann:{token}".encode()).decode()
        for lines in (
            (f"Authorization: Bearer {token}",),
            (f"Authorization: Bearer {token}", f"Authorization: Bearer {token}"),
            (f"Authorization: Basic {basic}",),
            (f"Authorization: {token}",),
            (f"Authorization: Bearer {token}\x01",),
            (f"Authorization : Bearer {token}",),
            (f"Sec-WebSocket-Protocol: chat, twisted-ws.bearer.{token}",),
            (f"Sec-WebSocket-Protocol: twisted-ws.bearer64.{encoded}, twisted-ws.bearer.{token}",),
            (f"Sec-WebSocket-Protocol: twisted-ws.bearer.{token} {token}",),
            (f"Cookie: a=b; t={token}", f"X-Session: {token}", f"User-Agent: {token}"),
            (f"Cookie: t={token}", "Origin: https://evil.example", f"Referer: http://localhost/?t={token}"),
            (f"Cookie: t={token}; t={token}", f"Channel-Token: {token}"),
            (f"X-Certificate: {token}", f"X-Verified: {token}", f"X-Forwarded-For: {token}"),
            (f"X-Certificate: -----BEGIN CERTIFICATE-----{token}", "X-Verified: SUCCESS", "X-Forwarded-For: 192.0.2.1"),
        ):
            self.everyTransport(kind, *lines)
        self.everyTransport(kind, query=f"?t={token}&ticket={token}&access_token={token}")


def _hasAll(head: str, rest: str) -> bool:
    length = next(line for line in head.lower().splitlines() if line.startswith("content-length:")).partition(":")[2]
    return len(rest.encode()) >= int(length)


def overOpenConnections(server: Running, driver: Driver, made: dict[str, str]) -> None:
    """Send tokens and passwords over connections that are open."""
    good = {"Authorization": f"Bearer {made['lasting']}"}
    offered = [Subprotocol("twisted-ws.v1")]
    for path, token in itertools.product(("/news/site/a", "/bad/a"), made.values()):
        with server.client(path, subprotocols=offered, additional_headers=good) as client:
            for message in (
                {"type": "auth", "token": [token]},
                {"type": "subscribe", "channel": "b", "token": token},
                {"type": "publish", "channel": "a", "data": token, "base64": token},
                {"type": "publish", "channel": "a", "data": token},
                {"type": "auth", "token": token, "ref": 1},
            ):
                client.send(json.dumps(message))
            client.send(f'{{"type":"auth","token":"{token}')
            client.send(json.dumps({"type": "ping", "ref": "end"}))
            while '"end"' not in driver.heard[-1]:
                driver.heard.append(str(client.recv(PATIENCE)))
    for password in (5, *made.values()):
        with server.client("/who/site", additional_headers=good) as client:
            client.send(json.dumps({"type": "message", "password": password}))
            with suppress(ConnectionClosed):
                driver.heard += map(str, client)  # until it is closed
            driver.heard.append(str(client.close_reason))


def publishers(server: Running, driver: Driver) -> None:
    """Use the broadcast site with right and wrong keys, and with bodies that cannot be read."""
    port = server.port("http")
    basic = base64.b64encode(f"ann:{SECRETS['auth']}".encode()).decode()
    wrong = base64.b64encode(f"ann:{SECRETS['password']}".encode()).decode()
    headers = [
        f"Authorization: Bearer {SECRETS['api.keys']}",
        f"Authorization: Bearer {SECRETS['password']}",
        f"Authorization: Bearer {SECRETS['api.keys']}\r\nAuthorization: Bearer {SECRETS['api.keys']}",
        f"Authorization: Basic {basic}",
        f"Authorization: Basic {wrong}",
        f"Authorization: {SECRETS['api.keys']}",
        f"X-Api-Key: {SECRETS['api.keys']}",
        "Accept: */*",
    ]
    message = json.dumps({"data": SECRETS["message"]})
    for header in headers:
        common = f"Host: localhost:{port}\r\nConnection: close\r\n{header}"
        query = f"?key={SECRETS['api.keys']}"
        for path in ("connections", "nodes", "channels", "openapi.json", "channels/a/presence", "channels/a/history"):
            driver.send(port, f"GET /api/{path}{query} HTTP/1.1\r\n{common}")
        for path, body in (
            ("/channels/a", message),
            ("/broadcaster/broadcast", message),
            ("/api/publish", message),
            ("/api/batch", f'{{"messages": ["{SECRETS["message"]}'),
            ("/api/publish", json.dumps({"channel": SECRETS["message"] + " ", "data": 1})),
            ("/api/revoke", json.dumps({"key": SECRETS["password"]})),
            ("/api/disconnect", json.dumps({"connection": [SECRETS["password"]]})),
            ("/api/tickets", json.dumps({"user": [SECRETS["claim"]]})),
            ("/api/tickets", json.dumps({"user": "ann", "subscribe": [SECRETS["claim"] + " "]})),
        ):
            driver.send(port, f"POST {path}{query} HTTP/1.1\r\n{common}\r\nContent-Type: application/json", body)
    for target in ("/", "/twisted-ws.js", "/healthz", "/readyz", "/page.js", "/who", "/playground"):
        driver.send(port, f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close")
        driver.send(server.port("ws"), f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close")


def filesThatBecomeOthers(server: Running, place: Path) -> None:
    """Let each file be read again after something else has taken its place, with its secret in it."""
    count = 0
    for name in FILES:
        path = place / name
        content = path.read_bytes()
        for swap in ("short", "binary", "pipe", "directory"):
            path.unlink()
            if swap == "pipe":
                os.mkfifo(path, 0o600)
            elif swap == "directory":
                path.mkdir(0o700)
            else:
                path.write_bytes(b"short\n" + content * 2 if swap == "short" else b"\xff\xfe:" + content + b" pl4nted \xff")
                path.chmod(0o644 if swap == "short" else 0o600)
            count += 1
            server.signal(signal.SIGHUP)
            server.waitForState("READY=1", 1 + count)
            path.rmdir() if swap == "directory" else path.unlink()
            path.write_bytes(content)
            path.chmod(0o600)


def commandLines(pid: int) -> bytes:
    """Return the arguments of a process and of those that it has started."""
    found = Path(f"/proc/{pid}/cmdline").read_bytes()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return b" ".join([found, *(commandLines(int(each)) for each in children)])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Make a site of Django with a user who is logged in; return its directory and the key of the session."""
    place = tmp_path_factory.mktemp("django")
    (place / "site").mkdir()
    (place / "site" / "shopsettings.py").write_text(SETTINGS.replace("planted-secret-0123456789-0123456789", SECRETS["django"]))
    (session,) = onSite(place, "call_command('migrate', verbosity=0); login(User.objects.create_user('ann'))")
    return place / "site", session


@pytest.mark.parametrize("workers", ["", "workers = 2\n"], ids=["one", "workers"])
def test_noneIsSaid(tmp_path: Path, site: tuple[Path, str], workers: str) -> None:
    """With every authenticator, key and password in use, and each refusal driven, no secret is in the log, an answer or argv."""
    made = tokens()
    shutil.copytree(site[0], tmp_path / "site")
    made["django"] = site[1]
    chain = '"site", "ticket", "introspection", "shop", "basic", "guest"'
    with (
        backEnd() as back,
        Server(requirepass=SECRETS["redis"]) as valkey,
        directory(tmp_path / "slapd", {"ann": SECRETS["password"]}, {}) as slapd,
    ):
        values = {"back": back, "ldap": slapd.plain, "admin": ADMIN, "place": tmp_path}
        writeAll(tmp_path, values, chain, workers)
        options = (
            "--config",
            "ws.toml",
            "--tls-port",
            "0",
            "--key-store",
            "store.p12",
            "--key-store-password-file",
            "store.password",
        )
        options += ("--api-key-file", "api.keys", "--auth", f"file:{tmp_path}/auth", "--audit-log", "audit.jsonl")
        options += ("--trusted-proxy", "127.0.0.1")
        if not workers:
            options += ("--engine", f"redis://127.0.0.1:{valkey.port}", "--engine-password-file", "redis.password")
        command = TWISTD if workers else (*TWIST[:-2], "--log-level=debug", *TWIST[-2:])
        with running(tmp_path, *options, command=command, mayFail=True) as server:
            driver = Driver(server)
            for kind, names in KINDS_OF_TOKENS.items():
                for name in (*names, "forged", "key"):
                    driver.everySource(kind, made[name])
            driver.everySource("site", made["long"])
            overOpenConnections(server, driver, made)
            publishers(server, driver)
            filesThatBecomeOthers(server, tmp_path)
            slapd.stop()
            (tmp_path / "site" / "db.sqlite3").write_text("not a database at all, but a text of some length" * 100)
            for kind in ("ldap", "django"):
                driver.everySource(kind, SECRETS["password"])
            arguments = commandLines(server.process.pid).decode("utf-8", "replace")
        heard = "".join(driver.heard)
        said = [server.output, "".join(server.states), arguments, heard, (tmp_path / "audit.jsonl").read_text()]
        for words in (
            ["explain", "--config", "ws.toml", "--service", "/channels", "subscribe", "a"],
            ["explain", "--config", "ws.toml", "publish", "a"],
        ):
            done = run([*COMMAND, *words], PATIENCE, cwd=tmp_path, env=environment(tmp_path), text=True)
            said.append(done.stdout + done.stderr)
    # Each path was really driven.
    assert "--audit-log" in arguments
    assert "Traceback" in server.output
    assert [kind for kind in KINDS if f"by {kind}" not in server.output] == []
    for text in said:
        for name, secret in (*SECRETS.items(), ("ldap", ADMIN_PASSWORD), *made.items()):
            for form in forms(secret):
                assert form not in text, (name, text[max(text.index(form) - 300, 0) : text.index(form) + 100])
        for token in made.values():
            for part in token.split("."):
                assert len(part) < 20 or part not in text, part
