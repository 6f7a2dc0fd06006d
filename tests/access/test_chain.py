"""Authenticators in a row, before any service is asked."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from twisted_ws.access.chain import Chain, Guest, requireScope
from twisted_ws.access.refusals import AccessRefused, unauthorized
from twisted_ws.access.revocations import Revocations
from twisted_ws.engines.contract import Revocation
from twisted_ws.identity import Identity
from twisted_ws.upgrade import Reject, UpgradeRequest

NOW = 1_000_000.0


class Answers:
    """An authenticator that gives one answer."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    def identify(self, request):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def chain(*authenticators, revocations=None):
    named = [(f"a{n}", each) for n, each in enumerate(authenticators)]
    return Chain(named, revocations or Revocations(lambda: NOW), lambda: NOW, lambda kind: True)


ANN = Identity("ann")


def test_theFirstThatKnowsDecides():
    """Authenticators are asked in order until one finds credentials of its kind; the identity has its name."""
    none, ann, bob = Answers(None), Answers(ANN), Answers(Identity("bob"))
    found = chain(none, ann, bob).identify(UpgradeRequest())
    assert (found.user, found.by, none.asked, bob.asked) == ("ann", "a1", 1, 0)


def test_wrongCredentialsNeverMakeAGuest():
    """Credentials that are there and wrong end the search."""
    guest = Answers(Guest().identify(UpgradeRequest()))
    with pytest.raises(AccessRefused) as caught:
        chain(Answers(unauthorized("invalid", "The token is wrong.")), guest).identify(UpgradeRequest())
    assert guest.asked == 0
    assert (caught.value.status, caught.value.reason, caught.value.detail) == (401, "invalid", "by a0")
    assert dict(caught.value.headers)["WWW-Authenticate"] == 'Bearer error="invalid_token", error_description="invalid"'
    assert json.loads(caught.value.body) == {"error": "unauthorized", "reason": "invalid", "message": "The token is wrong."}


def test_withoutCredentials():
    """Whoever has none is told so, without an error code (RFC 6750 section 3.1); with ``guest`` it is nobody."""
    with pytest.raises(AccessRefused) as caught:
        chain(Answers(None)).identify(UpgradeRequest())
    assert (caught.value.status, caught.value.reason) == (401, "missing")
    assert dict(caught.value.headers)["WWW-Authenticate"] == "Bearer"
    assert chain(Answers(None), Guest()).identify(UpgradeRequest()).isGuest


@pytest.mark.parametrize("expiresAt", [NOW, NOW - 1, 0, float("-inf")])
def test_expired(expiresAt):
    """An identity that has expired is refused, wherever it comes from."""
    with pytest.raises(AccessRefused) as caught:
        chain(Answers(Identity("ann", expiresAt=expiresAt))).identify(UpgradeRequest())
    assert caught.value.reason == "expired"


@pytest.mark.parametrize(
    ("identity", "isRevoked"),
    [
        (Identity("ann", tokenId="t1", issuedAt=NOW), True),
        (Identity("bob", tokenId="t2", issuedAt=NOW - 101), True),
        (Identity("bob"), True),
        (Identity("bob", issuedAt=NOW - 100), False),
        (Identity("ann", tokenId="t3"), False),
        (Identity("t1"), False),
    ],
)
def test_revoked(identity, isRevoked):
    """A token is revoked by its id, or by its user and when it was issued."""
    revocations = Revocations(lambda: NOW)
    revocations.add(Revocation("t1", None, 0, NOW + 10))
    revocations.add(Revocation(None, "bob", NOW - 100, NOW + 10))
    asked = chain(Answers(identity), revocations=revocations)
    if isRevoked:
        with pytest.raises(AccessRefused, match="revoked"):
            asked.identify(UpgradeRequest())
    else:
        assert asked.identify(UpgradeRequest()).user == identity.user


