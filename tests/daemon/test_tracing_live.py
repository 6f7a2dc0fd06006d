"""The real daemon and a collector of OpenTelemetry: what it is sent, and that nobody waits for it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.daemon.workers.support import workers
from tests.live.support import PATIENCE, curl, running, until, writeService
from tests.ports import freePort

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
# Each span is sent soon, and so is each that nobody began elsewhere.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
ALL = {**SOON, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}

SERVICE = """
from opentelemetry import trace

tracer = trace.get_tracer("rooms")


class Room:
    async def onUpgrade(self, request):
        return self

    async def onTextMessage(self, caller, text):
        if text == "fail":
            raise ValueError(text)
        with tracer.start_as_current_span("look up"):
            published = await self.server.publish("news", text)
        return str(published.recipients)
"""

PUBLISHER = """
import sys
from opentelemetry import context, propagate, trace
from twisted_ws_publisher import Publisher

context.attach(propagate.extract({"traceparent": sys.argv[2]}))
with Publisher(sys.argv[1]) as push:
    push.publish("news", 1)
"""


class Collector:
    """A receiver of OTLP over HTTP.

    Attributes:
        url: where it is.
        spans: what it has got: pairs of the resource and the span.
        status: of its answers.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resource = values(each.resource.attributes)
                    collector.spans += [(resource, span) for scope in each.scope_spans for span in scope.spans]
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return the spans of a name."""
        return [(resource, span) for resource, span in self.spans if span.name == name]

    def has(self, name: str, count: int) -> bool:
        """Return whether so many spans of a name have come."""
        return len(self.named(name)) >= count

    def isAskedFor(self, publish: Any) -> bool:
        """Return whether the engine was asked to publish, as a part of a span."""
        return publish.span_id in [span.parent_span_id for _, span in self.named("engine publish")]

    def one(self, name: str) -> tuple[dict[str, Any], Any]:
        """Return the first span of a name, once it has come."""
        until(lambda: bool(self.named(name)))
        return self.named(name)[0]


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dict."""
    return {each.key: each.value.string_value or each.value.int_value for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


@contextmanager
def serving(tmp_path: Path, url: str, *arguments: str, mayFail: bool = False, **more: str) -> Iterator[Any]:
    """Run a server that sends its spans to a URL."""
    writeService(tmp_path, SERVICE)
    services = ("--service", "/ws=rooms:Room", "--service", "/channels=channels")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "NO_PROXY": "*", **more}
    given = ("--tracing", "on", "--log-format", "json", *services, *arguments)
    with running(tmp_path, *given, more=environment, mayFail=mayFail) as server:
        yield server


def test_ofAPublication(tmp_path: Path, collector: Collector) -> None:
    """A publication belongs to the trace that curl names, is linked to the span there, and says how many have got it."""
    with serving(tmp_path, collector.url, **SOON) as server:
        assert '"id"' in server.curl("--header", f"traceparent: {PARENT}", "--data", "1", path="/channels/news")
        _, request = collector.one("request")
        resource, publish = collector.one("publish")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    assert values(request.attributes)["http.response.status_code"] == 200
    assert publish.parent_span_id == request.span_id
    assert [link.span_id.hex() for link in publish.links] == [SPAN]
    attributes = values(publish.attributes)
    assert (attributes["messaging.destination.name"], attributes["twisted_ws.recipients"]) == ("news", 0)
    assert resource["service.name"] == "twisted_ws"


def test_ofAPublisher(tmp_path: Path, collector: Collector) -> None:
    """A program with OpenTelemetry that uses twisted-ws-publisher has its trace go on in the server."""
    with serving(tmp_path, collector.url, OTEL_SERVICE_NAME="push", **SOON) as server:
        command = [sys.executable, "-c", PUBLISHER, f"http://127.0.0.1:{server.port('http')}", PARENT]
        subprocess.run(command, check=True, timeout=PATIENCE)
        resource, publish = collector.one("publish")
    assert (publish.trace_id.hex(), resource["service.name"]) == (TRACE, "push")


