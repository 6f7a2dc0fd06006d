"""Real daemons, looked at as Prometheus does."""

from __future__ import annotations

import os
import signal
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from tests.daemon.workers.support import oneEach, workers
from tests.live.support import PATIENCE, Running, curl, running, until, unverified, writeService
from tests.metrics.scraped import values, wrong
from twisted_ws.metrics.declared import METRICS

SERVICE = """
import os

from prometheus_client import Counter

seen = Counter("room_messages", "Messages of the room.")


class Room:
    def onTextMessage(self, caller, text):
        seen.inc()
        if text == "who":
            return f"{os.getpid()} worker"
        return text
"""
MOUNT = ("--service", "/room=rooms:Room", "--service", "/channels=channels")
_HERE = {"tls_handshakes", "log_lines_lost", "audit_lines_lost", "certificate_expiry_timestamp_seconds"}
OF_ONE = [each for each in METRICS if each.name in _HERE]


def metricsPort(server: Running) -> str:
    """Return the URL of the port that has metrics alone."""
    return server.waitFor("Metrics on ").partition("Metrics on ")[2].strip()


@pytest.mark.exhaustive
def test_oneProcess(tmp_path: Path) -> None:
    """A daemon with TLS and an audit log has metrics of them, on a port of its own, and for a key with that scope."""
    writeService(tmp_path, SERVICE)
    (tmp_path / "keys").write_text("prometheus: 0123456789-0123456789 metrics\nshop: abcdefghij-abcdefghij broadcast\n")
    os.chmod(tmp_path / "keys", 0o600)
    options = ("--tls-port", "0", "--audit-log", "audit", "--api-key-file", "keys", "--metrics-port", "0")
    with running(tmp_path, *MOUNT, *options) as server:
        with server.client("/room", secure=True) as client:
            client.send("hi")
            assert client.recv(PATIENCE) == "hi"
            old = unverified()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with server.client("/room", secure=True, ssl=old):
                pass
            text = curl(metricsPort(server))
            assert wrong(text, OF_ONE, others={"room_messages"}) == []
            assert values(text, "room_messages_total") == {(): 1}
            assert values(text, "twisted_ws_connections")[(("transport", "websocket"),)] >= 1
            versions = {dict(key)["version"] for key in values(text, "twisted_ws_tls_handshakes_total")}
            assert {"TLSv1.3", "TLSv1.2"} <= versions
        asked = [
            server.curl(
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{content_type}",
                *key,
                "-H",
                "Accept: application/openmetrics-text",
                path="/metrics",
            )
            for key in (
                (),
                ("-H", "Authorization: Bearer abcdefghij-abcdefghij"),
                ("-H", "Authorization: Bearer 0123456789-0123456789"),
            )
        ]
        assert [each.split()[0] for each in asked] == ["401", "403", "200"]
        assert "application/openmetrics-text" in asked[-1]


@pytest.mark.exhaustive
def test_severalWorkers(tmp_path: Path) -> None:
    """One scrape of the supervisor shows each worker by its number; one that has stuck is left out, and the others are not."""
    writeService(tmp_path, SERVICE)
    with running(tmp_path, *MOUNT, "--workers", "2", "--metrics-port", "0") as server, ExitStack() as stack:
        url = metricsPort(server)
        clients = oneEach(server, stack)
        text = curl(url)
        seen = values(text, "twisted_ws_connections")
        counts = {dict(key)["worker"]: value for key, value in seen.items() if dict(key)["transport"] == "websocket"}
        assert counts["supervisor"] == 0
        assert sorted(counts) == ["1", "2", "supervisor"]
        assert min(counts["1"], counts["2"]) >= 1
        assert {dict(key)["worker"] for key in values(text, "room_messages_total")} == {"1", "2"}
        assert set(values(text, "twisted_ws_workers").values()) == {2}
        with server.client("/channels?channel=news"):
            until(lambda: bool(values(curl(url), "twisted_ws_engine_seconds_count")))
        assert all("worker" in sample.labels for family in families(text) for sample in family.samples)
        (stuck, *_) = clients
        os.kill(stuck, signal.SIGSTOP)
        left = {dict(key)["worker"] for key in values(curl(url), "twisted_ws_connections")}
        assert len(left) == 2
        assert "supervisor" in left
        os.kill(stuck, signal.SIGKILL)
        until(lambda: len(workers(server)) == 2 and stuck not in workers(server))
