"""One identity on every transport: who comes in, and when it ends."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs

from tests.access.tokens import Tokens
from tests.web.worlds import Client, EventClient
from twisted_ws import ConfigurationError, Limits, WebSocketServer, WebSocketService
from twisted_ws.access.sources import TokenSources
from twisted_ws.channels.service import ChannelService
from twisted_ws.client import HandshakeRefused
from twisted_ws.engines.contract import Revocation
from twisted_ws.identity import Identity
from twisted_ws.testing import serve
from twisted_ws.web.pages import pagesSite


class Notes(ChannelService):
    """A channels service whose onUpgrade calls nothing of its base class, and which notes who came."""

    def __init__(self):
        super().__init__(publish=True, presence=True)
        self.seen = []

    def onUpgrade(self, request):
        self.seen.append((request.identity and request.identity.user, request.user))
        return self

    def onSubscribe(self, caller, channel):
        self.seen.append((caller.identity and caller.identity.user, caller.user))

    def onPublish(self, caller, channel, message):
        self.seen.append((caller.identity and caller.identity.user, caller.user))


class Late:
    """An authenticator that answers when it is told to."""

    def __init__(self):
        self.asked = []

    def identify(self, request):
        self.asked.append(Deferred())
        return self.asked[-1]


class World:
    """A server in memory that asks for tokens, reached by WebSocket and by HTTP."""

    def __init__(self, stack, chain=("tokens",), scopes=(), allowedOrigins=(), limits=None, **authenticators):
        begin = 1_000_000.0
        self.service = Notes()
        self.memory = stack.enter_context(
            serve(
                {},
                unixTime=lambda: begin + self.memory.clock.seconds() + self.jump if hasattr(self, "memory") else begin,
                authenticate=chain,
                authenticators={"tokens": Tokens(lambda: self.now()), **authenticators},
                allowedOrigins=allowedOrigins,
                channelRules={"*": {"subscribe": "anyone"}},
                limits=limits or Limits(pollWait=120),
            )
        )
        self.server = self.memory.server
        self.server.mount("/channels/{channel}", self.service, scopes=scopes)
        self.server.mount("/channels", self.service, scopes=scopes)
        self.factory = self.server.factory(pagesSite(self.server))

    jump = 0.0

    def now(self):
        return 1_000_000.0 + (self.memory.clock.seconds() + self.jump if hasattr(self, "memory") else 0)

    def socket(self, token=None, path="/channels/a", **options):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return self.memory.connect(path, headers=headers, **options)

    def v1(self, token):
        client = self.socket(token, "/channels", subProtocols=["twisted-ws.v1"])
        return client, frames(client)

    def http(self):
        return Client(self.factory, self.memory.clock)

    def events(self, path="/channels/a", *headers):
        return EventClient(self.factory, self.memory.clock).open(path, *headers)


def frames(client):
    return [json.loads(each) for each in client.readMessages()]


@pytest.fixture
def worlds():
    with ExitStack() as stack:
        yield lambda *arguments, **options: World(stack, *arguments, **options)


@pytest.fixture
def world(worlds):
    return worlds()


ANN = "Authorization: Bearer ann.60"


def test_everyTransport(world):
    """A subclass that overrides onUpgrade skips nothing: each transport has the identity before the service is asked."""
    world.socket("ann.60")
    assert world.events("/channels/a", ANN).head.status == 200
    assert world.http().get("/channels/a", ANN).status == 200
    assert world.http().post("/channels/a", b"hello", ANN, "Content-Type: text/plain").status == 200
    assert world.service.seen == [("ann", "ann")] * 8


@pytest.mark.parametrize(
    ("header", "reason"),
    [(None, "missing"), ("Bearer ann", "invalid"), ("Bearer ann.0", "expired"), ("Bearer", "invalid")],
)
def test_refused(world, header, reason):
    """Without good credentials each transport answers 401 with the reason, and the service is not asked."""
    headers = [] if header is None else [f"Authorization: {header}"]
    with pytest.raises(HandshakeRefused) as caught:
        world.memory.connect("/channels/a", headers={} if header is None else {"Authorization": header})
    refused = caught.value
    answers = [
        (refused.status, refused.headers["www-authenticate"], refused.body),
        *(
            (answer.status, *answer.headers["www-authenticate"], answer.body)
            for answer in (
                world.events("/channels/a", *headers).head,
                world.http().get("/channels/a", *headers),
                world.http().post("/channels/a", b"hello", *headers, "Content-Type: text/plain"),
            )
        ),
    ]
    challenge = "Bearer" if reason == "missing" else f'Bearer error="invalid_token", error_description="{reason}"'
    for status, challenged, body in answers:
        assert (status, challenged) == (401, challenge)
        fields = json.loads(body)
        assert (fields["error"], fields["reason"]) == ("unauthorized", reason)
    assert world.service.seen == []


def test_scopes(worlds):
    """A service that requires a scope answers 403 to whoever has none of them."""
    world = worlds(scopes=["chat"])
    with pytest.raises(HandshakeRefused) as caught:
        world.socket("ann.60")
    assert caught.value.status == 403
    answer = world.http().get("/channels/a", ANN)
    assert (answer.status, json.loads(answer.body)["error"]) == (403, "forbidden")
    assert 'scope="chat"' in answer.headers["www-authenticate"][0]


@pytest.mark.parametrize(
    "offer", ["twisted-ws.bearer.ann.60", "twisted-ws.bearer64." + base64.urlsafe_b64encode(b"ann.60").decode().rstrip("=")]
)
def test_tokenAsSubprotocol(world, offer):
    """A token may be offered as a subprotocol: it is never chosen, and no service sees it among the offers or the headers."""
    requests = []
    world.service.onUpgrade = lambda request: requests.append(request) or world.service
    client = world.memory.connect("/channels", subProtocols=["twisted-ws.v1", offer])
    assert client.negotiatedSubProtocol == "twisted-ws.v1"
    assert client.caller.user == "ann"
    (request,) = requests
    assert request.subProtocols == ["twisted-ws.v1"]
    assert request.headers["sec-websocket-protocol"] == "twisted-ws.v1"
    assert request.bearer is None  # now that it is open
    with pytest.raises(HandshakeRefused):  # which of the two?
        world.memory.connect("/channels", subProtocols=["twisted-ws.v1", offer, "twisted-ws.bearer.bob.60"])


def test_ofItsOwnService(worlds):
    """A service may ask others than the server does; without `authenticate` at all, there is no identity."""
    world = worlds(None)
    seen = []

    class Any(WebSocketService):
        def onOpen(self, caller):
            seen.append((caller.identity, dict(caller.claims)))

    world.server.mount("/open", Any())
    world.server.mount("/mine", Any(), authenticate=["tokens", "guest"])
    world.socket(None, "/open")
    world.socket("ann.60", "/mine")
    world.socket(None, "/mine")
    assert [(identity and identity.user, claims) for identity, claims in seen] == [(None, {}), ("ann", {}), ("", {})]


def test_sockets(world):
    """A WebSocket is closed with 4401 when its credentials end, no sooner."""
    client = world.socket("ann.90")
    world.memory.advance(89.9)
    assert client.isOpen()
    world.memory.advance(0.2)
    assert client.closed == (4401, "expired")


@pytest.mark.parametrize(
    ("query", "last"), [("", ("expired", "", "{}")), ("?format=json", ("message", "", '{"type":"expired"}'))]
)
def test_streams(world, query, last):
    """An event stream ends with an event that says so, and without the id that tells a client not to come back."""
    stream = world.events(f"/channels/a{query}", ANN)
    stream.events()
    stream.advance(59.5)
    assert stream.events() == []
    assert not stream.ended
    stream.advance(1)
    assert stream.events() == [last]
    assert stream.ended
    assert "disconnected" not in stream.lastId
    assert world.events("/channels/a", ANN).head.status == 401


def test_polls(world):
    """A long poll that waits is answered when its credentials end; the next one is 401."""
    client = world.http()
    client.ask("/channels/a?wait=100", ANN)
    client.advance(59.5)
    assert client.responses() == []
    client.advance(1)
    (answer,) = client.responses()
    assert answer.status == 200
    assert json.loads(world.http().get("/channels/a?wait=100", ANN).body)["reason"] == "expired"


@pytest.mark.parametrize("seconds", [89, 91, 119, 1000])
def test_longLives(world, seconds):
    """However long credentials last, a client is told 30 seconds before they end, and the connection ends when they do."""
    client, _ = world.v1(f"ann.{seconds}")
    world.memory.advance(seconds - 30.5)
    assert frames(client) == []
    world.memory.advance(1)
    assert [each["type"] for each in frames(client)] == ["expiring"]
    world.memory.advance(29)
    assert client.isOpen()
    world.memory.advance(1)
    assert client.closed == (4401, "expired")


def test_clockSetAhead(world):
    """If the wall clock is set ahead, credentials that have expired by it end within a minute."""
    client = world.socket("ann.100000")
    world.jump = 200_000
    world.memory.advance(61)
    assert client.closed == (4401, "expired")


def test_clockSetBack(world):
    """If the wall clock is set back, credentials end when it says so."""
    client = world.socket("ann.60")
    world.jump = -100
    world.memory.advance(159)
    assert client.isOpen()
    world.memory.advance(2)
    assert not client.isOpen()


def test_refresh(world):
    """A client may renew its credentials while it is open, and is told 30 seconds before they end."""
    client, first = world.v1("ann.60")
    assert {key: first[0][key] for key in ("type", "user", "expires")} == {"type": "welcome", "user": "ann", "expires": 60}
    world.memory.advance(31)
    assert frames(client) == [{"type": "expiring", "seconds": 30}]
    client.writeMessage({"type": "auth", "token": "ann.200", "ref": 7})
    assert frames(client) == [{"type": "auth", "user": "ann", "expires": 169, "ref": 7}]
    world.memory.advance(168.9)
    assert frames(client) == [{"type": "expiring", "seconds": 30}]
    world.memory.advance(0.2)
    assert client.closed == (4401, "expired")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("bob.200", "forbidden"),
        ("ann", "unauthorized"),
        ("ann.1", "unauthorized"),
        ("", "unauthorized"),
        ("\r\nx: y", "unauthorized"),
    ],
)
def test_badRefresh(world, token, code):
    """A refused token, or one of another user, changes nothing: the old credentials count to their end."""
    client, _ = world.v1("ann.60")
    world.memory.advance(2)
    client.writeMessage({"type": "auth", "token": token, "ref": "r"})
    (answer,) = frames(client)
    assert (answer["type"], answer["code"], answer["ref"]) == ("error", code, "r")
    assert client.caller.identity.user == "ann"
    world.memory.advance(59)
    assert client.closed == (4401, "expired")


def test_refreshOfNothing(worlds):
    """Where nobody is asked for credentials, a token means nothing."""
    world = worlds(None)
    client, first = world.v1(None)
    assert "user" not in first[0]
    client.writeMessage({"type": "auth", "token": "ann.60"})
    assert frames(client)[0]["code"] == "bad-request"


def test_revoked(world):
    """A revoked token opens nothing and renews nothing."""
    world.server.engine.revoke(Revocation(None, "ann", world.now() + 1, world.now() + 1000))
    answer = world.http().get("/channels/a", ANN)
    assert json.loads(answer.body)["reason"] == "revoked"


@pytest.mark.parametrize(
    ("revoked", "ended"),
    [
        (Revocation("ann.600", None, 0, 2_000_000), {"ann.600"}),
        (Revocation(None, "ann", 1_000_001, 2_000_000), {"ann.600", "ann.700"}),
        (Revocation(None, "ann", 1_000_000, 2_000_000), set()),  # which was before they were issued
    ],
)
def test_revocationEndsConnections(world, revoked, ended):
    """A revocation ends what came with the credentials, on every transport, and nothing else."""
    tokens = ["ann.600", "ann.700", "bob.600"]
    sockets = {token: world.socket(token) for token in tokens}
    streams = {token: world.events("/channels/a", f"Authorization: Bearer {token}") for token in tokens}
    polls = {token: world.http() for token in tokens}
    for token, poll in polls.items():
        streams[token].events()
        poll.ask("/channels/a?wait=100", f"Authorization: Bearer {token}")
    world.server.engine.revoke(revoked)
    world.memory.settle()
    for token in tokens:
        assert sockets[token].closed == ((4401, "revoked") if token in ended else None)
        assert streams[token].events() == ([("expired", "", "{}")] if token in ended else [])
        assert len(polls[token].responses()) == (token in ended)


def test_revokedAfterRefresh(world):
    """After a refresh it is the new token that counts: the old one may be revoked."""
    client, _ = world.v1("ann.60")
    client.writeMessage({"type": "auth", "token": "ann.600"})
    frames(client)
    world.server.engine.revoke(Revocation("ann.60", None, 0, 2_000_000))
    world.memory.settle()
    assert client.isOpen()
    world.server.engine.revoke(Revocation("ann.600", None, 0, 2_000_000))
    world.memory.settle()
    assert client.closed == (4401, "revoked")


REVOKED = Revocation("ann.600", None, 0, 2_000_000)


def waiting(world, hook):
    """Let a hook of the service wait; return a function that lets it go on."""
    asked = []

    def wait(*arguments):
        asked.append(Deferred())
        return asked[-1].addCallback(lambda _: world.service if hook == "onUpgrade" else None)

    setattr(world.service, hook, wait)

    def goOn():
        for each in asked:
            each.callback(None)
        world.memory.settle()

    return goOn


@pytest.mark.parametrize("comes", ["websocket", "v1", "events", "poll"])
def test_infoOfCredentials(worlds, comes):
    """Presence tells what the credentials say of a user, whatever the transport; a service's own hook has the last word."""
    world = worlds(("named",), named=Tokens(lambda: 1_000_000.0, info={"name": "Ann"}))
    if comes == "websocket":
        world.socket("ann.600")
    elif comes == "v1":
        world.v1("ann.600")[0].writeTextMessage('{"type": "subscribe", "channel": "a"}')
    elif comes == "events":
        world.events("/channels/a", "Authorization: Bearer ann.600")
    else:
        world.http().ask("/channels/a?wait=60", "Authorization: Bearer ann.600")
    world.memory.settle()
    seen = world.http().get("/channels/a?presence=true", "Authorization: Bearer bob.600").json["presence"]
    assert seen["members"] == [{"user": "ann", "info": {"name": "Ann"}, "connections": 1}]
    world.service.onPresence = lambda caller, channel: {"as": caller.user}
    world.socket("eve.600")
    seen = world.http().get("/channels/a?presence=true", "Authorization: Bearer bob.600").json["presence"]
    assert seen["members"][1] == {"user": "eve", "info": {"as": "eve"}, "connections": 1}


