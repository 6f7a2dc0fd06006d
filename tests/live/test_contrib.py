"""What is in contrib/, used: proxies and units with the real programs, the Containerfile with an engine where there is one."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.environments import OFFLINE, makeEnvironment
from tests.live.nursery import BIN
from tests.live.proxies import fromPage
from tests.live.support import PATIENCE, environment, running, starting, until, writeService
from tests.live.test_proxy_pages import SERVICE, checkEvents, checkWebSocket
from tests.ports import freePort
from tests.transcript import ROOT

CONTRIB = ROOT / "contrib"
PROXIES = {"nginx": "nginx/twisted-ws.conf", "haproxy": "haproxy/haproxy.cfg", "caddy": "caddy/Caddyfile"}


@pytest.mark.parametrize("name", PROXIES)
def test_proxy(name: str, tmp_path: Path) -> None:
    """Behind each proxy, a page of its host connects, the service knows who came and how, and events come one by one."""
    writeService(tmp_path, SERVICE)
    mounts = ("--service", "/who=rooms:Who", "--service", "/channels/{channel}=channels")
    text = (CONTRIB / PROXIES[name]).read_text()
    with running(tmp_path, *mounts, "--trusted-proxy", "127.0.0.1") as server:
        here = {":8080": f":{server.port('ws')}"}
        if name == "haproxy":  # both servers are the same one here
            check = f"check port {server.port('http')}"
            here = {f"10.0.0.{number}:8080 check port 8081": f"127.0.0.1:{server.port('ws')} {check}" for number in (11, 12)}
            here["maxconn 50000"] = "maxconn 500"  # a test may open fewer files
        with fromPage(name, text, tmp_path, here) as port:
            checkWebSocket(port)
            checkEvents(port, server)


# systemd.


def test_unitIsOne(tmp_path: Path) -> None:
    """Systemd finds nothing wrong with the units, where the program is there."""
    if shutil.which("systemd-analyze") is None:
        return  # the next test looks at them by itself
    for name in ("service", "socket"):
        text = (CONTRIB / f"systemd/twisted-ws.{name}").read_text()
        (tmp_path / f"twisted-ws.{name}").write_text(text.replace("/opt/twisted-ws/bin/", f"{BIN}{os.sep}"))
    files = [str(each) for each in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "twisted-ws" in line] == []


def test_unitWorks(tmp_path: Path) -> None:
    """What the unit starts tells systemd that it is ready and lives, reloads, and ends with a code that is no failure."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(CONTRIB / "systemd/twisted-ws.service")
    unit = parser["Service"]
    settings = tmp_path / "server.toml"
    settings.write_text('port = 0\nbroadcast-port = 0\napi-key-file = "api-keys"\n')
    (tmp_path / "api-keys").write_text("shop: 0123456789abcdef0123456789abcdef\n")
    (tmp_path / "api-keys").chmod(0o400)
    program, *arguments = shlex.split(unit["ExecStart"])
    command = [program.replace("/opt/twisted-ws/bin", str(BIN))]
    command += [each.replace("/etc/twisted-ws/server.toml", str(settings)) for each in arguments]
    watched = {"WATCHDOG_USEC": str(int(unit["WatchdogSec"]) * 10_000)}  # a hundredth of it
    with starting(tmp_path, command, watched) as server:
        server.waitForState("READY=1")
        server.waitForState("WATCHDOG=1")
        subprocess.run(["bash", "-c", unit["ExecReload"]], env={"MAINPID": str(server.process.pid)}, check=True)
        server.waitFor("reloaded")
        server.waitForState("READY=1", 2)
        assert server.stop() in (0, int(unit["SuccessExitStatus"]))


def test_unitUpgrades(tmp_path: Path) -> None:
    """With the line of the unit for servers with workers, which systemd finds right, a reload replaces the whole server."""
    text = (CONTRIB / "systemd/twisted-ws.service").read_text().replace("/opt/twisted-ws/bin", str(BIN))
    text = re.sub(r"^ExecReload=.*\n", "", text, flags=re.MULTILINE).replace("\n#ExecReload=", "\nExecReload=")
    (reload,) = re.findall(r"^ExecReload=(.*)$", text, re.MULTILINE)
    if shutil.which("systemd-analyze") is not None:
        unit = tmp_path / "twisted-ws.service"
        unit.write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if "twisted-ws" in line] == []
    with running(tmp_path, "--workers", "1", command=(str(BIN / "twisted-ws"),)) as server:
        environ = environment(tmp_path, MAINPID=str(server.process.pid))
        subprocess.run(["bash", "-c", reload], env=environ, check=True)
        server.waitFor("has taken over from")
        server.waitForState("READY=1", 2)


# The Containerfile.


class Instruction(NamedTuple):
    """One instruction of a Containerfile."""

    name: str
    words: str

    @property
    def list(self) -> list[str]:
        """Its words in the exec form."""
        found: list[str] = json.loads(self.words[self.words.index("[") :])
        return found


