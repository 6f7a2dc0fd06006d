from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificate

from tests.live.nursery import BIN, run
from tests.live.support import COMMAND, PATIENCE, PORTS, TWIST, TWISTD, environment

DAEMON = (str(BIN / "twistd"), "wsservice")

_SERVICES = """
from twisted_ws import WebSocketService

class Misspelt(WebSocketService):
    def onTextMesage(self, caller, text):
        return text

class Good(WebSocketService):
    pass

class Exits(WebSocketService):
    def __init__(self):
        raise SystemExit("no licence")

class Failing(WebSocketService):
    def __init__(self):
        raise RuntimeError("no database")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all that the table names."""
    place = tmp_path_factory.mktemp("start")
    authority = trustme.CA()
    for name in ("one", "two"):
        made = authority.issue_cert("localhost")
        made.cert_chain_pems[0].write_to_path(place / f"{name}.pem")
        made.private_key_pem.write_to_path(place / f"{name}.key")
        (place / f"{name}.key").chmod(0o600)
    key = load_pem_private_key((place / "one.key").read_bytes(), None)
    certificate = load_pem_x509_certificate((place / "one.pem").read_bytes())
    store = pkcs12.serialize_key_and_certificates(b"one", key, certificate, None, BestAvailableEncryption(b"right"))  # type: ignore[arg-type]
    _secret(place / "store.p12", store)
    _secret(place / "wrong", b"wrong\n")
    _secret(place / "garbage.pem", b"no certificate")
    _secret(place / "empty", b"# no key yet\n")
    (place / "interrupted.py").write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGINT)\n")
    (place / "broken.toml").write_text("port = \n")
    (place / "unknown.toml").write_text("max-mesage-size = 5\n")
    (place / "limit.toml").write_text("[limits]\nbodydeadline = 5\n")
    (place / "type.toml").write_text('port = ["8080"]\n')
    (place / "nested.toml").write_text("port = " + "[" * 3000 + "]" * 3000 + "\n")
    (place / "latin.toml").write_bytes(b'interface = "\xff"\n')
    (place / "options.toml").write_text('[services."/ws"]\ntarget = "rooms:Good"\ncolour = "red"\n')
    (place / "rooms.py").write_text(_SERVICES)
    (place / "unparsable.py").write_text("def (:\n")
    return place