@pytest.mark.parametrize("ending", ["revoked", "expired"])
@pytest.mark.parametrize("hook", ["onUpgrade", "onSubscribe", "onPresence"])
@pytest.mark.parametrize("query", ["", "?wait=100", "events"])
def test_endsWhileAHookIsAsked(world, hook, query, ending):
    """A request whose credentials end while the service is asked about it is refused, and not answered for that once."""
    goOn = waiting(world, hook)
    client = world.http()
    headers = ("Accept: text/event-stream",) if query == "events" else ()
    client.ask(f"/channels/a{query.removeprefix('events')}", "Authorization: Bearer ann.600", *headers)
    if ending == "revoked":
        world.server.engine.revoke(REVOKED)
    else:
        world.jump = 600
    goOn()
    (answer,) = client.responses()
    assert (answer.status, json.loads(answer.body)["reason"]) == (401, ending)
    assert list(world.server.channels.visitors) == []


@pytest.mark.parametrize("ending", ["revoked", "expired"])
def test_endsWhileAHandshakeIsDecided(world, ending):
    """A handshake whose credentials end while onUpgrade decides is refused."""
    goOn = waiting(world, "onUpgrade")
    opening = world.memory.connecting("/channels/a", headers={"Authorization": "Bearer ann.600"})
    refusals = []
    opening.addErrback(lambda failure: refusals.append(failure.value))
    if ending == "revoked":
        world.server.engine.revoke(REVOKED)
    else:
        world.jump = 600
    goOn()
    assert json.loads(refusals[0].body)["reason"] == ending
    assert len(world.server.callers) == 0


