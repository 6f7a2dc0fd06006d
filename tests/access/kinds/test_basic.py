"""User names and passwords of HTTP."""

from __future__ import annotations

import base64

import pytest
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.access.kinds.support import Host, refused, request, secretFile, settings
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.basic import BasicAuthenticator
from twisted_ws.access.kinds.passwords import hashed
from twisted_ws.access.kinds.threads import RUNNING, WAITING, Threads
from twisted_ws.access.refusals import AccessRefused

PASSWORD = "planted-password"
HASHED = hashed(PASSWORD.encode(), b"12345678")


class Pool:
    """Threads of a reactor that work when they are told to."""

    def __init__(self):
        self.work = []

    def callInThreadWithCallback(self, onResult, call):
        self.work.append((onResult, call))

    def do(self):
        while self.work:
            onResult, call = self.work.pop(0)
            try:
                result = call()
            except Exception:
                onResult(False, Failure())
            else:
                onResult(True, result)


class Reactor(Clock):
    """A clock with such threads."""

    def __init__(self):
        super().__init__()
        self.pool = Pool()

    def getThreadPool(self):
        return self.pool

    def callFromThread(self, call, *arguments):
        call(*arguments)


class World:
    """An authenticator with a file of these lines, or with checkers."""

    def __init__(self, directory, *lines, checkers=(), limits=None, **options):
        self.reactor = Reactor()
        if lines:
            options["file"] = secretFile(directory, *lines)
        self.authenticator = BasicAuthenticator(settings(directory, self.reactor, **options), checkers)
        self.host = Host(self.reactor, **(limits or {}))
        self.authenticator.start(self.host)

    def ask(self, user, password, address="192.0.2.1"):
        return self.authenticator.identify(asking(user, password, address))


def asking(user, password, address="192.0.2.1"):
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return request(("authorization", f"Basic {pair}"), peerAddress=address)


def test_file(tmp_path):
    """The file says who may come in with which password and scopes; a browser repeats passwords by itself."""
    world = World(tmp_path, "# comment", f"ann:{PASSWORD}:chat admin", "", f"bob:{PASSWORD}")
    ann = world.ask("ann", PASSWORD)
    assert (ann.user, ann.scopes, ann.isAmbient) == ("ann", {"chat", "admin"}, True)
    assert world.ask("bob", PASSWORD).scopes == frozenset()
    for user, password in (("ann", "guess"), ("eve", PASSWORD), ("ann", ""), ("", PASSWORD), ("", "")):
        refusal = refused(world.authenticator, asking(user, password))
        assert (refusal.status, refusal.message) == (401, "The credentials are wrong.")
        assert dict(refusal.headers)["WWW-Authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize("user", ["a.b", "*", "~me", "\U0001f600" * 128, "*)(uid=*", "a\x00b"])
def test_users(tmp_path, user):
    """A user may have any name of up to 128 characters that has no colon."""
    assert World(tmp_path, f"{user}:{PASSWORD}").ask(user, PASSWORD).user == user
    other = World(tmp_path, f"ann:{PASSWORD}")
    refused(other.authenticator, asking(user, PASSWORD))
    refused(other.authenticator, asking(user + "x" * 129, PASSWORD))


@pytest.mark.parametrize(
    "value", ["Basic", "Basic ", "Basic ?", "Basic YQ", "Basic YW5u", "Basic /zpw", "basic ü", "BASIC " + "A" * 9000]
)
def test_malformed(tmp_path, value):
    """Credentials that are malformed are wrong, and counted."""
    world = World(tmp_path, f"ann:{PASSWORD}", limits={"authFailures": 1})
    assert refused(world.authenticator, request(("authorization", value), peerAddress="192.0.2.1")).status == 401
    assert refused(world.authenticator, asking("ann", PASSWORD)).status == 429


def test_notOurs(tmp_path):
    """Requests without a password are left to others."""
    world = World(tmp_path, f"ann:{PASSWORD}")
    for headers in ((), (("authorization", "Bearer x"),), (("authorization", "Basically"),)):
        assert world.authenticator.identify(request(*headers)) is None


def test_guesses(tmp_path):
    """After some wrong passwords, an address is told to wait, even with the right one; others are not affected."""
    world = World(tmp_path, f"ann:{PASSWORD}", limits={"authFailures": 3})
    for n in range(3):
        assert refused(world.authenticator, asking("ann", f"guess{n}")).status == 401
    assert refused(world.authenticator, asking("ann", PASSWORD)).status == 429
    assert world.ask("ann", PASSWORD, "192.0.2.2").user == "ann"


def test_hashed(tmp_path):
    """A hashed password is checked in a thread, and the answer counts for a while; an unknown user costs as much."""
    world = World(tmp_path, f"ann:{HASHED}:chat", limits={"authFailures": 2})
    waiting = world.ask("ann", PASSWORD)
    assert not waiting.called
    world.reactor.pool.do()
    assert waiting.result.scopes == {"chat"}
    assert world.ask("ann", PASSWORD).user == "ann"  # at once
    world.reactor.advance(60)
    assert isinstance(world.ask("ann", PASSWORD), Deferred)
    world.reactor.pool.do()
    for user in ("ann", "eve"):
        wrong = world.ask(user, "guess")
        assert len(world.reactor.pool.work) == 1
        world.reactor.pool.do()
        assert wrong.result.value.status == 401
        wrong.addErrback(lambda _: None)
    assert refused(world.authenticator, asking("ann", PASSWORD)).status == 429


def test_reload(tmp_path):
    """A password that was changed in the file counts no more after a reload; a broken file changes nothing."""
    world = World(tmp_path, f"ann:{HASHED}")
    world.ask("ann", PASSWORD)
    world.reactor.pool.do()
    secretFile(tmp_path, "ann")
    with pytest.raises(ConfigurationError, match="Line 1 of the password file"):
        world.authenticator.reload()
    assert world.ask("ann", PASSWORD).user == "ann"
    secretFile(tmp_path, "ann:other")
    world.authenticator.reload()
    refused(world.authenticator, asking("ann", PASSWORD))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ann", "must be user:password"),
        (":p", "must be user:password"),
        ("ann:", "must be user:password"),
        ("ann:p:s:t", "must be user:password"),
        (f"{'u' * 129}:p", "must be user:password"),
        (f"ann:{PASSWORD}\nann:{PASSWORD}", "Line 2 .* for the second time"),
        ("ann:$scrypt$00$11", "must have .scrypt"),
        ("# nobody", "has no user"),
    ],
)
def test_badFile(tmp_path, line, message):
    """What is wrong in the file is said with its line, and without a password."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        World(tmp_path, line)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a file, or checkers"),
        ({"checkers": ["nothing:x"]}, "cannot be made"),
        ({"checkers": ["anonymous"]}, "takes no user name and password"),
        ({"checkers": [f"memory:ann:{PASSWORD}"]}, "write it to a file"),
        ({"file": "absent"}, "cannot be read"),
    ],
)
def test_badOptions(tmp_path, options, message):
    """What is wrong in the configuration is said at the start."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        BasicAuthenticator(settings(tmp_path, **options))
    assert PASSWORD not in str(caught.value)


