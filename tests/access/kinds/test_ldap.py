"""The options of the authenticator ``ldap``, and answers that no directory gives."""

from __future__ import annotations

import base64
from typing import ClassVar

import pytest
from ldaptor.protocols import pureber, pureldap
from twisted.internet import reactor
from twisted.internet.base import BlockingResolver
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.access.asking.test_exchange import World
from tests.access.kinds.support import SECRET, Host, request, secretFile, settings
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.ldap import MOST_ANSWER, LDAPAuthenticator, LDAPConnection, equals

LOCAL = {"url": "ldap://127.0.0.1", "base": "dc=example"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ldap://ldap.example"}, "in clear text: use ldaps, or start-tls"),
        ({"url": "ldaps://ldap.example", "start_tls": True}, "start-tls is for ldap"),
        ({"url": "http://ldap.example"}, "a URL such as"),
        ({"url": "ldaps://ann:secret@ldap.example"}, "a URL such as"),
        ({"url": "ldaps://ldap.example:x"}, "a URL such as"),
        ({"bind_dn": "cn=admin"}, "belong together"),
        ({"bind_dn": "cn=admin", "password_file": "absent"}, "cannot be read"),
        ({"bind_dn": "cn=admin", "password_file": "empty"}, "is empty"),
        ({"url": "ldaps://ldap.example", "ca_file": "empty"}, "file of authorities .* has"),
        ({"groups": {"staff": 1}}, "a table of lists of scopes by group"),
        ({"password": "secret"}, "password is not an option"),
        ({"deadline": 11}, "deadline must be"),
    ],
)
def test_options(tmp_path, options, message):
    """What is wrong in the configuration is said at the start, above all a password in clear text."""
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigurationError, match=message):
        LDAPAuthenticator(settings(tmp_path, reactor, **{**LOCAL, **options}))


def test_secrets(tmp_path):
    """The password of the search account is in no repr; a broken file changes nothing at a reload."""
    made = LDAPAuthenticator(settings(tmp_path, reactor, **LOCAL, bind_dn="cn=a", password_file=secretFile(tmp_path)))
    assert SECRET not in repr(made)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        made.reload()


class Transport(StringTransport):
    """Notes that it was aborted."""

    aborted = False

    def abortConnection(self):
        self.aborted = True


def connection():
    clock = Clock()
    made = LDAPConnection(clock, 5)
    made.makeConnection(Transport())
    return made, clock


ENDLESS = b"0\x84\x7f\xff\xff\xff" + b"x" * MOST_ANSWER


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n" * 9, b"\x30\x05\x02\x01\x07\x61\x00", ENDLESS])
def test_garbage(data):
    """What is no answer of a directory, or has no end, ends the connection."""
    made, _ = connection()
    made.dataReceived(data)
    assert made.transport.aborted


def test_noAnswer():
    """A search that has no answer in time ends the connection, also if nobody waits for it any more."""
    made, clock = connection()
    search = Deferred.fromCoroutine(made.search("dc=example", equals("uid", b"ann"), "uid", 2))
    search.addErrback(lambda _: None)
    search.cancel()
    clock.advance(5)
    assert made.transport.aborted


_context = pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext())
DECODER = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(fallback=_context, inherit=_context)
)


class Directory(Protocol):
    """A directory that finds an entry with this DN for every search, and believes every bind but that of nobody."""

    binds: ClassVar[list[bytes]] = []
    dn = b""
    names: ClassVar[list[bytes]] = [b"ann"]

    def dataReceived(self, data):
        while data:
            message, length = pureber.berDecodeObject(DECODER, data)
            data = data[length:]
            answers = []
            if isinstance(message.value, pureldap.LDAPBindRequest):
                self.binds.append(bytes(message.value.dn))
                answers = [pureldap.LDAPBindResponse(0)]
            elif isinstance(message.value, pureldap.LDAPSearchRequest):
                found = pureldap.LDAPSearchResultEntry(self.dn, [(b"uid", self.names)])
                answers = [found, pureldap.LDAPSearchResultDone(0)]
            for each in answers:
                self.transport.write(pureldap.LDAPMessage(each, id=message.id).toWire())


@pytest.fixture
def world():
    made = World()
    # Nothing runs the reactor's threads, in which it looks up names, those that are addresses, too.
    before = reactor.nameResolver
    reactor.installResolver(BlockingResolver())
    yield made
    reactor.installNameResolver(before)
    made.close()


def logIn(tmp_path, world, user, dn, *names):
    """Return what becomes of a user whose entry is this."""
    Directory.dn, Directory.binds, Directory.names = dn, [], [*names]
    server = Factory.forProtocol(Directory)
    server.connections = []
    port = world.listen(server).partition("1:")[2].partition("/")[0]
    made = LDAPAuthenticator(settings(tmp_path, world.reactor, url=f"ldap://127.0.0.1:{port}", base="dc=example"))
    made.start(Host())
    world.ends.append(made.stop)
    sent = ("authorization", "Basic " + base64.b64encode(f"{user}:guess".encode()).decode())
    return world.result(made.identify(request(sent)))


@pytest.mark.parametrize(
    ("names", "asked", "user"),
    [
        ([b"ann"], "ANN", "ann"),
        ([b"admin", b"eve"], "eve", "eve"),
        ([b"admin", b"Eve"], "EVE", "Eve"),
        ([b"admin", b"root"], "eve", None),
        ([], "eve", None),
    ],
)
def test_severalNames(tmp_path, world, names, asked, user):
    """Who has added another's name to their own entry is not taken for the other."""
    found = logIn(tmp_path, world, asked, b"uid=eve", *names)
    assert found.status == 401 if user is None else found.user == user


@pytest.mark.parametrize("dn", [b"", b"uid=ann"])
def test_entryWithoutName(tmp_path, world, dn):
    """A user whose entry has no name is not let in: nothing could be proved by a bind with it."""
    found = logIn(tmp_path, world, "ann", dn, b"ann")
    if dn:
        assert found.user == "ann"
        assert Directory.binds == [dn]
    else:
        assert found.status == 401