@pytest.mark.parametrize("user", ["row 7", None, ["unhashable"]])
def test_revokedWhateverItsServiceCallsIt(world, user):
    """Credentials are revoked by their own user, whatever user a service has given the connection since."""
    clients = [world.socket("ann.600") for _ in range(2)]
    clients[0].caller.user = clients[1].caller.user = user
    world.server.engine.revoke(REVOKED if user is None else Revocation(None, "ann", 1_000_001, 2_000_000))
    world.memory.settle()
    assert [each.closed for each in clients] == [(4401, "revoked")] * 2


def test_longRefresh(worlds):
    """A token that is longer than any is refused over an open connection without anybody being asked about it."""
    asked = []

    class Asked:
        def identify(self, request):
            asked.append(request.bearer)
            return Identity("ann")

    world = worlds(["asked"], asked=Asked())
    client, _ = world.v1(None)
    for length, code in ((8193, "unauthorized"), (8192, None)):
        client.writeMessage({"type": "auth", "token": "x" * length})
        assert frames(client)[0].get("code") == code
    assert asked == [None, "x" * 8192]


@pytest.mark.parametrize("found", ["bob", ""])
def test_revokedWhileARefreshIsAsked(worlds, found):
    """A token that is revoked, or whose client leaves, while somebody is asked about it, changes nothing."""
    late = Late()
    world = worlds(["late"], late=late)
    opening = world.memory.connecting("/channels", subProtocols=["twisted-ws.v1"])
    late.asked[0].callback(Identity("ann", tokenId="first"))
    world.memory.settle()
    client = opening.result
    frames(client)
    client.writeMessage({"type": "auth", "token": "x"})
    if found:
        world.server.engine.revoke(Revocation("second", None, 0, 2_000_000))
    else:
        client.close()
    world.memory.settle()
    late.asked[1].callback(Identity("ann", tokenId="second", expiresAt=1_000_060))
    world.memory.settle()
    if found:
        assert frames(client)[0]["code"] == "unauthorized"
        assert client.caller.identity.tokenId == "first"
    world.server.engine.revoke(Revocation("first", None, 0, 2_000_000))
    world.memory.settle()
    assert len(world.server.callers) == 0


