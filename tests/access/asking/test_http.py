from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tests.access.asking.support import Server, outcome, turns
from tests.access.kinds.support import NOW, SECRET, Host, request, secretFile, settings
from twisted_ws.access.asking.http import HTTPAuthenticator
from twisted_ws.access.asking.introspection import IntrospectionAuthenticator
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import Identity

URL = "http://127.0.0.1:8000/push/whoami"
PLANTED = "planted-session-0123456789"
COOKIE = ("cookie", f"sessionid={PLANTED}")


class World:
    """The authenticator, a back end that answers by hand, and a clock."""

    kind = HTTPAuthenticator

    def __init__(self, tmp_path, **options):
        self.clock = Clock()
        self.server = Server()
        self.host = Host(self.clock)
        options = {"url": URL, **options}
        make = self.server.making(self.clock)
        self.authenticator = self.kind(settings(tmp_path, self.clock, **options), lambda: NOW + self.clock.seconds(), make)
        self.authenticator.start(self.host)

    def identify(self, *headers, **options):
        return self.authenticator.identify(request(*(headers or (COOKIE,)), **options))

    def said(self, answer, status=200, headers=(COOKIE,), **options):
        """Return what the authenticator makes of an answer."""
        found = self.identify(*headers, **options)
        self.server.reply(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        return outcome(found)

    @property
    def asked(self):
        return len(self.server.questions)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def refusal(call):
    with pytest.raises(AccessRefused) as caught:
        raise outcome(call())
    return caught.value


def test_aUser(world):
    """The back end says who a visitor is, what they may, and for how long."""
    answer = {
        "user": "ann",
        "grants": {"subscribe": ["users.ann.*"], "publish": ["typing.42"]},
        "scopes": ["chat"],
        "info": {"name": "Ann"},
        "expires": 3600,
        "theme": "dark",
    }
    found = world.said(answer)
    assert (found.user, [*found.subscribe], [*found.publish]) == ("ann", ["users.ann.*"], ["typing.42"])
    assert (found.scopes, found.info, found.expiresAt) == ({"chat"}, {"name": "Ann"}, NOW + 3600)
    assert found.claims["theme"] == "dark"
    assert world.said({"user": 7}, headers=(("cookie", "a=b"),)).user == "7"  # a primary key


@pytest.mark.parametrize(("session", "tokenId"), [("x7", "x7"), (7, "7"), (None, None)])
def test_ids(world, session, tokenId):
    """The back end may name the session, so that it can be revoked alone."""
    assert world.said({"user": "ann", "session": session}).tokenId == tokenId


@pytest.mark.parametrize(("status", "answer"), [(204, b""), (200, {"user": ""}), (200, {"user": None})])
def test_aGuest(world, status, answer):
    """A back end that knows nobody but lets them in says so."""
    assert world.said(answer, status).isGuest


@pytest.mark.parametrize(
    ("status", "expected"), [(401, 401), (403, 403), (200, 503), (302, 503), (404, 503), (500, 503), (429, 503)]
)
def test_refusals(world, status, expected):
    """401 and 403 refuse; all else that is not an identity means that nobody knows, which is temporary."""
    assert world.said(b"<html>planted-body", status).status == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        {},
        {"user": ["ann"]},
        {"user": True},
        {"user": "x" * 129},
        {"user": "ann", "grants": ["a"]},
        {"user": "ann", "grants": {"subscribe": ["a..b"]}},
        {"user": "ann", "grants": {"subscribe": "a"}},
        {"user": "ann", "expires": NOW + 60},  # a time, where seconds are meant: it would never end
        {"user": "ann", "expires": -1},
        {"user": "ann", "scopes": [1]},
        {"user": "ann", "session": ""},
        {"user": "ann", "session": "x" * 257},
        b"[" * 60_000,
        b'{"user": "\xff"}',
    ],
)
def test_answersThatCannotBeUsed(world, answer):
    """A mistake of the back end lets nobody in; the log says what is wrong."""
    with capturedLogs() as events:
        assert world.said(answer).status == 503
    assert any("cannot be used" in each.get("reason", "") for each in events)


