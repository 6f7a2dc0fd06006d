"""Tickets: who makes them, and that each opens one connection."""

from __future__ import annotations

import base64
import hmac
import json
import os

import jwt
import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent

from tests.access.kinds.support import NOW, SECRET, Host, refused, request, secretFile, settings
from tests.memory import SteadyClock
from twisted_ws import ConfigurationError, WebSocketServer, WebSocketService
from twisted_ws.access.kinds.ticket import TicketAuthenticator
from twisted_ws.client import HandshakeRefused
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ChannelError
from twisted_ws.testing import serve


def made(directory, **options):
    options.setdefault("secret_file", secretFile(directory))
    found = TicketAuthenticator(settings(directory, **options), lambda: NOW)
    found.host = Host()
    found.start(found.host)
    return found


@pytest.fixture
def tickets(tmp_path):
    return made(tmp_path)


CLAIMS = {"aud": "twisted-ws-ticket", "sub": "ann", "iat": NOW, "exp": NOW + 60, "jti": "one"}


def sign(claims=None, secret=SECRET, header=None, **more):
    """Make a token as PyJWT does."""
    return jwt.encode({**(CLAIMS if claims is None else claims), **more}, secret, "HS256", header)


def asking(token):
    return request(target=f"/ws?ticket={token}")


def test_ofPyJWT(tickets):
    """A ticket that another library made is taken; its claims are the identity's."""
    claims = {"twisted_ws": {"subscribe": ["orders.*"], "publish": ["typing"], "info": {"name": "Ann"}}, "scope": "chat admin"}
    found = tickets.identify(asking(sign(**claims, expire_at=NOW + 3600)))
    assert found.user == "ann"
    assert (list(found.subscribe), list(found.publish), found.info) == (["orders.*"], ["typing"], {"name": "Ann"})
    assert found.scopes == {"chat", "admin"}
    assert (found.tokenId, found.issuedAt, found.claims["jti"]) == ("one", NOW, "one")
    assert (found.expiresAt, found.isAmbient) == (NOW + 3600 + 10, False)


def test_ofOurOwn(tickets):
    """A ticket that is made here is read by another library, lives for a minute, and the connection does not end with it."""
    token, seconds = tickets.issue("ann", subscribe=["orders.*"], info=[1], scopes=["chat"])
    claims = jwt.decode(
        token, SECRET, ["HS256"], audience="twisted-ws-ticket", options={"verify_exp": False, "verify_iat": False}
    )
    assert seconds == 60
    assert {**claims, "jti": ""} == {
        "aud": "twisted-ws-ticket",
        "sub": "ann",
        "iat": NOW,
        "exp": NOW + 60,
        "jti": "",
        "scope": "chat",
        "twisted_ws": {"subscribe": ["orders.*"], "info": [1]},
    }
    found = tickets.identify(asking(token))
    assert (found.user, found.expiresAt, found.info, found.scopes) == ("ann", None, [1], {"chat"})
    limited, _ = tickets.issue("ann", expires=600)
    assert tickets.identify(asking(limited)).expiresAt == NOW + 610


def test_everySource(tickets):
    """A ticket may be in the query, in the header, or offered as a subprotocol."""
    for asked in (
        lambda token: asking(token),
        lambda token: request(("authorization", f"Bearer {token}")),
        lambda token: request(subProtocols=("chat", f"twisted-ws.bearer.{token}")),
    ):
        assert tickets.identify(asked(tickets.issue("ann")[0])).user == "ann"


def test_once(tickets):
    """A ticket opens one connection."""
    token = sign()
    assert tickets.identify(asking(token)).user == "ann"
    refusal = refused(tickets, asking(token))
    assert (refusal.status, refusal.reason, refusal.message) == (401, "invalid", "The ticket has been used.")
    # One that comes as late as it may is not forgotten by then.
    assert [until - NOW for until in tickets.host.claimed.values()] == [70]