@pytest.mark.parametrize("ending", [None, "expired", "revoked"])
def test_refreshesAtTheEnd(worlds, ending):
    """Of two refreshes at once the second has the last word; what ends before they are answered ends, and they change nothing."""
    late = Late()
    world = worlds(["late"], late=late)
    opening = world.memory.connecting("/channels", subProtocols=["twisted-ws.v1"])
    late.asked[0].callback(Identity("ann", tokenId="first", expiresAt=1_000_060))
    world.memory.advance(55)
    client = opening.result
    frames(client)
    for token in "x", "y":
        client.writeMessage({"type": "auth", "token": token})
    world.memory.settle()
    assert len(late.asked) == 2  # one after the other
    if ending == "revoked":
        world.server.engine.revoke(Revocation("first", None, 0, 2_000_000))
    world.memory.advance(5.5 if ending == "expired" else 4.5)
    late.asked[1].callback(Identity("ann", tokenId="second", expiresAt=1_000_200))
    world.memory.settle()
    if ending is not None:
        assert client.closed == (4401, ending)
        assert (len(late.asked), world.server.counts.renewed, len(world.server.callers)) == (2, 0, 0)
        return
    late.asked[2].callback(Identity("ann", tokenId="third", expiresAt=1_000_100))
    world.memory.settle()
    assert [each["type"] for each in frames(client)] == ["auth", "auth"]
    assert [len(world.server.callers.withToken(each)) for each in ("first", "second", "third")] == [0, 0, 1]
    world.memory.advance(39.5)
    assert client.isOpen()
    world.memory.advance(1)
    assert client.closed == (4401, "expired")


