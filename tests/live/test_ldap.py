"""The authenticator ``ldap`` in a real daemon, with a real directory."""

from __future__ import annotations

import base64
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.directory import ADMIN, ADMIN_PASSWORD, Directory, directory
from tests.live.support import Running, running, until, writeService
from tests.live.test_access import SERVICE, said, streams

PASSWORD = "planted-password"
USERS = dict.fromkeys(("ann", "bob", "a.b", "a*", "a(b)", "~me", "lämp"), PASSWORD)
USERS["empty"] = "x"
GROUPS = {"staff": ["ann", "bob"], "admins": ["ann"]}

CONFIGURATION = """
[limits]
authFailures = 1000
[authenticators.plain]
type = "ldap"
url = "ldap://127.0.0.1:{plain}"
cache = 0
deadline = 2
{common}
groups = {{ staff = ["chat", "read"], admins = "admin" }}
[authenticators.wrong]
type = "ldap"
url = "ldap://127.0.0.1:{plain}"
base = "dc=example"
bind-dn = "cn=admin,dc=example"
password-file = "wrong"
[authenticators.tls]
type = "ldap"
url = "ldaps://localhost:{secure}"
ca-file = "{ca}"
{common}
[authenticators.start]
type = "ldap"
url = "ldap://127.0.0.1:{plain}"
start-tls = true
ca-file = "{ca}"
{common}
[authenticators.stranger]
type = "ldap"
url = "ldaps://localhost:{secure}"
{common}
[authenticators.injected]
type = "ldap"
url = "ldap://127.0.0.1:{plain}"
start-tls = true
{common}
[services]
"/plain" = {{ target = "rooms:Who", authenticate = ["plain"] }}
"/channels/{{channel}}" = {{ target = "channels", authenticate = ["plain"] }}
"/tls" = {{ target = "rooms:Who", authenticate = ["tls"] }}
"/start" = {{ target = "rooms:Who", authenticate = ["start"] }}
"/stranger" = {{ target = "rooms:Who", authenticate = ["stranger"] }}
"/wrong" = {{ target = "rooms:Who", authenticate = ["wrong"] }}
"/injected" = {{ target = "rooms:Who", authenticate = ["injected"] }}
[channels."*"]
subscribe = "users"
"""
COMMON = f"""
bind-dn = "{ADMIN}"
password-file = "password"
base = "ou=people,dc=example"
user-class = "inetOrgPerson"
group-base = "ou=groups,dc=example"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ldap-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def slapd(place: Path) -> Iterator[Directory]:
    with directory(place / "slapd", USERS, GROUPS) as found:
        yield found


@pytest.fixture(scope="module")
def server(place: Path, slapd: Directory) -> Iterator[Running]:
    writeService(place, SERVICE)
    (place / "password").write_text(f"{ADMIN_PASSWORD}\n")
    (place / "password").chmod(0o600)
    (place / "wrong").write_text("not the password")
    values = {"plain": slapd.plain, "secure": slapd.secure, "ca": slapd.ca, "common": COMMON}
    (place / "ws.toml").write_text(CONFIGURATION.format(**values))
    with running(place, "--config", "ws.toml") as server:
        yield server
        for secret in (PASSWORD, ADMIN_PASSWORD):
            assert secret not in server.output


def come(server: Running, user: str, password: str, path: str = "/plain") -> str:
    """Return what a client hears with this password, or its status."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return said(lambda: server.client(path, additional_headers={"Authorization": f"Basic {value}"}))


def test_logins(server: Running) -> None:
    """The right password of a user opens WebSockets and event streams, with the scopes of the user's groups."""
    assert come(server, "ann", PASSWORD) == "ann ['admin', 'chat', 'read']"
    assert come(server, "bob", PASSWORD) == "bob ['chat', 'read']"
    assert streams(server, "-u", f"ann:{PASSWORD}") == "200"
    assert streams(server, "-u", "ann:guess") == "401"
    assert come(server, "ann", "guess") == "401"
    assert come(server, "nobody", PASSWORD) == "401"


@pytest.mark.parametrize("user", ["ann", "nobody", ADMIN, ""])
def test_emptyPassword(server: Running, user: str) -> None:
    """An empty password is refused, whatever the directory would say of it."""
    assert come(server, user, "") == "401"


@pytest.mark.parametrize(
    "user", ["*", "a*n", "an*", "ann)(uid=*", "*)(|(uid=*", "ann\x00", "\\61nn", "a" * 128, "\U0001f600" * 128, "ann,ou=people"]
)
def test_injection(server: Running, user: str) -> None:
    """A user name means itself, whatever it would mean in a filter or a DN."""
    assert come(server, user, PASSWORD) == "401"


@pytest.mark.parametrize("user", ["a.b", "a*", "a(b)", "~me", "lämp"])
def test_users(server: Running, user: str) -> None:
    """Users with such names can log in as everybody else."""
    assert come(server, user, PASSWORD) == f"{user} []"


def test_oneUser(server: Running) -> None:
    """The directory does not care for case; the user has one name all the same."""
    assert come(server, "ANN", PASSWORD).startswith("ann ")


@pytest.mark.parametrize("path", ["/tls", "/start"])
def test_TLS(server: Running, path: str) -> None:
    """Over TLS, from the first byte or after StartTLS, it is the same; without a table, groups are scopes."""
    assert come(server, "ann", PASSWORD, path) == "ann ['admins', 'staff']"
    assert come(server, "ann", "guess", path) == "401"


@pytest.mark.parametrize("path", ["/stranger", "/injected"])
def test_stranger(server: Running, path: str) -> None:
    """A directory whose certificate nobody vouches for gets no password."""
    assert come(server, "ann", PASSWORD, path) == "503"


def test_wrongAccount(server: Running) -> None:
    """If the account that searches has another password, no user is blamed, and the log says what the directory says."""
    assert come(server, "ann", PASSWORD, "/wrong") == "503"
    server.waitFor("the authenticator wrong failed with DirectoryError result code 49")


def test_cache(server: Running, slapd: Directory) -> None:
    """A right password counts for a minute, even while the directory is away; anything else is unavailable meanwhile."""
    assert come(server, "bob", PASSWORD, "/tls") == "bob ['staff']"
    slapd.stop()
    try:
        assert come(server, "bob", PASSWORD, "/tls") == "bob ['staff']"
        assert come(server, "bob", "guess", "/tls") == "503"
        assert come(server, "bob", PASSWORD) == "503"
    finally:
        slapd.start()
    assert come(server, "bob", PASSWORD) == "bob ['chat', 'read']"


def test_hangs(server: Running, slapd: Directory) -> None:
    """A directory that hangs is waited for until the deadline; when it goes on, so does everything."""
    assert come(server, "bob", PASSWORD) == "bob ['chat', 'read']"
    slapd.signal(signal.SIGSTOP)
    try:
        assert come(server, "bob", PASSWORD) == "503"
    finally:
        slapd.signal(signal.SIGCONT)
    until(lambda: come(server, "bob", PASSWORD) == "bob ['chat', 'read']")
