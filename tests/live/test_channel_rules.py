"""Rules for channels of a real daemon, with and without workers: what SIGHUP changes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import jwt
import pytest

from tests.daemon.workers.support import ended, reload, workers
from tests.live.support import PATIENCE, Running, curl, running

pytestmark = pytest.mark.exhaustive

RULES = """
[channels."*"]
subscribe = "anyone"
history-messages = 2

[channels."a"]
subscribe = "SUBSCRIBE"
"""


class Application(BaseHTTPRequestHandler):
    """An application whose users are their cookies, and whose rooms are for those who are named in them."""

    def do_GET(self) -> None:
        """Say who somebody is."""
        self._answer({"user": self.headers["Cookie"].removeprefix("user=")})

    def do_POST(self) -> None:
        """Say what they may."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({"subscribe": [name for name in asked["subscribe"] if asked["user"] in name]})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object, **more: object) -> None:
        """Say nothing."""


@pytest.fixture
def application() -> Iterator[str]:
    """The URL of the application."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Application) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def write(place: Path, rules: str, count: int | None) -> None:
    """Write the file."""
    head = "" if count is None else f"workers = {count}\n"
    (place / "push.toml").write_text(f'state-directory = "state"\n{head}{rules}')


def refusals(server: Running, count: int) -> list[int]:
    """Return the codes with which so many clients of the channel are closed."""
    found = []
    for _ in range(count):
        with server.client("/channels/a") as client:
            found.append(ended(client))
    return found


@pytest.fixture(params=[None, 2], ids=["one process", "workers"])
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Running, Path, int | None]]:
    """A server that lets everybody subscribe."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        write(place, RULES.replace("SUBSCRIBE", "anyone"), request.param)
        with running(place, "--config", "push.toml") as server:
            yield server, place, request.param


def test_reload(started: tuple[Running, Path, int | None]) -> None:
    """New rules hold at once everywhere, and end what they do not allow; a mistake is named with its line and changes nothing."""
    server, place, count = started
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client("/channels/a")) for _ in range(8)]
        assert json.loads(server.curl("--data", "all are there", path="/channels/a"))["recipients"] == 8
        write(place, RULES.replace("SUBSCRIBE", "everybody"), count)
        server.signal(signal.SIGHUP)
        line = 8 if count is None else 9
        why = f"push.toml:{line}: channels.\"a\".subscribe: 'everybody' is nobody"
        server.waitFor(f"The old rules and authenticators stay in use: {why}")
        assert json.loads(server.curl("--data", "heard", path="/channels/a"))["recipients"] == 8

        write(place, RULES.replace("SUBSCRIBE", "nobody"), count)
        if count is None:
            server.signal(signal.SIGHUP)
            server.waitFor("reloaded")
        else:
            assert reload(place) == (0, "")
        assert [ended(client) for client in clients] == [4403] * 8
    assert refusals(server, 6) == [4403] * 6
    if count is not None:  # a worker that takes the place of another has the rules of now
        before = workers(server)
        os.kill(before[0], signal.SIGKILL)
        server.waitFor("listens again")
        assert refusals(server, 12) == [4403] * 12


def test_theApplicationIsAsked(application: str) -> None:
    """The application that says who somebody is also says which rooms are theirs, if the configuration says so."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        (place / "push.toml").write_text(
            f"""
authenticate = ["shop"]

[authenticators.shop]
type = "http"
url = "{application}/who"
channels-url = "{application}/may"