def _secret(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


TLS = ("--tls-port", "0")

# The options, and what the one line has to name. {taken} is a port that is taken.
MISTAKES = {
    "portTaken": (("--port", "{taken}"), "{taken}"),
    "broadcastPortTaken": (("--broadcast-port", "{taken}"), "--broadcast-port"),
    "tlsPortTaken": (("--tls-port", "{taken}"), "--tls-port"),
    "endpointTaken": (("--listen", "tcp:{taken}:interface=127.0.0.1"), "{taken}"),
    "oneOfOurOwn": (("--listen", "tcp:{free}:interface=127.0.0.1", "--listen", "tcp:{free}:interface=127.0.0.1"), "{free}"),
    "addressOfNobody": (("--interface", "192.0.2.1"), "192.0.2.1: choose another for --interface"),
    "noDirectoryForSocket": (("--listen", "unix:/nowhere/ws.sock"), "/nowhere/ws.sock"),
    "certificateMissing": ((*TLS, "--certificate", "none.pem", "--private-key", "one.key"), "none.pem"),
    "certificateGarbage": ((*TLS, "--certificate", "garbage.pem", "--private-key", "one.key"), "garbage.pem"),
    "keyMissing": ((*TLS, "--certificate", "one.pem", "--private-key", "none.key"), "none.key"),
    "keyNotGiven": ((*TLS, "--certificate", "one.pem"), "--private-key"),
    "keyOfAnother": ((*TLS, "--certificate", "one.pem", "--private-key", "two.key"), "two.key"),
    "wrongPassword": ((*TLS, "--key-store", "store.p12", "--key-store-password-file", "wrong"), "store.p12"),
    "passwordMissing": ((*TLS, "--key-store", "store.p12"), "store.p12"),
    "passwordFileMissing": ((*TLS, "--key-store", "store.p12", "--key-store-password-file", "none"), "none"),
    "clientCAMissing": ((*TLS, "--client-ca", "none.pem"), "none.pem"),
    "certificateWithoutPort": (("--certificate", "one.pem", "--private-key", "one.key"), "--tls-port"),
    "noSuchModule": (("--service", "/ws=nowhere:Chat"), "nowhere"),
    "noSuchClass": (("--service", "/ws=rooms:Goood"), "did you mean Good?"),
    "noSuchInstalled": (("--service", "/ws=dmo"), "did you mean demo?"),
    "moduleBroken": (("--service", "/ws=unparsable:Chat"), "unparsable.py, line 1"),
    "classFails": (("--service", "/ws=rooms:Failing"), "no database"),
    "classExits": (("--service", "/ws=rooms:Exits"), "SystemExit: no licence"),
    "eventMisspelt": (("--service", "/ws=rooms:Misspelt"), "onTextMesage"),
    "pathTwice": (("--service", "/ws=demo", "--service", "/ws=demo"), "/ws"),
    "pathMalformed": (("--service", "/ws/{room=demo"), "{room"),
    "serviceMalformed": (("--service", "demo"), "PATH=TARGET"),
    "noToml": (("--config", "broken.toml"), "line 1"),
    "tomlNested": (("--config", "nested.toml"), "nested.toml"),
    "tomlMissing": (("--config", "none.toml"), "none.toml"),
    "tomlNotText": (("--config", "latin.toml"), "UTF-8"),
    "keyUnknown": (
        ("--config", "unknown.toml"),
        "unknown.toml: max-mesage-size is not a setting: did you mean max-message-size?",
    ),
    "limitUnknown": (("--config", "limit.toml"), "did you mean limits.bodyDeadline?"),
    "keyOfWrongType": (("--config", "type.toml"), "port"),
    "optionsOfClass": (("--config", "options.toml"), "colour"),
    "openToEverybody": (("--broadcast-interface", "0.0.0.0"), "--api-key-file"),
    "openToEverybodyByEndpoint": (("--broadcast-port", "tcp:0"), "--api-key-file"),
    "noKeys": (("--api-key-file", "empty"), "empty"),
    "noPasswordFile": (("--auth", "file:none"), "The password file none (--auth) cannot be read"),
    "noKeyFile": (("--api-key-file", "none"), "none"),
    "badEndpoint": (("--listen", "tcp:a:b:c"), "--listen"),
    "unknownEndpoint": (("--listen", "carrier:pigeon"), "--listen"),
    "badPort": (("--port", "70000"), "--port"),
    "badInterface": (("--interface", "nowhere"), "--interface"),
    "noPort": (("--port", "off"), "--port"),
    "badSize": (("--max-message-size", "big"), "--max-message-size"),
    "noSize": (("--max-message-size", "0"), "--max-message-size must be"),
    "badSeconds": (("--ping-interval", "soon"), "--ping-interval"),
    "badSwitch": (("--compression", "yes"), "on or off"),
    "badChoice": (("--tls-minimum", "1.1"), "1.2 or 1.3"),
    "badOrigin": (("--allowed-origin", "app.example"), "app.example"),
    "engineUnknown": (("--engine", "redas://127.0.0.1"), "redis:"),
    "enginePasswordInSight": (("--engine", "redis://:word@127.0.0.1"), "--engine-password-file"),
    "enginePasswordMissing": (("--engine", "redis://127.0.0.1", "--engine-password-file", "none"), "none"),
    "badProxy": (("--trusted-proxy", "10.0.0.0/99"), "10.0.0.0/99"),
}
RUNNERS = {"twistd": TWISTD, "twisted-ws": COMMAND, "daemon": DAEMON, "twist": TWIST}
# Each mistake is found by the same code under every runner; what a runner does with it is tried with these.
EVERYWHERE = (
    "portTaken",
    "endpointTaken",
    "oneOfOurOwn",
    "certificateMissing",
    "noSuchClass",
    "eventMisspelt",
    "noToml",
    "openToEverybody",
    "noPort",
)


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """Yield a port that is taken, and one that is only bound: free to listen on for who reuses addresses."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        yield {"{taken}": str(taken.getsockname()[1]), "{free}": str(free.getsockname()[1])}


def _filled(text: str, ports: dict[str, str]) -> str:
    for name, port in ports.items():
        text = text.replace(name, port)
    return text


# And with these it is a process that starts anew.
ANEW = ("portTaken", "noToml")


def _tries() -> Iterator[tuple[str, str]]:
    for name in MISTAKES:
        for runner in RUNNERS:
            if runner == "twisted-ws" or name in EVERYWHERE:
                yield name, runner


def _start(place: Path, command: Sequence[str], anew: bool = False) -> subprocess.CompletedProcess[str]:
    if not anew:
        return run(command, PATIENCE, cwd=place, env=environment(place), text=True)
    return subprocess.run(
        command, cwd=place, env=environment(place), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize(("name", "runner"), list(_tries()))
def test_aMistakeIsOneLineAndExitCodeOne(place: Path, ports: dict[str, str], name: str, runner: str) -> None:
    """What is wrong at start is one line on standard error that names it; the process ends with 1, and nothing listens."""
    arguments, wanted = MISTAKES[name]
    # Fixed here, so that it can be seen whether something listens; a mistake's own options come later and win.
    command = [*RUNNERS[runner], *PORTS, *(_filled(each, ports) for each in arguments)]
    done = _start(place, command, anew=name in ANEW)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("twisted_ws: "), done.stderr
    assert _filled(wanted, ports) in done.stderr
    assert "Traceback" not in done.stdout
    if runner == "daemon":
        assert not (place / "twistd.pid").exists()


@pytest.mark.parametrize("runner", ["twistd", "twisted-ws", "twist"])
def test_theEngineDoesNotAnswer(place: Path, ports: dict[str, str], runner: str) -> None:
    """An engine whose server cannot be reached, which takes a while to know, is one line and exit code 1 too."""
    url = _filled("redis://127.0.0.1:{free}?wait=2", ports)
    done = _start(place, [*RUNNERS[runner], *PORTS, "--engine", url], anew=True)
    assert done.returncode == 1, done
    assert done.stderr == f"twisted_ws: The engine's server {url[8:-7]} cannot be reached: Connection refused (--engine).\n"
    assert "Traceback" not in done.stdout


def test_whatListensBeforeTheMistakeIsClosed(place: Path, ports: dict[str, str]) -> None:
    """A port that cannot be had takes back those that were there before it: the process does not stay with half of them."""
    path = place / "half.sock"
    done = _start(
        place, [*TWISTD, *PORTS, "--listen", f"unix:{path}", "--listen", _filled("tcp:{taken}:interface=127.0.0.1", ports)]
    )
    assert done.returncode == 1
    assert not path.exists()


@pytest.mark.parametrize("runner", ["twistd", "twisted-ws", "twist"])
def test_controlCWhileItStarts(place: Path, runner: str) -> None:
    """Ctrl-C before the reactor runs ends the process as a shell expects it, without a traceback."""
    done = _start(place, [*RUNNERS[runner], *PORTS, "--service", "/x=interrupted:Never"])
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert done.stderr == ""


@pytest.mark.parametrize("runner", ["twistd", "daemon", "twist"])
def test_anUnknownOptionUnderARunner(place: Path, runner: str) -> None:
    """An option that does not exist is one line, with the nearest that there is, and not below a page of help."""
    done = _start(place, [*RUNNERS[runner], "--prot", "8080"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "twisted_ws: there is no option --prot: did you mean --port? (see wsservice --help)\n"


@pytest.mark.parametrize("command", [(*COMMAND, "--nonsense"), (*COMMAND, "--port")])
def test_anUnknownOptionIsOneLine(place: Path, command: Sequence[str]) -> None:
    """An option that does not exist, or has no value, is one line and exit code 2."""
    done = _start(place, command)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert command[1].strip("-") in done.stderr
    assert os.path.basename(COMMAND[0]) in done.stderr