@pytest.mark.parametrize(
    ("page", "status"),
    [
        (["Origin: http://localhost:8080"], 200),  # its own
        (["Origin: https://named.example"], 200),
        (["Origin: https://evil.example"], 403),
        (["Origin: null"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-site"], 403),
        (["Sec-Fetch-Site: same-origin"], 200),
        ([], 200),  # a program
    ],
)
def test_cookiesOfAForeignPage(worlds, page, status):
    """A page that is admitted only because all are cannot use a cookie of its visitor; with a token of its own it may."""
    world = worlds(allowedOrigins=["*", "https://named.example"])
    for method, body in ("GET", b""), ("POST", b"x"):
        answer = world.http().get("/channels/a", "Cookie: token=ann.60", *page, method=method, body=body)
        assert answer.status == status
        assert world.http().get("/channels/a", ANN, *page, method=method, body=body).status == 200
    lines = [
        "GET /channels/a HTTP/1.1",
        "Host: localhost:8080",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Cookie: token=ann.60",
    ]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", *page, "", ""]
    client = world.http()
    client.send("\r\n".join(lines).encode())
    assert client.take().startswith(b"HTTP/1.1 101" if status == 200 else b"HTTP/1.1 403")


def test_leaves(worlds):
    """When a client leaves while an authenticator is asked, what it waits for is cancelled, on every transport."""
    late = Late()
    world = worlds(["late"], late=late)
    opening = world.memory.connecting("/channels/a")
    opening.addErrback(lambda _: None)
    opening.cancel()
    client = world.http()
    client.ask("/channels/a")
    client.transport.loseConnection()
    client.transport.settle()
    world.memory.settle()
    assert len(late.asked) == 2
    assert world.service.seen == []


def test_later(worlds):
    """An authenticator may take its time; what came meanwhile is not lost."""
    late = Late()
    world = worlds(["late"], late=late)
    opening = world.memory.connecting("/channels/a")
    client = world.http()
    client.ask("/channels/a")
    for each in late.asked:
        each.callback(Identity("ann"))
    world.memory.settle()
    assert opening.result.caller.user == "ann"
    assert client.responses()[0].status == 200


def test_identityInTests():
    """A test may say who a client is, without credentials."""
    service = Notes()
    with serve({"/channels/{channel}": service}) as server:  # without rules
        begin = server.server.runtime.unixTime()
        client = server.connect("/channels/a", identity=Identity("ann", expiresAt=begin + 10))
        assert (client.caller.identity.user, client.caller.user) == ("ann", "ann")
        server.advance(11)
        assert client.closed == (4401, "expired")


def test_unknownAuthenticators():
    """A chain names authenticators that there are."""
    with pytest.raises(ConfigurationError, match="there is no authenticator tokns"):
        WebSocketServer(authenticate=["tokns"], authenticators={"tokens": object()})
    with pytest.raises(ConfigurationError, match="scopes needs authenticators"):
        WebSocketServer().mount("/a", WebSocketService(), scopes=["chat"])


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        (["Authorization: Bearer ann.60", "Authorization: Bearer bob.60"], None),
        (["Authorization: Bearer ann.60", "Authorization: Bearer ann.60"], None),
        (["Authorization: Bearer ann.60", "Authorization: Basic YTpi"], None),
        (["Authorization: Basic YTpi", "Authorization: Bearer ann.60"], None),
        (["Authorization: ", "Authorization: Bearer ann.60"], None),
        (["Authorization: Bearer ann.60", "Cookie: token=bob.60"], "ann"),
        (["Authorization: Bearer ann", "Cookie: token=bob.60"], None),
        (["Cookie: token=ann.60", "Cookie: token=bob.60"], "ann"),
        (["Cookie: token=ann.60; token=bob.60"], "ann"),
        (["Cookie: token=ann", "Cookie: token=bob.60"], None),
        (["Sec-WebSocket-Protocol: twisted-ws.bearer.ann.60", "Cookie: token=bob.60"], "either"),
    ],
)
def test_twins(worlds, headers, user):
    """Of credentials that are there twice the same ones count on each transport, or none do; a wrong one makes no guest."""
    world = worlds(["tokens", "guest"])
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==")
    client = world.http()
    client.send("\r\n".join(["GET /channels/a HTTP/1.1", "Host: localhost:8080", *upgrade, *headers, "", ""]).encode())
    status = int(client.take().split(b" ")[1])
    # A page can offer a token as a subprotocol to a WebSocket only.
    assert (status == 101) == (user is not None)
    others = [world.events("/channels/a", *headers).head.status, world.http().get("/channels/a", *headers).status]
    others.append(world.http().post("/channels/a", b"x", *headers).status)
    assert others == [401 if user is None else 200] * 3
    users = {each[0] for each in world.service.seen}
    assert users == ({"ann", "bob"} if user == "either" else set() if user is None else {user})