def test_whatIsForwarded(tmp_path):
    """Credentials and the named headers are forwarded, with address and path; the query, which may have tokens, is not."""
    world = World(tmp_path, forward=["X-Tenant"])
    world.identify(
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-tenant", "t"),
        ("x-other", "o"),
        target="/chat?token=planted",
        peerAddress="192.0.2.1",
    )
    (question,) = world.server.questions
    assert (question.method, question.url) == ("GET", URL)
    assert dict(question.headers) == {
        "cookie": "a=1; b=2",
        "x-tenant": "t",
        "x-forwarded-for": "192.0.2.1",
        "x-original-uri": "/chat",
        "accept": "application/json",
    }


def test_tokenOfAPage(world):
    """A token that a page offers as a subprotocol reaches the back end as a header does; one that no header can have, as none."""
    asked = request()
    for token, sent in (("opaque", "Bearer opaque"), ("a\r\nx: y", "Bearer ")):
        asked.bearer = token
        world.authenticator.identify(asked)
        assert dict(world.server.questions[-1].headers)["authorization"] == sent


def test_noneOfItsCredentials(world):
    """A request without a cookie, a token or a named header is left to the next authenticator, and nobody is asked."""
    assert world.identify(("x-other", "o")) is None
    assert world.asked == 0


@pytest.mark.parametrize(
    ("headers", "isAmbient"),
    [
        ([COOKIE], True),
        ([("authorization", "Bearer x")], False),
        ([("authorization", "Basic x")], True),
        ([COOKIE, ("authorization", "Bearer x")], True),  # the back end may have looked at either
    ],
)
def test_ambient(world, headers, isAmbient):
    """What a browser sends by itself counts as such whenever it may have decided."""
    assert world.said({"user": "ann"}, headers=headers).isAmbient is isAmbient


def test_oneQuestionForAll(world):
    """Visitors with the same credentials cost one question, and none for ten seconds."""
    found = [world.identify() for _ in range(500)]
    world.server.reply(body=b'{"user": "ann"}')
    turns(world.clock, 100)
    assert {outcome(each).user for each in found} == {"ann"}
    assert world.identify().user == "ann"
    assert world.asked == 1
    world.clock.advance(10)
    assert isinstance(world.identify(), Deferred)


@pytest.mark.parametrize("other", [{"target": "/admin"}, {"peerAddress": "192.0.2.9"}])
def test_otherQuestions(world, other):
    """What was said for one path and address does not count for another: the back end may decide by them."""
    world.said({"user": "ann"})
    assert isinstance(world.identify(COOKIE, **other), Deferred)


def test_anAnswerEndsWithTheSession(world):
    """An answer is kept no longer than the session that it is about."""
    world.said({"user": "ann", "expires": 2})
    world.clock.advance(2)
    assert isinstance(world.identify(), Deferred)


def test_refusalsAreKeptForASecond(world):
    """A client that comes again at once with what was refused costs no question; after a second it is asked again."""
    assert world.said(b"", 401).reason == "invalid"
    assert refusal(world.identify).status == 401
    assert world.asked == 1
    world.clock.advance(1)
    assert isinstance(world.identify(), Deferred)


def test_guessing(world):
    """Different wrong credentials from one address are counted, and at last not looked at; the same ones count once."""
    for _ in range(30):
        assert world.said(b"", 401).status == 401
        world.clock.advance(1)
    for n in range(10):
        found = world.identify(("cookie", f"s={n}"))
        world.server.reply(401)
        outcome(found)
    asked = world.asked
    assert refusal(lambda: world.identify(("cookie", "s=x"))).status == 429
    assert world.asked == asked
    assert isinstance(world.identify(("cookie", "s=x"), peerAddress="192.0.2.9"), Deferred)


def test_unavailable(world):
    """While the back end is away clients are told when to come again, and the log says why; nothing old is used."""
    world.said({"user": "ann"})
    world.clock.advance(10)
    for _ in range(5):
        assert world.said(b"", 500).status == 503
    found = refusal(world.identify)
    assert (found.status, dict(found.headers)["Retry-After"]) == (503, "2")
    assert "for a while" in found.detail


