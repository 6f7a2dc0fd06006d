"""Files of keys and passwords that have become something else while the server runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.task import Clock

from tests.access.kinds.certificates import DAY, Authority
from tests.access.kinds.support import NOW, SECRET, Host, request, settings
from tests.access.publishers.test_credentials import basic, outcome
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.basic import BasicAuthenticator
from twisted_ws.access.kinds.certificate import RevocationLists
from twisted_ws.access.kinds.passwords import PasswordFile
from twisted_ws.access.publishers.credentials import CheckFailed, Credentials, PasswordDB
from twisted_ws.access.publishers.keys import KeyFile
from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.tokens.keyfiles import KeyFile as TokenKeys
from twisted_ws.access.tokens.keyfiles import publicKeys, secretKeys

AUTHORITY = Authority(begin=datetime.fromtimestamp(NOW, UTC) - DAY)
PUBLIC = AUTHORITY.certificate.public_bytes(Encoding.PEM)

READERS = {
    "secrets": (SecretFile, SECRET.encode()),
    "tokenSecrets": (partial(TokenKeys, read=secretKeys), SECRET.encode()),
    "publicKeys": (partial(TokenKeys, read=publicKeys), PUBLIC),
    "passwords": (PasswordFile, b"ann:" + SECRET.encode()),
    "apiKeys": (KeyFile, SECRET.encode()),
    "revocationLists": (lambda path: RevocationLists(path, lambda: NOW), AUTHORITY.revoke([])),
}


def loop(path):
    os.symlink(path, path)


def huge(path):
    with open(path, "wb") as file:
        file.truncate(10**12)  # without taking room on the disk


SWAPS = {
    "pipe": os.mkfifo,
    "directory": os.mkdir,
    "loop": loop,
    "device": lambda path: os.symlink("/dev/zero", path),
    "terminal": lambda path: os.symlink("/dev/tty", path),
    "nothing": lambda path: None,
    "huge": huge,
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("reader", READERS)
def test_swapped(tmp_path, reader, swap):
    """Whatever stands in a file's place is refused at once when it is read again, and what was read before stays."""
    kind, content = READERS[reader]
    path = tmp_path / "file"
    path.write_bytes(content)
    path.chmod(0o600)
    made = kind(str(path))
    before = repr(vars(made))
    path.unlink()
    SWAPS[swap](path)
    if os.path.lexists(path) and not path.is_symlink():
        path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        made.reload()
    assert repr(vars(made)) == before
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigurationError):
        kind(str(path))


def test_link(tmp_path):
    """A link to a file is followed: secrets that an orchestrator mounts are replaced by another link."""
    for name in "ab":
        (tmp_path / name).write_text(f"{name}-{SECRET}")
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "a")
    made = SecretFile(str(path))
    path.unlink()
    path.symlink_to(tmp_path / "b")
    made.reload()
    assert made.secrets == (f"b-{SECRET}".encode(),)


@pytest.mark.parametrize("swap", ["pipe", "directory", "nothing", "loop", "device"])
def test_twistedsPasswords(tmp_path, swap):
    """Twisted's own file of passwords, which is opened at each login, holds up nobody, and nobody is blamed for it."""
    path = tmp_path / "users"
    path.write_text(f"alice:{SECRET}\n")
    publishers = Credentials([PasswordDB(str(path))], reactor=Clock())
    clients = BasicAuthenticator(settings(tmp_path, checkers=[f"file:{path}"]))
    clients.start(Host(authFailures=1))
    assert outcome(publishers.check(basic("alice", SECRET), "192.0.2.1")) == "alice"
    path.unlink()
    SWAPS[swap](path)
    for _ in range(3):
        assert isinstance(outcome(publishers.check(basic("alice", SECRET), "192.0.2.1")), CheckFailed)
        refused = clients.identify(request(("authorization", basic("alice", SECRET))))
        assert refused.result.value.status == 503
        refused.addErrback(lambda _: None)
