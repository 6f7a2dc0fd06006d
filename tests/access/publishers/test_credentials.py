from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.checkers import AllowAnonymousAccess, FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from twisted_ws.access.publishers.credentials import CheckFailed, Credentials, TooManyFailures, Unauthenticated
from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits

KEY = "0123456789abcdef"


class Checker:
    """Answers as the test says, and remembers what it was asked."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def clock() -> Clock:
    """A fake clock."""
    return Clock()


@pytest.fixture
def keyFile(tmp_path: Path) -> str:
    """A file with one key."""
    path = tmp_path / "keys"
    path.write_text(f"shop: {KEY}\n")
    path.chmod(0o600)
    return str(path)


def basic(user: str = "alice", password: str = "wonder") -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def outcome(deferred: Deferred[KeyHolder]) -> Any:
    """Return what a Deferred has: a name, an exception, or None while it has nothing."""
    results: list[Any] = []
    deferred.addCallbacks(lambda identity: results.append(identity.name), lambda failure: results.append(failure.value))
    return results[0] if results else None


def users(clock: Clock, **passwords: str) -> Credentials:
    database = InMemoryUsernamePasswordDatabaseDontUse()
    for user, password in passwords.items():
        database.addUser(user.encode(), password.encode())
    return Credentials([database], reactor=clock)


def test_none(clock: Clock) -> None:
    """Without keys and checkers, everybody is let in, whatever they send."""
    credentials = Credentials(reactor=clock)
    assert not credentials.requiresCredentials
    assert credentials.challenges == ()
    assert outcome(credentials.check(None, "192.0.2.1")) == ""
    assert outcome(credentials.check("Bearer x", "192.0.2.1")) == ""
    credentials.reload()


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "])
def test_key(keyFile: str, clock: Clock, header: str) -> None:
    """The right key is let in, by its name; the scheme is written in any case."""
    credentials = Credentials(keyFile=keyFile, reactor=clock)
    assert credentials.requiresCredentials
    assert credentials.challenges == ('Bearer realm="broadcast"',)
    assert outcome(credentials.check(header, "192.0.2.1")) == "shop"


@pytest.mark.parametrize("header", [None, "", "Bearer", KEY, f"Token {KEY}", f"Bearer{KEY}", basic(), "Negotiate abc"])
def test_missing(keyFile: str, clock: Clock, header: str | None) -> None:
    """Missing credentials, or those of another scheme, are asked for, and do not count as an attempt."""
    credentials = Credentials(keyFile=keyFile, reactor=clock)
    for _ in range(20):
        error = outcome(credentials.check(header, "192.0.2.1"))
        if header != "Bearer":
            assert isinstance(error, Unauthenticated)
            assert str(error) == "This needs credentials (Authorization: Bearer KEY)."
        else:
            assert isinstance(error, (Unauthenticated, TooManyFailures))


def test_wrongKeys(keyFile: str, clock: Clock) -> None:
    """After ten wrong keys in a minute, an address gets 429 for more; the right key is still let in."""
    credentials = Credentials(keyFile=keyFile, reactor=clock)
    seen = [outcome(credentials.check(f"Bearer {KEY}{i}", "192.0.2.1")) for i in range(12)]
    assert [type(error) for error in seen] == [Unauthenticated] * 10 + [TooManyFailures] * 2
    assert seen[-1].wait == pytest.approx(6)
    assert KEY not in str(seen)
    assert outcome(credentials.check(f"Bearer {KEY}", "192.0.2.1")) == "shop"
    assert isinstance(outcome(credentials.check("Bearer wrong", "192.0.2.2")), Unauthenticated)
    clock.advance(6)
    assert isinstance(outcome(credentials.check("Bearer wrong", "192.0.2.1")), Unauthenticated)


def test_networks(keyFile: str, clock: Clock) -> None:
    """All addresses of one IPv6 /64 share their failures."""
    credentials = Credentials(keyFile=keyFile, reactor=clock)
    for i in range(10):
        outcome(credentials.check("Bearer wrong", f"2001:db8::{i}"))
    assert isinstance(outcome(credentials.check("Bearer wrong", "2001:db8::ffff")), TooManyFailures)
    assert isinstance(outcome(credentials.check("Bearer wrong", "2001:db8:0:1::1")), Unauthenticated)


def test_password(clock: Clock) -> None:
    """The right password is let in, by the user's name; a wrong one, or an unknown user, is not."""
    credentials = users(clock, alice="wonder", bob="builder")
    assert credentials.challenges == ('Basic realm="broadcast", charset="UTF-8"',)
    assert outcome(credentials.check(basic(), "192.0.2.1")) == "alice"
    for wrong in (basic("alice", "wond"), basic("alice", "wonderful"), basic("bob"), basic("eve"), basic("", "")):
        assert isinstance(outcome(credentials.check(wrong, "192.0.2.1")), Unauthenticated)