def test_twistedsFile(tmp_path):
    """Twisted's own file of passwords is one of the checkers."""
    (tmp_path / "users").write_text(f"ann:{PASSWORD}\n")
    made = BasicAuthenticator(settings(tmp_path, Reactor(), checkers=[f"file:{tmp_path}/users"]))
    made.start(Host())
    assert made.identify(asking("ann", PASSWORD)).result.user == "ann"
    wrong = made.identify(asking("ann", "guess"))
    assert wrong.result.value.status == 401
    wrong.addErrback(lambda _: None)


@implementer(ICredentialsChecker)
class Checker:
    """A checker that does as it is told."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, answer):
        self.answer = answer

    def requestAvatarId(self, credentials):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_checkersInOrder(tmp_path):
    """The checkers are asked one after the other, the file first; who they say it is counts."""
    known = InMemoryUsernamePasswordDatabaseDontUse(ann=PASSWORD.encode())
    world = World(tmp_path, "bob:file", checkers=[Checker(UnauthorizedLogin()), known, Checker(b"carol")])
    assert world.ask("bob", "file").user == "bob"
    assert world.ask("ann", PASSWORD).result.user == "ann"
    assert world.ask("anybody", "at all").result.user == "carol"


@pytest.mark.parametrize("answer", [RuntimeError(PASSWORD), 7, b"", b"\xff", "u" * 129])
def test_checkerFails(tmp_path, answer):
    """If a checker fails, nobody comes in and nobody is blamed; no password is in the log."""
    world = World(tmp_path, checkers=[Checker(answer)], limits={"authFailures": 1})
    with capturedLogs() as events:
        failed = [world.ask("ann", PASSWORD) for _ in range(3)]
    for each in failed:
        assert each.result.value.status == 503
        each.addErrback(lambda _: None)
    assert PASSWORD not in "".join(f"{formatEvent(each)}{each}" for each in events)
    assert "the authenticator mine failed" in str(formatEvent(events[0]))


def test_slowChecker(tmp_path):
    """A checker that does not answer is given up; so is one whose client has left."""
    cancelled = []
    world = World(tmp_path, checkers=[Checker(Deferred(cancelled.append))])
    waiting = world.ask("ann", PASSWORD)
    world.reactor.advance(10)
    assert waiting.result.value.status == 503
    waiting.addErrback(lambda _: None)
    assert len(cancelled) == 1
    world = World(tmp_path, checkers=[Checker(Deferred(cancelled.append))])
    waiting = world.ask("ann", PASSWORD)
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    assert len(cancelled) == 2


def test_blockingChecker(tmp_path):
    """A checker that blocks is called in a thread."""
    world = World(tmp_path, checkers=[Checker("ann")], threads=True)
    waiting = world.ask("ann", PASSWORD)
    assert not waiting.called
    world.reactor.pool.do()
    assert waiting.result.user == "ann"


def test_manyAtOnce():
    """Some checks run at a time and some wait; more are refused, and those that were given up take no place."""
    reactor = Reactor()
    threads = Threads(reactor)
    results = [threads.run(lambda n=n: n) for n in range(RUNNING + WAITING)]
    assert len(reactor.pool.work) == RUNNING
    with pytest.raises(AccessRefused) as caught:
        threads.run(lambda: None)
    assert caught.value.status == 503
    for each in results[RUNNING:]:
        each.addErrback(lambda _: None)
        each.cancel()
    last = threads.run(lambda: "last")
    reactor.pool.do()
    assert last.result == "last"
    assert [each.result for each in results[:RUNNING]] == list(range(RUNNING))
