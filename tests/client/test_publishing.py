"""The publisher on Twisted, in a program of its own, against a real server and against one that answers what the test says."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from tests.live.nursery import start
from tests.live.support import PATIENCE, running
from tests.ports import freePort
from twisted_ws.client import AgentPublisher
from twisted_ws.errors import ConfigurationError

# Each line of standard input is a call, and each of standard output what came of it.
PROGRAM = """
import json, sys
from twisted.internet import task
from twisted_ws.client import AgentPublisher, PublishError

async def main(reactor, options):
    push = AgentPublisher(**json.loads(options), reactor=reactor)
    for name, arguments, options in map(json.loads, sys.stdin):
        if options.pop("isBinary", False):
            arguments[-1] = arguments[-1].encode()
        try:
            answer = await getattr(push, name)(*arguments, **options)
        except PublishError as error:
            answer = {"code": error.code, "status": error.status, "mayBeDone": error.mayBeDone, "text": str(error)}
        print(json.dumps(answer), flush=True)
    await push.close()

task.react(lambda reactor: __import__("twisted.internet.defer").internet.defer.ensureDeferred(main(reactor, sys.argv[1])))
"""


class Program:
    """A program that publishes."""

    def __init__(self, **options):
        command = [sys.executable, "-c", PROGRAM, json.dumps(options)]
        self._process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.communicate()
        assert self._process.returncode == 0

    def call(self, name, *arguments, **options):
        """Make a call, and return what came of it."""
        self._process.stdin.write(json.dumps([name, arguments, options]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def answering(*answers):
    """Yield the URL of a server that gives these answers (status and headers, None: no answer), and what it is asked."""
    left, asked = list(answers), []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = left.pop(0)
            if answer is None:
                over.wait(PATIENCE)
                self.close_connection = True
                return
            status, headers = answer
            body = (
                b'{"channel": "news", "id": "a:1", "recipients": 0}'
                if status == 200
                else b'{"error": "unavailable", "message": "not now"}'
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_arrives(tmp_path):
    """Each kind of message arrives as it was given; a broadcast reaches every connection."""
    with (
        running(tmp_path) as server,
        server.client("/channels/news") as client,
        Program(url=f"http://127.0.0.1:{server.port('http')}") as program,
    ):
        receipt = program.call("publish", "news", {"state": "paid", "ü": None})
        assert (receipt[0], receipt[2]) == ("news", 1)
        program.call("publish", "news", "text", key="k")
        program.call("publish", "news", "bytes", isBinary=True)
        assert program.call("publish", "news", "once", idempotencyKey="one") == program.call(
            "publish", "news", "once", idempotencyKey="one"
        )
        assert program.call("broadcast", "all") is None
        assert [client.recv(PATIENCE) for _ in range(5)] == ['{"state":"paid","ü":null}', "text", b"bytes", "once", "all"]


def test_restart(tmp_path):
    """A server that restarts is a call that takes longer, and the connection that was kept is no matter."""
    ports = ("--port", "0", "--broadcast-port", str(freePort()))
    with Program(url=f"http://127.0.0.1:{ports[3]}", timeout=PATIENCE, attempts=1000) as program:
        for _ in range(2):
            with running(tmp_path, ports=ports):
                assert program.call("publish", "news", 1)[0] == "news"


def test_key(tmp_path):
    """A key that is refused is read again from its file; one that stays wrong is an error that says so."""
    keys, key = tmp_path / "keys", tmp_path / "key"
    for path, text in ((keys, "shop: 0123456789abcdef0123456789abcdef publish:news\n"), (key, "wrong\n")):
        path.write_text(text)
        path.chmod(0o600)
    with (
        running(tmp_path, "--api-key-file", str(keys)) as server,
        Program(url=f"http://127.0.0.1:{server.port('http')}", keyFile=str(key)) as program,
    ):
        assert program.call("publish", "news", 1)["code"] == "unauthorized"
        key.write_text("0123456789abcdef0123456789abcdef\n")
        assert program.call("publish", "news", 1)[0] == "news"
        refused = program.call("publish", "other", 1)
        assert (refused["code"], refused["status"], refused["mayBeDone"]) == ("forbidden", 403, False)
        assert "0123456789abcdef" not in refused["text"]


def test_repeats():
    """A busy server is asked again when it says, with the same idempotency key."""
    with (
        answering((503, {"Retry-After": "0"}), (429, {}), (200, {})) as (url, asked),
        Program(url=url, timeout=PATIENCE) as program,
    ):
        assert program.call("publish", "news", 1) == ["news", "a:1", 0]
    assert len(asked) == 3
    assert len({json.loads(each)["idempotencyKey"] for each in asked}) == 1


def test_givesUp():
    """After so many attempts, or when the server asks for more time than there is, the error is the server's."""
    with answering(*[(503, {})] * 2) as (url, asked), Program(url=url, attempts=2, timeout=PATIENCE) as program:
        found = program.call("publish", "news", 1)
        assert (found["code"], found["status"], found["mayBeDone"]) == ("unavailable", 503, False)
    assert len(asked) == 2
    with answering((503, {"Retry-After": "9999"})) as (url, asked), Program(url=url, timeout=PATIENCE) as program:
        assert program.call("publish", "news", 1)["status"] == 503


def test_unknownEnd():
    """A broadcast that was sent and not answered is not sent again, and the error says that it may have been done."""
    with answering(None) as (url, asked), Program(url=url, timeout=1) as program:
        found = program.call("broadcast", "all")
        assert (found["code"], found["status"], found["mayBeDone"]) == ("no-answer", None, True)
        assert len(asked) == 1


def test_nobody():
    """Where nobody listens, nothing was done."""
    with Program(url=f"http://127.0.0.1:{freePort()}", attempts=2) as program:
        found = program.call("broadcast", "all")
    assert (found["code"], found["mayBeDone"]) == ("no-answer", False)


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ws://127.0.0.1:8081", "http://ann:hush@push", "http://push?key=hush"])
def test_mistakes(url):
    """A URL that is none of a broadcast port is refused, without what may be a secret in it."""
    with pytest.raises(ConfigurationError, match="http://HOST:PORT") as raised:
        AgentPublisher(url)
    assert "hush" not in str(raised.value)