def test_passwordFile(tmp_path: Path, clock: Clock) -> None:
    """Twisted's password file works, with names and passwords of any script."""
    path = tmp_path / "passwords"
    path.write_bytes("zoë:wörd\n".encode())
    credentials = Credentials([FilePasswordDB(str(path))], reactor=clock)
    assert outcome(credentials.check(basic("zoë", "wörd"), "192.0.2.1")) == "zoë"
    assert isinstance(outcome(credentials.check(basic("zoë", "word"), "192.0.2.1")), Unauthenticated)


def test_colon(clock: Clock) -> None:
    """A password may have colons; a user's name may not (RFC 7617)."""
    assert outcome(users(clock, alice="a:b:").check(basic("alice", "a:b:"), "192.0.2.1")) == "alice"


def test_textDatabase(clock: Clock) -> None:
    """A checker that keeps text, as --auth memory does, is asked in vain and breaks nothing."""
    checker = Checker(None)
    credentials = Credentials([checker], reactor=clock)  # type: ignore[list-item]
    credentials.check(basic(), "192.0.2.1").addErrback(lambda failure: None)
    assert checker.asked[0].checkPassword("wonder")
    assert checker.asked[0].checkPassword(b"wonder")
    assert not checker.asked[0].checkPassword(b"wonderful")


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic YWxpY2U=", "Basic \u00e4", "Basic YWxpY2U6 d29uZGVy"])
def test_malformed(clock: Clock, header: str) -> None:
    """A malformed Basic credential counts as a wrong one."""
    assert isinstance(outcome(users(clock, alice="wonder").check(header, "192.0.2.1")), Unauthenticated)


def test_guessing(clock: Clock) -> None:
    """After ten wrong passwords in a minute, no password from that address is checked for a while, not even the right one."""
    credentials = users(clock, alice="wonder")
    for i in range(10):
        assert isinstance(outcome(credentials.check(basic("alice", str(i)), "192.0.2.1")), Unauthenticated)
    error = outcome(credentials.check(basic(), "192.0.2.1"))
    assert isinstance(error, TooManyFailures)
    assert error.wait == pytest.approx(6)
    assert isinstance(outcome(credentials.check("Basic !", "192.0.2.1")), TooManyFailures)
    assert outcome(credentials.check(basic(), "192.0.2.2")) == "alice"
    clock.advance(6)
    assert outcome(credentials.check(basic(), "192.0.2.1")) == "alice"


def test_guessingSideBySide(clock: Clock) -> None:
    """Passwords that are checked concurrently are charged afterwards, so the average rate holds."""
    waiting: list[Deferred[bytes]] = []

    def later() -> Deferred[bytes]:
        waiting.append(Deferred())
        return waiting[-1]

    credentials = Credentials([Checker(later)], reactor=clock)  # type: ignore[list-item]
    checks = [credentials.check(basic("alice", str(i)), "192.0.2.1") for i in range(30)]
    for each in waiting:
        each.errback(UnauthorizedLogin())
    assert all(isinstance(outcome(check), Unauthenticated) for check in checks)
    error = outcome(credentials.check(basic(), "192.0.2.1"))
    assert isinstance(error, TooManyFailures)
    assert error.wait == pytest.approx(21 * 6)


def test_both(keyFile: str, clock: Clock) -> None:
    """With a key file and a checker, either will do, and both are offered."""
    credentials = Credentials([Checker(succeed(b"alice"))], keyFile, reactor=clock)  # type: ignore[list-item]
    assert len(credentials.challenges) == 2
    assert outcome(credentials.check(basic(), "192.0.2.1")) == "alice"
    assert outcome(credentials.check(f"Bearer {KEY}", "192.0.2.1")) == "shop"