[channels."rooms.*"]
subscribe = "ask"
"""
        )
        with running(place, "--config", "push.toml") as server:
            server.waitFor("/channels: clients may subscribe to what their credentials grant, and publish to nothing")
            cookie = {"additional_headers": {"Cookie": "user=ann"}}
            server.curl("--data", "hello", path="/channels/rooms.of.ann")
            with server.client("/channels/rooms.of.ann?after=0", **cookie) as client:
                assert client.recv(PATIENCE) == "hello"
            with server.client("/channels/rooms.of.bob", **cookie) as client:
                assert ended(client) == 4403


def test_history(started: tuple[Running, Path, int | None]) -> None:
    """How much of a channel is kept is what the rule says, for what back ends and clients publish, and changes with it."""
    server, place, count = started
    for number in range(4):
        server.curl("--data", str(number), path="/channels/b")
    kept = json.loads(server.curl(path="/api/channels/b/history"))["messages"]
    assert [each["data"] for each in kept] == ["2", "3"]
    write(place, RULES.replace("SUBSCRIBE", "anyone").replace("messages = 2", "messages = 3"), count)
    server.signal(signal.SIGHUP)
    server.waitFor("reloaded")
    for number in range(4, 8):
        server.curl("--data", str(number), path="/channels/b")
    kept = json.loads(server.curl(path="/api/channels/b/history"))["messages"]
    assert [each["data"] for each in kept] == ["5", "6", "7"]


@pytest.mark.parametrize("count", [None, 2], ids=["one process", "workers"])
def test_reloadOfAuthenticators(tmp_path: Path, count: int | None) -> None:
    """What a table of an authenticator says now holds in every process; a mistake in one changes nothing in any."""
    path = tmp_path / "key"
    path.write_text("planted-0123456789-0123456789-0123456789")
    path.chmod(0o600)

    def say(audience: str, more: str = "") -> None:
        table = f'type = "jwt"\nsecret-file = "{path}"\naudience = "{audience}"\n{more}'
        write(tmp_path, f'authenticate = ["site"]\n[authenticators.site]\n{table}[channels."*"]\nsubscribe = "users"\n', count)

    def come(audience: str) -> set[str]:
        made = {"sub": "ann", "aud": audience, "exp": time.time() + 600}
        header = f"Authorization: Bearer {jwt.encode(made, path.read_text(), 'HS256')}"
        url = f"http://localhost:{server.port('ws')}/channels/a"
        return {curl("-o", "/dev/null", "-w", "%{http_code}", "-H", header, url) for _ in range(8)}

    say("a")
    with running(tmp_path, "--config", "push.toml") as server:
        assert (come("a"), come("b")) == ({"200"}, {"401"})
        say("b", "audiences = 1\n")
        server.signal(signal.SIGHUP)
        server.waitFor("The old rules and authenticators stay in use: ")
        assert (come("a"), come("b")) == ({"200"}, {"401"})
        say("b")
        server.signal(signal.SIGHUP)
        server.waitFor("reloaded")
        assert (come("a"), come("b")) == ({"401"}, {"200"})
        if count is not None:  # one that comes later has what holds now
            again = server.output.count("listens again")
            os.kill(workers(server)[0], signal.SIGKILL)
            server.waitFor("listens again", again + 1)
            assert (come("a"), come("b")) == ({"401"}, {"200"})


def test_ticketsFollow() -> None:
    """With workers, tickets are made as the tables say that the workers have, after either reload; a mistake changes nothing."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        for name in "old", "new", "third":
            (place / name).write_text(f"{name:-<40}")
            (place / name).chmod(0o600)

        def say(secret: str, more: str = "") -> None:
            table = f'authenticate = ["t"]\n[authenticators.t]\ntype = "ticket"\nsecret-file = "{secret}"\n'
            write(place, f'{table}{more}[channels."*"]\nsubscribe = "users"\n', 2)

        def come() -> set[str]:
            found = set()
            for _ in range(6):
                token = json.loads(server.curl("--json", '{"user": "ann"}', path="/api/tickets"))["token"]
                url = f"http://localhost:{server.port('ws')}/channels/a?ticket={token}"
                found.add(curl("-o", "/dev/null", "-w", "%{http_code}", url))
                signed = jwt.PyJWS().decode_complete(token, f"{now:-<40}", ["HS256"])
                assert b"ann" in signed["payload"]
            return found

        now = "old"
        say(now)
        with running(place, "--config", "push.toml") as server:
            assert come() == {"200"}
            say("new", "life = 61\n")
            for arguments in (), ("--services",):
                code, why = reload(place, *arguments)
                assert (code, "life" in why) == (1, True)
                assert come() == {"200"}
            now = "new"
            say(now)
            assert reload(place) == (0, "")
            assert come() == {"200"}
            now = "third"
            say(now)
            assert reload(place, "--services") == (0, "")
            assert come() == {"200"}