def instructions() -> list[Instruction]:
    """Return the instructions of the Containerfile, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (CONTRIB / "container/Containerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def only(name: str) -> Instruction:
    """Return the last instruction with a name: the one that counts."""
    return [each for each in instructions() if each.name == name][-1]


def _engine() -> tuple[str, str]:
    """Return the program that builds and runs containers here, or "" and why there is none."""
    said = []
    for name in ("podman", "docker"):
        if shutil.which(name) is None:
            said.append(f"{name} is not installed")
            continue
        for words in (("info",), ("pull", instructions()[0].words.split()[0])):
            try:
                done = subprocess.run([name, *words], capture_output=True, text=True, check=False, timeout=60)
            except subprocess.TimeoutExpired:
                said.append(f"{name} {words[0]} takes longer than a minute")
                break
            if done.returncode != 0:
                said.append(f"{name} {words[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'it fails'}")
                break
        else:
            return name, ""
    return "", "; ".join(said)


def test_instructions() -> None:
    """The image runs as a user that is nobody else's, stops by a signal that drains, and its last stage downloads nothing."""
    assert only("USER").words == "10001:10001"
    assert only("STOPSIGNAL").words == "SIGTERM"
    assert [each.words.partition(" AS ")[0] for each in instructions() if each.name == "FROM"] == ["python:3.13-slim"] * 2
    last = [*instructions()]
    while last.pop(0).words.partition(" AS ")[2] != "build":
        pass
    last = last[next(number for number, each in enumerate(last) if each.name == "FROM") :]
    assert [each.words for each in last if "pip install" in each.words and "--no-index" not in each.words] == []
    assert [each for each in last if each.name in ("ADD", "COPY")] == []


def test_container(tmp_path: Path) -> None:
    """The image can be built, starts on a read-only file system as its user, is healthy, and drains when it is stopped.

    Without an engine for containers, or without the image that it begins with, the instructions are followed by hand: each RUN in
    a virtual environment, and the server as its user in a name space whose file system is read-only.
    """
    engine, why = _engine()
    if engine:
        _inContainer(engine)
    else:
        print(f"no container is built: {why}")
        _byHand(tmp_path)


def _inContainer(engine: str) -> None:
    tag, port = f"twisted-ws-test:{os.getpid()}", freePort()

    def run(*words: str) -> str:
        return subprocess.run([engine, *words], check=True, capture_output=True, text=True, timeout=10 * PATIENCE).stdout.strip()

    run("build", "--file", str(CONTRIB / "container/Containerfile"), "--tag", tag, str(ROOT))
    name = run("run", "--detach", "--read-only", "--publish", f"127.0.0.1:{port}:8080", tag)
    try:
        until(lambda: subprocess.run([engine, "exec", name, *only("HEALTHCHECK").list], check=False).returncode == 0)
        assert run("exec", name, "id", "-u") == "10001"
        assert ", compiled" in run("logs", name)
        run("stop", "--time", "45", name)
        assert run("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    finally:
        run("rm", "--force", name)
        run("rmi", "--force", tag)


def _byHand(place: Path) -> None:
    build, final = makeEnvironment(place / "build"), makeEnvironment(place / "final")
    here = build
    for name, words in instructions()[1:]:
        if name == "FROM":
            here = final
        elif name == "COPY":
            *sources, target = words.split()
            where = _mapped(target, place)
            for each in sources:
                if (ROOT / each).is_dir():
                    shutil.copytree(ROOT / each, where, ignore=shutil.ignore_patterns("*.so", "__pycache__", "dropin.cache"))
                else:
                    where.mkdir(exist_ok=True)
                    shutil.copy(ROOT / each, where)
        elif name == "RUN" and "apt-get" not in words:  # what it would install, this machine has
            command = re.sub(r"^--mount=\S+\s+", "", words)
            command = re.sub(r"(?<![\w.])/(src|wheels)\b", lambda match: str(_mapped(match[0], place)), command)
            more = {**OFFLINE, "PIP_PYTHON": str(here / "python"), "PATH": f"{here}:{BIN}:{os.environ['PATH']}"}
            done = subprocess.run(
                ["bash", "-ec", command], env={**os.environ, **more}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    _runByHand(final, place)


def _mapped(path: str, place: Path) -> Path:
    return place / path.strip("/")


def _runByHand(environment: Path, place: Path) -> None:
    ports = {"8080": str(freePort()), "8081": str(freePort())}
    entry = [*only("ENTRYPOINT").list, *only("CMD").list]
    program, *arguments = [ports.get(each, each) for each in entry]
    # As in an image, whatever these tests themselves run with.
    command = ["env", "--unset=TWISTED_WS_SPEEDUPS", str(environment / program), *arguments]
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0:
        user = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]
        readOnly = f"mount -o remount,bind,ro / && exec {shlex.join([*user, *command])}"
        command = [*apart, "bash", "-c", readOnly]
    check = [each.replace("8081", ports["8081"]) for each in only("HEALTHCHECK").list]
    check[0] = str(environment / check[0])
    with starting(place, command) as server:
        server.waitForState("READY=1")
        subprocess.run(check, check=True, timeout=PATIENCE)
        server.signal(getattr(signal, only("STOPSIGNAL").words))
        assert server.waitForEnd() == 0
        assert ", compiled" in server.output
        assert subprocess.run(check, check=False, capture_output=True, timeout=PATIENCE).returncode != 0