def test_manyRefusals(world):
    """Whoever comes again and again with wrong credentials fills no log."""
    with capturedLogs() as events:
        for n in range(100):
            with pytest.raises(HandshakeRefused):
                world.socket(f"x{n}")
            assert world.events("/channels/a", f"Authorization: Bearer x{n}").head.status == 401
            assert world.http().get("/channels/a", f"Authorization: Bearer x{n}").status == 401
    assert 0 < len(events) <= 30


class Talkative:
    """An authenticator whose credentials say much: those that begin alike are one token."""

    def __init__(self):
        self.known = {}

    def identify(self, request):
        user, _, size = TokenSources(("header",)).find(request).token.rstrip("!").partition(".")
        return self.known.setdefault((user, size), Identity(user, by="talkative", payload=b" " * int(size)))


def test_memoryOfCredentials(worlds):
    """What is held of large credentials is bounded, counts once for all that have them, and is free when the last has left."""
    world = worlds(["talkative"], limits=Limits(pollWait=120, credentialsTotal=20_000), talkative=Talkative())
    ann, header = "ann.12000", "Authorization: Bearer ann.12000"
    client, _ = world.v1("ann.10")
    client.writeMessage({"type": "auth", "token": ann})
    assert frames(client)[0]["type"] == "auth"
    again = [world.socket(ann), world.socket(ann)]
    stream, poll = world.events("/channels/a", header), world.http()
    assert stream.head.status == 200
    poll.ask("/channels/a?wait=100", header)
    small, _ = world.v1("bob.10")

    def refused():
        """Say how those with other large credentials are refused."""
        with pytest.raises(HandshakeRefused) as error:
            world.socket("bob.12000")
        client.writeMessage({"type": "auth", "token": "ann.12001"})
        small.writeMessage({"type": "auth", "token": "bob.12000"})
        status = world.events("/channels/a", "Authorization: Bearer bob.12000").head.status
        return error.value.status, status, frames(client)[0].get("code"), frames(small)[0].get("code")

    assert refused() == (503, 503, "unavailable", "unavailable")
    world.socket("bob.4000").close()  # what is small is a part of its connection
    for each in (*again, client):
        each.close()
    world.memory.settle()
    small.writeMessage({"type": "auth", "token": "bob.12000"})
    assert frames(small)[0]["code"] == "unavailable"  # the stream and the poll still have them
    for each in stream, poll:
        each.transport.lose(ConnectionLost())
    world.memory.settle()
    small.writeMessage({"type": "auth", "token": "bob.12000"})
    assert frames(small)[0]["type"] == "auth"
    small.writeMessage({"type": "auth", "token": "bob.10"})
    assert frames(small)[0]["type"] == "auth"
    assert world.server.runtime.credentials.total == 0