def test_severalCheckers(clock: Clock) -> None:
    """One checker after the other is asked until one knows the user."""
    checkers: list[Any] = [Checker(fail(LoginDenied())), Checker(succeed("bob")), Checker(succeed(b"eve"))]
    credentials = Credentials(checkers, reactor=clock)
    assert outcome(credentials.check(basic(), "192.0.2.1")) == "bob"
    assert [len(checker.asked) for checker in checkers] == [1, 1, 0]


@pytest.mark.parametrize("answer", [RuntimeError("down: secret"), lambda: fail(OSError("down: secret"))])
def test_checkerFails(clock: Clock, answer: Any) -> None:
    """A checker that fails lets nobody in and reveals nothing; the log has a few tracebacks, and no attempt is counted."""
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    credentials = Credentials([Checker(answer)], reactor=clock)  # type: ignore[list-item]
    try:
        errors = [outcome(credentials.check(basic(), "192.0.2.1")) for _ in range(20)]
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert {type(error) for error in errors} == {CheckFailed}
    assert "secret" not in str(errors)
    assert 1 <= len([event for event in events if "log_failure" in event]) <= 10
    assert "wonder" not in str([event["log_format"].format(**event) for event in events])


def test_checkerIsSlow(clock: Clock) -> None:
    """A checker that does not answer in time lets nobody in, and what it says later changes nothing."""
    answer: Deferred[bytes] = Deferred()
    credentials = Credentials([Checker(answer)], limits=Limits(credentialsDeadline=3), reactor=clock)  # type: ignore[list-item]
    check = credentials.check(basic(), "192.0.2.1")
    results: list[Any] = []
    check.addBoth(results.append)
    clock.advance(2)
    assert results == []
    clock.advance(1)
    assert isinstance(results[0].value, CheckFailed)
    answer.callback(b"alice")
    assert len(results) == 1
    assert clock.getDelayedCalls() == []


def test_cancelled(clock: Clock) -> None:
    """A check that is cancelled because the peer has left leaves nothing behind and does not count."""
    credentials = Credentials([Checker(Deferred)], reactor=clock)  # type: ignore[list-item]
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        for _ in range(20):
            check = credentials.check(basic(), "192.0.2.1")
            check.addErrback(lambda failure: None)
            check.cancel()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert events == []
    assert clock.getDelayedCalls() == []
    assert outcome(credentials.check(basic(), "192.0.2.1")) is None


def test_uselessChecker(clock: Clock) -> None:
    """A checker that does not take a user name and password is an operator's mistake, reported at the start."""
    with pytest.raises(ConfigurationError, match=r"^the checker AllowAnonymousAccess does not take a user name and password$"):
        Credentials([AllowAnonymousAccess()], reactor=clock)


def test_reload(keyFile: str, clock: Clock) -> None:
    """Keys can be changed while the server runs; a bad file keeps the old ones."""
    credentials = Credentials(keyFile=keyFile, reactor=clock)
    Path(keyFile).write_text("oops\n")
    with pytest.raises(ConfigurationError):
        credentials.reload()
    assert outcome(credentials.check(f"Bearer {KEY}", "192.0.2.1")) == "shop"
    Path(keyFile).write_text(f"new: {KEY}2\n")
    credentials.reload()
    assert outcome(credentials.check(f"Bearer {KEY}2", "192.0.2.1")) == "new"
    assert isinstance(outcome(credentials.check(f"Bearer {KEY}", "192.0.2.1")), Unauthenticated)


def test_repr(keyFile: str, clock: Clock) -> None:
    """The repr contains no secret."""
    assert repr(Credentials(keyFile=keyFile, reactor=clock)) == '<Credentials Bearer realm="broadcast">'
    assert repr(Credentials(reactor=clock)) == "<Credentials none required>"


def test_ownReactor(keyFile: str) -> None:
    """Without a reactor, the global one is used."""
    assert outcome(Credentials(keyFile=keyFile).check(f"Bearer {KEY}", "192.0.2.1")) == "shop"
