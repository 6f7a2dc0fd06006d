"""Run the Autobahn|Testsuite against each path that frames can take through the server, and against the client.

python tools/conformance [--quick] [WAY ...]

Print a table of the results, and each case whose outcome is not OK. Exit status: 0 if nothing failed, 1 if something did, 2 if
not every case was run. A complete run is recorded in results.json beside this file, from which the documentation's table is made.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import suite
from echo import LARGEST

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "conformance"
RESULTS = HERE / "results.json"
BIN = Path(sys.executable).parent

# The long cases: large data, and compression with every setting. The others take half a minute.
LONG = ["9.*", "12.*", "13.*"]
OUTCOMES = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
PATIENCE = 60  # seconds to start


@dataclass(frozen=True)
class Way:
    """A path for the frames of the suite.

    Attributes:
        name: its name in the table.
        environment: the variables that select it.
        scheme: ``ws`` or ``wss``.
    """

    name: str
    environment: dict[str, str]
    scheme: str = "ws"


WAYS = (
    Way("fast lane", {}),
    Way("fast lane, TLS", {}, "wss"),
    Way("fast lane in Python", {"TWISTED_WS_SPEEDUPS": "0"}),
    Way("without the lane", {"TWISTED_WS_LANE": "0"}),
)
CLIENT = "client"


@contextmanager
def _server(way: Way, place: Path) -> Iterator[str]:
    """Run an echo server; yield its URL."""
    options = place / "options.toml"
    # The suite floods and dawdles on purpose: it should test the protocol, not the limits.
    options.write_text(
        f'compression = "on"\nmax-message-size = {LARGEST}\nmax-send-buffer = {2 * LARGEST}\nping-interval = 0\n'
        f"[limits]\nreplyBuffer = {LARGEST}\n"
    )
    command = [str(BIN / "twistd"), "--pidfile=", "-n", "wsservice", "--config", str(options), "--service", "/=echo:Echo"]
    ports = ["--port", "0", "--broadcast-port", "0", *(["--tls-port", "0"] if way.scheme == "wss" else [])]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TWISTED_WS_")}
    environment = {**kept, **way.environment, "PYTHONPATH": str(HERE), "XDG_STATE_HOME": str(place)}
    log = place / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen([*command, *ports], stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(PATIENCE * 10):
            found = re.search(rf"WebSocket on {way.scheme}://[^ ]*?:(\d+)", log.read_text())
            if found:
                break
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                pass
        if not found:
            raise SystemExit(f"the server does not start:\n{log.read_text()}")
        yield f"{way.scheme}://127.0.0.1:{found[1]}/"
    finally:
        process.terminate()
        process.wait()


def _wstest(wstest: Path, mode: str, spec: dict[str, Any], place: Path) -> subprocess.Popen[bytes]:
    path = place / "spec.json"
    path.write_text(json.dumps({"outdir": str(place), "exclude-agent-cases": {}, **spec}))
    with (place / "wstest.log").open("w") as output:
        return subprocess.Popen(
            [wstest, "-m", mode, "-s", path, "-u", "0"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def _askServer(wstest: Path, way: Way, leaveOut: list[str], place: Path) -> int:
    """Run the suite's client against the server; return the number of cases."""
    with _server(way, place) as url:
        servers = [{"agent": "it", "url": url}]
        _wstest(wstest, "fuzzingclient", {"servers": servers, "cases": ["*"], "exclude-cases": leaveOut}, place).wait()
    planned = re.search(r"will run (\d+) test cases", (place / "wstest.log").read_text(errors="replace"))
    return int(planned[1]) if planned else -1


def _askClient(wstest: Path, leaveOut: list[str], place: Path) -> int:
    """Run the client against the suite's server; return the number of cases."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    process = _wstest(wstest, "fuzzingserver", {"url": url, "cases": ["*"], "exclude-cases": leaveOut}, place)
    try:
        for _ in range(PATIENCE * 10):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, HERE / "echo.py", url, "it"],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        process.terminate()
        process.wait()
    counts = re.findall(r"^(\d+) cases$", done.stdout, re.MULTILINE)
    print(re.sub(r"^\d+ cases\n", "", done.stdout), end="")
    return int(counts[0]) if counts else -1


def _outcome(case: dict[str, str]) -> str:
    """Return the outcome of a case, for its messages and its close together."""
    return "FAILED" if case["behaviorClose"] in ("FAILED", "UNCLEAN", "WRONG CODE") else case["behavior"]


def _run(wstest: Path, way: Way | str, leaveOut: list[str]) -> tuple[Counter[str], list[str], int]:
    name = way if isinstance(way, str) else way.name
    BUILD.joinpath("reports").mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", name) + "-", dir=BUILD / "reports"))
    planned = _askClient(wstest, leaveOut, place) if isinstance(way, str) else _askServer(wstest, way, leaveOut, place)
    index = place / "index.json"
    cases = json.loads(index.read_text())["it"] if index.exists() else {}
    odd = []
    for case, result in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        if _outcome(result) not in ("OK", "INFORMATIONAL"):
            detail = json.loads((place / result["reportfile"]).read_text())
            odd.append(f"{name}: {case} {_outcome(result)}: {detail['result']} Close: {detail['resultClose']}")
    if not cases or len(cases) != planned:
        odd.append(f"{name}: {len(cases)} of {planned} cases were run; see {place}")
        planned = -1
    return Counter(map(_outcome, cases.values())), odd, planned


def main() -> int:
    """Run the ways named on the command line."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"without {', '.join(LONG)}")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join([*(way.name for way in WAYS), CLIENT]))
    arguments = parser.parse_args()
    ways: list[Way | str] = [*WAYS, CLIENT]
    if arguments.ways:
        ways = [way for way in ways if (way if isinstance(way, str) else way.name) in arguments.ways]
        if len(ways) != len(arguments.ways):
            parser.error("unknown way")
    BUILD.mkdir(parents=True, exist_ok=True)
    wstest = suite.install(BUILD / "suite")
    # All at once: the suite spends most of its time waiting.
    with ThreadPoolExecutor(len(ways)) as pool:
        done = list(pool.map(lambda way: _run(wstest, way, LONG if arguments.quick else []), ways))
    print(f"{'':<22}" + "".join(f"{outcome:>15}" for outcome in OUTCOMES))
    for way, (counts, _, _) in zip(ways, done, strict=True):
        print(f"{way if isinstance(way, str) else way.name:<22}" + "".join(f"{counts[outcome]:>15}" for outcome in OUTCOMES))
    for _, odd, _ in done:
        print(*odd, sep="\n", end="\n" if odd else "")
    if any(planned < 0 for _, _, planned in done):
        return 2
    if not arguments.quick and not arguments.ways:
        table = {way if isinstance(way, str) else way.name: dict(counts) for way, (counts, _, _) in zip(ways, done, strict=True)}
        RESULTS.write_text(json.dumps({"date": date.today().isoformat(), "ways": table}, indent=1) + "\n")
    return 1 if any(counts["FAILED"] for counts, _, _ in done) else 0


if __name__ == "__main__":
    sys.exit(main())
