"""A real directory: slapd as an ordinary process, on ports of its own."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import signal
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from tests.access.kinds.certificates import DAY, Authority, save
from tests.live.support import PATIENCE
from tests.ports import freePort

ADMIN = "cn=admin,dc=example"
ADMIN_PASSWORD = "planted-admin-password"
SCHEMAS = "/etc/ldap/schema"
MODULES = "/usr/lib/ldap"

_CONFIGURATION = """
include {schemas}/core.schema
include {schemas}/cosine.schema
include {schemas}/inetorgperson.schema
modulepath {modules}
moduleload back_mdb
pidfile {directory}/pid
TLSCACertificateFile {directory}/ca.pem
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.pem
database mdb
suffix "dc=example"
directory {directory}/data
rootdn "{admin}"
rootpw {password}
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{admin}" read by * none
"""

_HEAD = """
dn: dc=example
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example
objectClass: organizationalUnit
ou: groups
"""


class Directory:
    """A directory with users and groups, whose process can be stopped and started.

    Args:
        directory: where it keeps its files.
        users: passwords by user id.
        groups: user ids by group.
    """

    def __init__(self, directory: Path, users: dict[str, str], groups: dict[str, list[str]]) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.plain, self.secure = freePort(), freePort()
        (directory / "data").mkdir(parents=True)
        authority = Authority("Directories", datetime.datetime.now(datetime.UTC) - DAY)
        self.ca = save(directory, "ca.pem", authority.certificate)
        local = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        save(directory, "server.pem", *authority.issue("localhost", *local))
        values = {"schemas": SCHEMAS, "modules": MODULES, "directory": directory, "admin": ADMIN, "password": ADMIN_PASSWORD}
        (directory / "slapd.conf").write_text(_CONFIGURATION.format(**values))
        entries = [_HEAD]
        for user, password in users.items():
            fields = {"dn": _dn(user), "objectClass": "inetOrgPerson", **dict.fromkeys(("uid", "cn", "sn"), user)}
            fields["userPassword"] = password
            # LDIF has text beyond ASCII in base64 (RFC 2849).
            entries.append("".join(f"\n{name}:: {b64encode(value.encode()).decode()}" for name, value in fields.items()) + "\n")
        for group, members in groups.items():
            listed = "\n".join(f"member: {_dn(each)}" for each in members)
            entries.append(f"\ndn: cn={group},ou=groups,dc=example\nobjectClass: groupOfNames\ncn: {group}\n{listed}\n")
        self._run("slapadd", "-f", str(directory / "slapd.conf"), input="".join(entries))

    def _run(self, name: str, *arguments: str, input: str = "") -> None:  # noqa: A002
        command = [_program(name), *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it listens."""
        urls = f"ldap://127.0.0.1:{self.plain} ldaps://127.0.0.1:{self.secure}"
        command = [_program("slapd"), "-f", str(self._directory / "slapd.conf"), "-h", urls, "-d", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        for port in (self.plain, self.secure):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert self._process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


def _dn(user: str) -> str:
    # RFC 4514: these must be escaped in a DN.
    escaped = "".join(f"\\{ord(character):02x}" if character in ',+"\\<>;=*()' else character for character in user)
    return f"uid={escaped},ou=people,dc=example"


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
    assert found is not None, f"{name} is not installed"
    return found


@contextmanager
def directory(path: Path, users: dict[str, str], groups: dict[str, list[str]]) -> Iterator[Directory]:
    """Run a directory."""
    made = Directory(path, users, groups)
    made.start()
    try:
        yield made
    finally:
        made.stop()