def test_askedElsewhere(tmp_path):
    """The engine of another process says which ticket is the first; while it is away, nobody comes in."""
    found = TicketAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path)), lambda: NOW)
    host, pending = Host(), []
    host.claim = lambda key, until: pending.append(Deferred()) or pending[-1]
    found.start(host)
    answers = [found.identify(asking(sign())) for _ in range(2)]
    pending[0].callback(False)
    pending[1].callback(True)
    assert answers[0].result.value.message == "The ticket has been used."
    assert answers[1].result.user == "ann"
    answers[0].addErrback(lambda _: None)
    away = ChannelError("unavailable", "The engine is away.")
    host.claim = lambda key, until: fail(away)
    late = found.identify(asking(sign()))
    assert late.result.value.status == 503
    late.addErrback(lambda _: None)

    def raises(key, until):
        raise away

    host.claim = raises
    assert refused(found, asking(sign())).status == 503


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 10, "iat": NOW - 40}, "expired"),
        ({"exp": NOW + 61}, "invalid"),
        ({"exp": NOW + 100, "iat": NOW + 50}, "invalid"),
        ({"iat": NOW + 11, "exp": NOW + 20}, "invalid"),
        ({"nbf": NOW + 11}, "invalid"),
        ({"exp": str(NOW + 60)}, "invalid"),
        ({"exp": 10**400}, "invalid"),
        ({"exp": -1, "iat": -2}, "invalid"),
        ({"exp": True}, "invalid"),
        ({"exp": None}, "invalid"),
        ({"jti": None}, "invalid"),
        ({"jti": ""}, "invalid"),
        ({"jti": "j" * 129}, "invalid"),
        ({"jti": 7}, "invalid"),
        ({"sub": ""}, "invalid"),
        ({"sub": "\U0001f600" * 129}, "invalid"),
        ({"twisted_ws": {"subscribe": "orders"}}, "invalid"),
        ({"twisted_ws": {"subscribe": ["a b"]}}, "invalid"),
        ({"scope": ["a"]}, "invalid"),
    ],
)
def test_badClaims(tickets, claims, reason):
    """A ticket that has expired, lives too long or lacks something is refused, however well it is signed, and claims no id."""
    claims = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    signed = header + b"." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).rstrip(b"=")
    refusal = refused(tickets, asking((signed + b"." + signature).decode()))
    assert (refusal.status, refusal.reason) == (401, reason)
    assert tickets.host.claimed == {}


@pytest.mark.parametrize("user", ["a.b", "*", "~me", "\U0001f600" * 128, "' OR 1=1", "\n"])
def test_users(tickets, user):
    """A user may have any name of up to 128 characters."""
    assert tickets.identify(asking(sign(sub=user))).user == user


def unsigned(claims, header):
    parts = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in (header, claims))
    return ".".join(parts)


@pytest.mark.parametrize(
    "token",
    [
        sign(secret="other-" + SECRET),
        sign(header={"crit": ["exp"]}),
        sign(header={"b64": False}),
        sign(header={"typ": "twisted-ws-sub+jwt"}),
        jwt.encode(CLAIMS, SECRET * 2, "HS512"),
        unsigned(CLAIMS, {"alg": "none"}) + ".",
        unsigned(CLAIMS, {"alg": "HS256"}) + ".",
        unsigned(CLAIMS, {"alg": "HS256"}) + ".AAAA",
        unsigned(CLAIMS, []) + ".AAAA",
        sign() + "=",
        "",
        "a.b",
        "ü.ü.ü",
        "A" * 9000,
        "[" * 4000 + ".".join(["", "", ""]),
        base64.urlsafe_b64encode(b'{"aud":' + b"[" * 5000).decode() + ".x.x",
    ],
)
def test_forged(tickets, token):
    """What is no ticket, or one that somebody else signed, or in another way, is refused where a ticket belongs."""
    assert refused(tickets, asking(token)).reason == "invalid"


