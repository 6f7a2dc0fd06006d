"""Commands for a broadcast site against a server that is none, or a hostile one."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.commands.support import Terminal, command

CONTROL = "\x1b]0;mine\x07\x9b2J"


@contextmanager
def answering(answer, *frames):
    """Run a server that answers each request with JSON, and each event stream with frames; yield its URL.

    A stream stays open until the client leaves.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            isStream = self.path.startswith("/api/events")
            body = b"".join(b"data: %b\n\n" % json.dumps(each, ensure_ascii=False).encode() for each in frames)
            body = body if isStream else json.dumps(answer, ensure_ascii=False).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if isStream else "application/json")
            if not isStream:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if isStream:
                self.rfile.read(1)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *arguments):
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("answer", [[1], None, "x", {"disconnected": CONTROL, "channel": 5}, {"disconnected": True}])
def test_strangeAnswers(tmp_path, answer):
    """An answer that no broadcast site gives ends a command with one line and the exit code for a wrong server."""
    with answering(answer) as url:
        for arguments in ("disconnect", url, "a.1"), ("tail", url, "a"):
            done = command(tmp_path, *arguments)
            assert (done.code, done.out) == (8, b""), done
            assert done.err.count("\n") == 1
            assert "not one that a broadcast site" in done.err


STRANGE = None, 5, {"lines": 5}, {"lines": [5]}, {"lines": [{}]}, {"lines": [{"time": 1e300, "what": "x"}]}


@pytest.mark.parametrize("data", STRANGE)
def test_strangeStream(tmp_path, data):
    """A stream that cannot be shown ends a tail at once, though the server leaves it open."""
    with answering({"channel": "~server.tail.1"}, {"type": "message", "data": data}) as url:
        done = command(tmp_path, "tail", url, "a")
        assert (done.code, done.out) == (8, b""), done
        assert "not one that a broadcast site" in done.err


def test_control(tmp_path):
    """Nothing that a server says controls the terminal, as JSON neither."""
    line = {"time": 1, "what": CONTROL, "note": CONTROL, "data": CONTROL}
    data = {"lines": [line], "skipped": CONTROL, "ended": CONTROL}
    with answering({"channel": "~server.tail.1"}, {"type": "message", "data": data}) as url:
        for more in (), ("--json",):
            done = command(tmp_path, "tail", *more, url, "a")
            assert done.code == 1
            for written in done.out, done.err.encode():
                assert written.count(b"mine") >= 1
                assert not [byte for byte in written if byte >= 0x7F or (byte < 0x20 and byte != 0x0A)], written


def test_topOfStrangeFigures(tmp_path):
    """Figures that cannot be shown end top, which leaves the terminal as it was."""
    with answering({}, {"type": "message", "data": {"total": CONTROL}}) as url, Terminal(tmp_path, "top", url) as terminal:
        assert terminal.end() == 8
        assert b"mine" not in terminal.raw
        assert b"\x1b[?25h\x1b[?1049l" in terminal.raw