def test_ofAConnection(tmp_path: Path, collector: Collector) -> None:
    """A handshake belongs to the trace that the client names; a handler that fails names its own in the log."""
    with serving(tmp_path, collector.url, mayFail=True, **ALL) as server:
        with server.client("/ws", additional_headers={"traceparent": PARENT}) as client:
            client.send("hello")
            assert client.recv(PATIENCE) == "0"
            client.send("fail")
            line = json.loads(server.waitFor('"handler.failed"'))
        _, handshake = collector.one("handshake")
        _, asked = collector.one("onUpgrade")
        until(partial(collector.has, "Room.onTextMessage", 2))
    assert (handshake.trace_id.hex(), handshake.parent_span_id.hex()) == (TRACE, SPAN)
    assert asked.parent_span_id == handshake.span_id
    ids = [(span.trace_id.hex(), span.span_id.hex()) for _, span in collector.named("Room.onTextMessage")]
    assert (line["trace"], line["span"]) in ids
    assert TRACE not in dict(ids)
    _, own = collector.one("look up")  # of the service itself
    assert (own.trace_id.hex(), own.parent_span_id.hex()) in ids
    assert collector.one("publish")[1].parent_span_id == own.span_id


def test_workers(tmp_path: Path, collector: Collector) -> None:
    """Each worker sends its own, with its number, and so does one that takes the place of another."""
    with serving(tmp_path, collector.url, "--workers", "1", **ALL) as server:
        for count in (1, 2):
            with server.client("/ws") as client:
                client.send("hello")
                client.recv(PATIENCE)
            until(partial(collector.has, "Room.onTextMessage", count))
            resource, _ = collector.named("Room.onTextMessage")[-1]
            assert resource["twisted_ws.worker"] == 1
            _, publish = collector.named("publish")[-1]
            until(partial(collector.isAskedFor, publish))
            if count == 1:
                (worker,) = workers(server)
                os.kill(worker, 9)
                server.waitFor("listens again")
        assert server.curl("--header", f"traceparent: {PARENT}", "--data", "1", path="/channels/news")
        until(lambda: any("twisted_ws.worker" not in resource for resource, _ in collector.named("publish")))


def test_sampled(tmp_path: Path, collector: Collector) -> None:
    """Of traces that begin here, one in a hundred is recorded, unless the environment says otherwise; a client's always."""
    with serving(tmp_path, collector.url, **SOON) as server:
        for _ in range(30):
            server.curl("--data", "1", path="/channels/news")
        server.curl("--header", f"traceparent: {PARENT}", "--data", "1", path="/channels/news")
        until(lambda: any(span.trace_id.hex() == TRACE for _, span in collector.named("publish")))
    assert len(collector.named("publish")) < 31


@pytest.mark.parametrize("kind", ["refuses", "hangs", "fails"])
def test_withoutACollector(tmp_path: Path, collector: Collector, kind: str) -> None:
    """Without a collector that works, everything goes on, the log says so a few times at most, and the stop does not wait."""
    collector.status = 500
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = freePort() if kind == "refuses" else listener.getsockname()[1]
        url = collector.url if kind == "fails" else f"http://127.0.0.1:{port}"
        with serving(tmp_path, url, OTEL_BSP_MAX_QUEUE_SIZE="5", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="5", **ALL) as server:
            with server.client("/ws") as client:
                for _ in range(50):
                    client.send("hello")
                    assert client.recv(PATIENCE) == "0"
            if kind != "hangs":  # which takes the ten seconds that the library waits
                server.waitFor('"tracing.failed"')
            assert curl(f"http://127.0.0.1:{server.port('http')}/healthz")
            assert server.stop() == -signal.SIGTERM
        lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    assert 1 <= len([line for line in lines if line["event"] == "tracing.failed"]) < 10
    assert [line["event"] for line in lines if line["level"] in ("error", "critical")] == []


def test_switchedOff(tmp_path: Path, collector: Collector) -> None:
    """The environment can switch it off."""
    with serving(tmp_path, collector.url, OTEL_SDK_DISABLED="true", **ALL) as server:
        server.curl("--data", "1", path="/channels/news")
        assert server.stop() == -signal.SIGTERM
    assert collector.spans == []
    assert "tracing.ready" not in server.output