def test_theSameInAnotherForm(tickets):
    """One ticket cannot be written in two ways, of which each would be taken."""
    token = sign()
    last = token[-1]
    changed = [token[:-1] + each for each in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" if each != last]
    for each in changed:
        assert refused(tickets, asking(each)).reason == "invalid"


def test_othersTokens(tickets):
    """A token of another kind is left to other authenticators."""
    for token in ("opaque", jwt.encode({"sub": "ann", "aud": "shop"}, SECRET), jwt.encode({"sub": "ann"}, SECRET)):
        assert tickets.identify(request(("authorization", f"Bearer {token}"))) is None
    assert tickets.identify(request()) is None
    assert tickets.identify(asking(jwt.encode({"sub": "ann", "aud": "shop"}, SECRET))) is None


def test_rotation(tmp_path, tickets):
    """Tickets of an old secret are taken until it is removed; a broken file changes nothing."""
    old = sign()
    secretFile(tmp_path, "n" * 32, SECRET)
    tickets.reload()
    assert tickets.identify(asking(old)).user == "ann"
    assert tickets.identify(asking(tickets.issue("bob")[0])).user == "bob"
    secretFile(tmp_path, "n" * 32, "short")
    with pytest.raises(ConfigurationError, match=r"Line 2 of the secret file .* has fewer than 32 bytes"):
        tickets.reload()
    assert tickets.identify(asking(sign(jti="two"))).user == "ann"
    secretFile(tmp_path, "n" * 32)
    tickets.reload()
    assert refused(tickets, asking(sign(jti="three"))).reason == "invalid"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret_file": "absent"}, "cannot be read"),
        ({"secret_file": "pipe"}, "not a regular file"),
        ({"secret_file": "empty"}, "is empty"),
        ({"life": 61}, "1 to 60 seconds"),
        ({"sources": ["url"]}, "sources must be"),
        ({"secrets": "x"}, "secrets is not an option"),
    ],
)
def test_options(tmp_path, options, message):
    """What is wrong in the configuration is said at the start."""
    (tmp_path / "empty").write_text("\n\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match=message):
        made(tmp_path, **options)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"user": ""}, "bad-request"),
        ({"user": "u" * 129}, "bad-request"),
        ({"user": "ann", "scopes": ["a b"]}, "bad-request"),
        ({"user": "ann", "scopes": [" a"]}, "bad-request"),
        ({"user": "ann", "subscribe": ["a b"]}, "bad-channel"),
        ({"user": "ann", "info": "i" * 4000}, "too-large"),
    ],
)
def test_notIssued(tickets, arguments, code):
    """No ticket is made that would not be accepted, or that is too long for a URL."""
    with pytest.raises(ChannelError) as caught:
        tickets.issue(**arguments)
    assert caught.value.code == code


def test_twoHandshakesAtOnce(tmp_path):
    """Of two handshakes in the same turn with one ticket, one is let in; nothing of secret or ticket is in the log."""
    tickets = TicketAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path)), lambda: NOW)
    with (
        capturedLogs() as events,
        serve({"/ws": WebSocketService()}, unixTime=lambda: NOW, authenticate=["t"], authenticators={"t": tickets}) as server,
    ):
        token, _ = tickets.issue("ann")
        openings = [server.connecting(f"/ws?ticket={token}") for _ in range(2)]
        results = []
        for each in openings:
            each.addBoth(results.append)
        server.settle()
    users = [each.caller.user for each in results if not hasattr(each, "value")]
    refusals = [each.value for each in results if hasattr(each, "value")]
    assert users == ["ann"]
    assert [(type(each), each.status) for each in refusals] == [(HandshakeRefused, 401)]
    text = "\n".join(str(formatEvent(each)) for each in events)
    assert token[-20:] not in text
    assert SECRET not in text + repr(tickets) + repr(vars(tickets))


def test_ofTwoNodes(tmp_path):
    """Two servers with one engine take a ticket once."""
    kept = []

    class Shared(MemoryEngine):
        def claim(self, key, until):
            return kept[0].claim(key, until) if kept[0] is not self else super().claim(key, until)

    def engine(runtime):
        made = Shared(runtime.limits, runtime.wheel, runtime.wheel.seconds, unixTime=lambda: NOW)
        kept.append(made)
        return made

    servers = []
    for _ in range(2):
        tickets = TicketAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path)), lambda: NOW)
        server = WebSocketServer(
            reactor=SteadyClock(), unixTime=lambda: NOW, authenticate=["t"], authenticators={"t": tickets}, engine=engine
        )
        servers.append(server)
    first, second = (each.authenticators["t"] for each in servers)
    token = first.issue("ann")[0]
    assert second.identify(asking(token)).user == "ann"
    assert refused(first, asking(token)).message == "The ticket has been used."


def test_ofOneSecret(tmp_path):
    """Two authenticators with one secret take a ticket once, whatever their names and the order of their secrets."""
    host = Host()
    made = []
    for name, secrets in (("one", [SECRET]), ("two", ["n" * 40, SECRET])):
        path = secretFile(tmp_path, *secrets, name=name)
        made.append(TicketAuthenticator(settings(tmp_path, secret_file=path)._replace(name=name), lambda: NOW))
        made[-1].start(host)
    for first, second in (made, made[::-1]):
        token = sign(jti=f"by {first!r}")
        assert first.identify(asking(token)).user == "ann"
        assert refused(second, asking(token)).message == "The ticket has been used."