def test_clockIsSetAheadAndBack():
    """What is revoked stays so when the wall clock was set ahead and is set back, whatever is revoked meanwhile."""
    wall, steady = [NOW], [0.0]
    revocations = Revocations(lambda: wall[0], lambda: steady[0])
    revocations.add(Revocation("t1", None, 0, NOW + 100))
    revocations.add(Revocation(None, "ann", NOW, NOW + 100))
    wall[0] += 10_000
    for number in range(20):
        steady[0] += 1
        revocations.add(Revocation(f"n{number}", f"u{number}", NOW, wall[0] + 5))
    wall[0] -= 10_000
    assert revocations.covers(Identity("bob", tokenId="t1"))
    assert revocations.covers(Identity("ann"))
    for _ in range(50):
        wall[0] += 10_000
        steady[0] += 10_000
        revocations.add(Revocation("t2", None, 0, wall[0] + 5))
    assert len(revocations) == 1


def test_revocationsEnd():
    """A revocation that has ended covers nothing, and is forgotten as others come."""
    now = [NOW]
    revocations = Revocations(lambda: now[0])
    for number in range(100):
        revocations.add(Revocation(f"t{number}", f"u{number}", NOW, NOW + number))
    now[0] += 200
    assert not revocations.covers(Identity("u99", tokenId="t99"))
    for number in range(50):
        revocations.add(Revocation(f"n{number}", None, 0, now[0] + 10))
    assert len(revocations) == 50


@pytest.mark.parametrize("header", ["Bearer x", "Basic eDp5", "Negotiate x", ""])
def test_unknownCredentials(header):
    """Credentials of a kind that nobody reads make no guest either."""
    with pytest.raises(AccessRefused) as caught:
        chain(Answers(None), Guest()).identify(UpgradeRequest(headers=(("authorization", header),)))
    assert (caught.value.status, caught.value.reason) == (401, "invalid")


def test_later():
    """An authenticator may answer later; those after it are asked then, and what it raises refuses."""
    first: Deferred[object] = Deferred()
    results = []
    chain(Answers(first), Answers(ANN)).identify(UpgradeRequest()).addBoth(results.append)
    assert results == []
    first.callback(None)
    assert results[0].user == "ann"
    refused = chain(Answers(refusing := Deferred()), Answers(ANN)).identify(UpgradeRequest())
    refusing.errback(unauthorized("invalid", "No."))
    refused.addBoth(results.append)
    assert results[1].check(AccessRefused)


def test_cancelled():
    """When the client has left, what an authenticator waits for is cancelled, and nothing is logged."""
    cancelled = []
    waiting: Deferred[object] = Deferred(cancelled.append)
    asked = chain(Answers(waiting)).identify(UpgradeRequest())
    results = []
    asked.addBoth(results.append)
    asked.cancel()
    assert cancelled == [waiting]
    assert results[0].check(CancelledError)


@pytest.mark.parametrize("answer", [ValueError("secret"), "ann", 5, {"user": "ann"}])
def test_anAuthenticatorFails(answer):
    """What fails in an authenticator is a 500 that tells the client nothing, and a line in the log."""
    with capturedLogs() as events, pytest.raises(Reject) as caught:
        chain(Answers(answer), Guest()).identify(UpgradeRequest())
    assert (caught.value.status, caught.value.body) == (500, "Internal server error.")
    assert [(event["by"], event["log_failure"].type) for event in events] == [
        ("a0", type(answer) if isinstance(answer, BaseException) else TypeError)
    ]


def test_scopes():
    """One of the scopes that a service requires is enough; without any of them it is a 403 that names them."""
    requireScope(ANN, frozenset())
    requireScope(Identity("ann", scopes=frozenset({"chat", "x"})), frozenset({"chat", "admin"}))
    with pytest.raises(AccessRefused) as caught:
        requireScope(Identity("ann", scopes=frozenset({"x"})), frozenset({"chat", "admin"}))
    assert caught.value.status == 403
    assert dict(caught.value.headers)["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="admin chat"'