def test_staleIfError(tmp_path):
    """If the operator has said so, whoever was known goes on while the back end is away."""
    world = World(tmp_path, stale_if_error=60)
    world.said({"user": "ann"})
    world.clock.advance(11)
    assert world.said(b"", 500).user == "ann"


def test_aClientThatLeaves(world):
    """A client that leaves takes nothing from others with the same credentials."""
    first, second = world.identify(), world.identify()
    first.cancel()
    assert isinstance(outcome(first), CancelledError)
    world.server.reply(body=b'{"user": "ann"}')
    assert outcome(second).user == "ann"


def test_signature(tmp_path):
    """With a secret each question is signed, so that the back end knows who asks; the first secret of the file counts."""
    world = World(tmp_path, secret_file=secretFile(tmp_path, SECRET, SECRET[::-1]), url=f"{URL}?x=1")
    world.identify()
    signature = dict(world.server.questions[0].headers)["Twisted-WS-Signature"]
    expected = hmac.new(SECRET.encode(), f"{NOW:.0f}.GET./push/whoami?x=1.".encode(), hashlib.sha256).hexdigest()
    assert signature == f"t={NOW:.0f},v1={expected}"


def may(world, user, subscribe=(), publish=()):
    return Deferred.fromCoroutine(world.authenticator.may(Identity(user), subscribe, publish))


@pytest.fixture
def asking(tmp_path):
    return World(tmp_path, channels_url="http://127.0.0.1:8000/push/may")


def test_channelsInOneQuestion(asking):
    """What is asked about a user within one turn is one question, and for ten seconds there is none."""
    first, second = may(asking, "ann", ["a", "b"], ["a"]), may(asking, "ann", ["b", "c"])
    assert asking.asked == 0
    turns(asking.clock)
    (question,) = asking.server.questions
    assert json.loads(question.body) == {"user": "ann", "subscribe": ["a", "b", "c"], "publish": ["a"]}
    asking.server.reply(body=b'{"subscribe": ["b", "z"], "publish": ["a"]}')
    assert outcome(first) == ({"b"}, {"a"})
    assert outcome(second) == ({"b"}, set())
    again = may(asking, "ann", ["a", "b", "c"])
    assert outcome(again) == ({"b"}, set())
    other = may(asking, "bob", ["b"])
    turns(asking.clock)
    assert json.loads(asking.server.questions[1].body)["user"] == "bob"
    asking.server.reply(403)
    assert outcome(other) == (set(), set())
    asking.clock.advance(10)
    may(asking, "ann", ["a"])
    turns(asking.clock)
    assert asking.asked == 3


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"<html>"), (302, b""), (200, b'{"subscribe": "a"}')])
def test_channelsUnavailable(asking, status, body):
    """While the back end cannot say, nothing is allowed and nothing kept."""
    found = may(asking, "ann", ["a", "b"], ["a"])
    turns(asking.clock)
    asking.server.reply(status, body)
    assert outcome(found).status == 503
    may(asking, "ann", ["a"])
    turns(asking.clock)
    assert asking.asked == 2


def test_channelsOfWhoLeaves(asking):
    """A question that nobody waits for any more is not asked."""
    found = may(asking, "ann", ["a"])
    found.cancel()
    outcome(found)
    turns(asking.clock)
    assert asking.asked == 0


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://127.0.0.1/"},
        {"url": "http://user:planted@127.0.0.1/"},
        {"url": "http:///x"},
        {"url": "http://127.0.0.1:x/"},
        {"url": "http://127.0.0.1/ x"},
        {"forward": ["Host"]},
        {"forward": ["a b"]},
        {"cache": -1},
        {"stale_if_error": 301},
        {"misspelt": 1},
        {"secret_file": "missing"},
    ],
)
def test_options(tmp_path, options):
    """A wrong option is refused at the start, and no password is repeated."""
    with pytest.raises(ConfigurationError) as caught:
        World(tmp_path, **options)
    assert "planted" not in str(caught.value)


