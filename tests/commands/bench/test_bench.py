from __future__ import annotations

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.commands.support import Terminal, command, echo, foreign
from tests.live.support import running
from twisted_ws.commands.bench.durations import STEP, Durations
from twisted_ws.commands.bench.places import isHere

SHORT = ("--seconds", "0.2", "--connections", "5")


def measured(directory: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of ``twisted-ws bench``."""
    done = command(directory, "bench", "--json", *SHORT, *arguments)
    return done.code, json.loads(done.out)


def test_ofOurServer(tmp_path: Path) -> None:
    """Connections, answers and publications are counted, each with its percentiles, and the text says by what."""
    (tmp_path / "keys").write_text("bench: 0123456789abcdef publish:bench\n")
    (tmp_path / "keys").chmod(0o600)
    with running(tmp_path, "--api-key-file", "keys") as server:
        ws, http = f"ws://localhost:{server.port('ws')}", f"http://localhost:{server.port('http')}"
        code, found = measured(tmp_path, f"{ws}/ws")
        assert code == 0
        assert (found["connections"]["open"], found["connections"]["failures"]) == (5, {})
        assert found["echo"]["messages"] >= 5
        for each in (found["connections"]["handshake"], found["echo"]["roundTrip"]):
            assert 0 < each["p50"] <= each["p90"] <= each["p99"] <= each["max"]
        options = ("--no-echo", "--key-file", "keys", "--publish", f"{http}/channels/bench", f"{ws}/channels/bench")
        code, found = measured(tmp_path, *options, "--size", "1KiB")
        assert (code, found["fanOut"]["lost"]) == (0, 0)
        assert found["fanOut"]["deliveries"] == 5 * found["fanOut"]["published"] > 0
        assert "echo" not in found
        done = command(tmp_path, "bench", *SHORT, *options)
        lines = done.out.decode().splitlines()
        assert [line.partition(":")[0] for line in lines[1:]] == ["connections", "fan-out"]
        assert lines[0].startswith("measured by twisted_ws.client (")
        assert done.err == ""


def test_ofAnotherServer(tmp_path: Path) -> None:
    """A server of another kind can be measured, too."""
    with foreign(echo) as url:
        code, found = measured(tmp_path, url)
    assert (code, found["connections"]["open"]) == (0, 5)
    assert found["echo"]["messages"] >= 5


def test_aPathThatDoesNotAnswer(tmp_path: Path) -> None:
    """A path that closes when it is written to is no mistake: the other figures stay, and the text says so."""
    with running(tmp_path) as server:
        url = f"ws://localhost:{server.port('ws')}/channels/news"
        code, found = measured(tmp_path, url)
        assert (code, found["echo"], found["connections"]["open"]) == (0, None, 5)
        assert b"echo: this path does not answer such a message" in command(tmp_path, "bench", *SHORT, url).out


def test_aPathThatAnswersWhatItKnows(tmp_path: Path) -> None:
    """The message can be one that the path answers."""

    def picky(ws: Any) -> None:
        for message in ws:
            if message == '{"ask": 1}':
                ws.send("yes")

    with foreign(picky) as url:
        code, found = measured(tmp_path, "--message", '{"ask": 1}', url)
    assert code == 0
    assert found["echo"]["messages"] >= 5


@pytest.mark.parametrize("option", ["--publish", "url"])
def test_othersAreLeftAlone(tmp_path: Path, option: str) -> None:
    """A host that is not this machine by its letters is refused, before anything is sent, unless its owner says so."""
    with foreign(echo) as url:
        words = ["ws://push.example/ws"] if option == "url" else ["--publish", "https://push.example/x", url]
        done = command(tmp_path, "bench", *words)
        assert done.code == 2
        assert "--yes-it-is-mine" in done.err
        elsewhere = url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        assert command(tmp_path, "bench", elsewhere).code == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        *(
            (f"ws://{host}/ws", True)
            for host in ("localhost", "localhost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "LOCALHOST")
        ),
        *(
            (f"ws://{host}/ws", False)
            for host in ("push.example", "localhost.example", "0.0.0.0", "10.0.0.1", "[::]", "127.1", "")
        ),
        *(("ws://localhost@push.example/", False), ("ws://[::1", False), ("localhost", False)),
    ],
)
def test_places(url: str, expected: bool) -> None:
    """Only what is a loopback address by its letters is this machine: no name is looked up."""
    assert isHere(url) is expected


def test_nobodyListens(tmp_path: Path) -> None:
    """If no connection opens, the first reason is told, once, and gives the exit code."""
    done = command(tmp_path, "bench", *SHORT, "ws://localhost:1/ws")
    assert (done.code, done.err.count("\n")) == (3, 1)
    with running(tmp_path) as server:
        done = command(tmp_path, "bench", *SHORT, f"ws://localhost:{server.port('ws')}/nowhere")
        assert (done.code, done.err.count("\n")) == (5, 1)


def test_whatIsRefused(tmp_path: Path) -> None:
    """If some connections are refused, the others are measured, the rest is counted by reason, and the exit code is 1."""
    with running(tmp_path, "--max-connections", "3") as server:
        code, found = measured(tmp_path, "--no-echo", f"ws://localhost:{server.port('ws')}/ws", "--timeout", "1")
        assert code == 1
        assert found["connections"]["open"] == 3
        assert sum(found["connections"]["failures"].values()) == 2


def test_aPublicationThatIsRefused(tmp_path: Path) -> None:
    """If nothing can be published, that is one line with the reason of the site."""
    with running(tmp_path) as server:
        ws, http = f"ws://localhost:{server.port('ws')}", f"http://localhost:{server.port('http')}"
        done = command(tmp_path, "bench", *SHORT, "--no-echo", "--publish", f"{http}/elsewhere", f"{ws}/ws")
    assert done.code == 2
    assert "404" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one URL"),
        (("--connections", "0", "ws://localhost/"), "--connections must be"),
        (("--connections", "1e3", "ws://localhost/"), "--connections must be"),
        (("--seconds", "0", "ws://localhost/"), "--seconds must be"),
        (("--size", "x", "ws://localhost/"), "--size must be"),
        (("http://localhost/",), "does not begin with ws://"),
    ],
)
def test_wrongOptions(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """An option that cannot be used is one line, and exit code 2."""
    done = command(tmp_path, "bench", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err


def test_moreThanThereAreDescriptors(tmp_path: Path) -> None:
    """More connections than this user may have descriptors are refused before the first."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard >= 100_000:
        with foreign(echo) as url:
            assert command(tmp_path, "bench", "--connections", "100001", url).code == 2
    else:
        done = command(tmp_path, "bench", "--connections", str(hard), "ws://localhost:1/")
        assert (done.code, "ulimit" in done.err) == (2, True)


def test_progress(tmp_path: Path) -> None:
    """On a terminal, a line says what is being done, and is gone before the result."""
    with running(tmp_path) as server, Terminal(tmp_path, "bench", *SHORT, f"ws://localhost:{server.port('ws')}/ws") as terminal:
        assert terminal.end() == 0
        assert b"connections: 1 of 5" in terminal.raw
        rows = [row.strip() for row in terminal.rows()]
        assert sum(row.startswith("connections: ") for row in rows) == 1
        assert any(row.startswith("connections: 5 of 5, ") for row in rows)


def test_percentiles() -> None:
    """A percentile is at most a step above the exact one, whatever is measured."""
    source = random.Random(7)
    values = [source.expovariate(1000) + 1e-5 for _ in range(5000)]
    durations = Durations()
    for each in values:
        durations.add(each)
    values.sort()
    for percent in (1, 50, 90, 99, 100):
        exact = values[max(0, -(-len(values) * percent // 100) - 1)]
        assert exact / 1.0001 <= durations.percentile(percent) <= exact * STEP * 1.0001
    assert durations.longest == values[-1]
    assert Durations().summary() == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