class Tokens(World):
    """The same for tokens."""

    kind = IntrospectionAuthenticator

    def __init__(self, tmp_path, **options):
        file = secretFile(tmp_path, "planted s:cret+0123456789")
        super().__init__(tmp_path, **{"client": "push:1", "client_secret_file": file, **options})

    def identify(self, *headers, **options):
        return super().identify(*(headers or (("authorization", f"Bearer {PLANTED}"),)), **options)

    def said(self, answer, status=200, headers=(), **options):
        return super().said(answer, status, headers, **options)


@pytest.fixture
def tokens(tmp_path):
    return Tokens(tmp_path)


def test_introspection(tokens):
    """The issuer says whose token it is, with the scopes, and until when (RFC 7662); the client shows its secret (RFC 6749)."""
    found = tokens.said({"active": True, "sub": "ann", "scope": "chat read", "exp": NOW + 30, "iat": NOW - 1, "jti": "j"})
    assert (found.user, found.scopes, found.expiresAt, found.issuedAt, found.tokenId) == (
        ("ann", {"chat", "read"}, NOW + 30, NOW - 1, "j")
    )
    (question,) = tokens.server.questions
    assert question.method == "POST"
    assert question.body == f"token={PLANTED}&token_type_hint=access_token".encode()
    assert dict(question.headers)["authorization"] == "Basic cHVzaCUzQTE6cGxhbnRlZCtzJTNBY3JldCUyQjAxMjM0NTY3ODk="
    tokens.clock.advance(29)
    assert tokens.identify().user == "ann"
    tokens.clock.advance(1)
    assert isinstance(tokens.identify(), Deferred)


def test_introspectionIsKeptForAMinute(tokens):
    """A token that is revoked there goes on for a minute at most, however long it lives."""
    tokens.said({"active": True, "username": "ann", "exp": NOW + 9000})
    tokens.clock.advance(59)
    assert tokens.identify().user == "ann"
    tokens.clock.advance(1)
    assert isinstance(tokens.identify(), Deferred)


@pytest.mark.parametrize(
    "answer",
    [
        {"active": False, "sub": "ann"},
        {"active": True},
        {"active": True, "sub": ""},
        {"active": True, "sub": "x" * 129},
        {"active": True, "sub": "ann", "exp": NOW},
    ],
)
def test_inactiveTokens(tokens, answer):
    """A token that does not count, or says nothing of a user, is refused, and charged to the address."""
    assert (tokens.said(answer).status, refusal(tokens.identify).status) == (401, 401)
    assert tokens.asked == 1


def test_audience(tmp_path):
    """With an audience, tokens for another one are refused."""
    tokens = Tokens(tmp_path, audience="push")
    assert tokens.said({"active": True, "sub": "ann", "aud": ["shop"]}).status == 401
    tokens.clock.advance(1)
    assert tokens.said({"active": True, "sub": "ann", "aud": ["shop", "push"]}).user == "ann"


@pytest.mark.parametrize(
    ("status", "answer"), [(401, b""), (500, b""), (200, b"x"), (200, {"active": "yes"}), (200, {"active": True, "exp": 1e300})]
)
def test_introspectionUnavailable(tokens, status, answer):
    """If the issuer does not know us, or cannot say, the visitor is told to come again, and not blamed."""
    assert tokens.said(answer, status).status == 503
    tokens.host.failures.check("127.0.0.1")


@pytest.mark.parametrize(
    ("make", "status"), [(World, 401), (World, 403), (World, 500), (World, 200), (Tokens, 200), (Tokens, 500)]
)
def test_secretsStayHere(tmp_path, make, status):
    """No credential and nothing that a back end has said stands in a log, a repr or a refusal."""
    with capturedLogs() as events:
        world = make(tmp_path)
        refused = world.said(b'{"planted": "planted"', status)
    shown = [repr(world.authenticator), repr(world.server.questions), repr(refused), refused.body, refused.summary]
    shown += [repr({name: value for name, value in each.items() if name != "log_source"}) for each in events]
    assert not [each for each in shown if "planted" in each]
