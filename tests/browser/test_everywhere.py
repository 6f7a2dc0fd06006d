"""The client's promises in Chromium, Firefox, Node with its own WebSocket, and Node with the package "ws"; by each transport."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import msgspec
import pytest

from tests.browser.places import Place
from tests.browser.proxy import PAGE, Proxy
from tests.live.support import PATIENCE, Running, running, writeService
from tests.ports import freePort

_SERVICE = """
from collections import Counter

from twisted_ws import Reject
from twisted_ws.channels.service import ChannelService


class Rooms(ChannelService):
    asked = Counter()

    def __init__(self):
        super().__init__(publish=True, wildcards=True, presence=True)

    def onSubscribe(self, caller, channel):
        self.sometimes("subscribe", channel)

    def onPublish(self, caller, channel, message):
        self.sometimes("publish", channel)

    def sometimes(self, what, channel):
        self.asked[what, channel] += 1
        if channel.startswith("full") and self.asked[what, channel] <= 2:
            raise Reject(429, "There is no room now.")
        if channel.startswith("secret"):
            raise Reject(403, "It is secret.")
"""

everyTransport = pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
_names = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start one server for all tests of this file."""
    directory = tmp_path_factory.mktemp("server")
    writeService(directory, _SERVICE)
    (directory / "ws.toml").write_text("[limits]\nreconnectDelay = 0.05\n")  # what clients are told
    services = ("--service", "/channels/{channel}=rooms:Rooms", "--service", "/channels=rooms:Rooms")
    with running(directory, "--config", "ws.toml", *services) as server:
        yield server


@pytest.fixture
def proxy(server: Running) -> Iterator[Proxy]:
    """Return a proxy before the server."""
    with Proxy(server.port("ws")) as proxy:
        yield proxy


@pytest.fixture
def channel() -> str:
    """Return the name of a channel that nobody has used."""
    return f"room{next(_names)}"


class _Publisher:
    """A back end on the broadcast port."""

    def __init__(self, server: Running) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port("http"), timeout=PATIENCE)
        self._next = 0

    def post(self, path: str, body: str) -> None:
        self._connection.request("POST", path, body)
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said

    def count(self, channel: str, numbers: int) -> int:
        """Publish the next numbers, and return how many there are by now."""
        for _ in range(numbers):
            self.post(f"/channels/{channel}", str(self._next))
            self._next += 1
        return self._next

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def publisher(server: Running) -> Iterator[_Publisher]:
    """Return a back end."""
    with closing(_Publisher(server)) as publisher:
        yield publisher


# A client whose subscription keeps the numbers that come, and what it is told.
_COUNT = """(async () => {
    globalThis.client = connect(options);
    globalThis.numbers = [];
    globalThis.told = [];
    const subscription = client.subscribe(channel, ({ data }) => numbers.push(+data));
    for (const type of ["recovered", "lost", "error"]) subscription.on(type, () => told.push(type));
    client.on("close", () => told.push("closed"));
    client.on("transport", (transport) => told.push(transport));
    await seen(subscription, "subscribed");
    return client.transport;
})()"""


@everyTransport
def test_nothingIsMissed(place: Place, proxy: Proxy, publisher: _Publisher, channel: str, transport: str) -> None:
    """Whatever is cut, and though the browser says all the time that it is offline, each message comes once and in order."""
    place.begin(proxy.port)
    place.run("globalThis.navigator ??= {}")
    place.run("Object.defineProperty(navigator, 'onLine', { get: () => false, configurable: true })")
    assert place.run(_COUNT, channel=channel, options={"transports": [transport]}) == transport
    sent = publisher.count(channel, 20)
    for _ in range(3):
        place.wait(f"numbers.length >= {sent}")
        proxy.cut()
        sent = publisher.count(channel, 20)
    place.wait(f"numbers.length >= {sent}")
    assert place.run("numbers") == list(range(sent))
    told = place.run("told")
    assert transport == "poll" or "recovered" in told  # Firefox sends a poll again by itself
    assert not {"lost", "error"} & set(told)


@everyTransport
def test_oneChannelForNow(place: Place, proxy: Proxy, publisher: _Publisher, channel: str, transport: str) -> None:
    """A channel that is refused for now, or for good, keeps no other waiting; nor does a publication that is."""
    proxy.hurries = True
    place.begin(proxy.port)
    script = """(async () => {
        const log = [];
        const client = connect({ transports: [transport] });
        const all = ["a", "b", "full", "secret"].map((name) => {
            const subscription = client.subscribe(name + channel, ({ data }) => log.push([name, data]));
            for (const type of ["subscribed", "error"]) subscription.on(type, ({ code }) => log.push([name, code || type]));
            return subscription;
        });
        client.on("close", ({ code }) => log.push(["close", code]));
        const publish = (name) => client.publish(name + channel, name).then(() => log.push(["published", name]));
        const published = ["full", "a", "b"].map(publish);
        await Promise.all([...published, seen(all[2], "subscribed")]);
        await Promise.all(all.map(({ active }) => active));
        return log;
    })()"""
    log = place.run(script, transport=transport, channel=channel)
    place.end()
    expected = [["full", "too-many-requests"]] * 2
    assert [each for each in log if each[1] in ("too-many-requests", "forbidden")].count(["secret", "forbidden"]) == 1
    assert [each for each in log if each[1] == "too-many-requests"] == expected
    beforeFull = log[: log.index(["full", "subscribed"])]
    assert ["a", "subscribed"] in beforeFull
    assert ["b", "subscribed"] in beforeFull
    published = [name for what, name in log if what == "published"]
    assert published == ["a", "b", "full"]
    assert not [each for each in log if each[0] == "close"]


def test_whatIsPublished(place: Place, server: Running, proxy: Proxy, channel: str) -> None:
    """A publication means the same by each transport: under one idempotency key it is one message, as it should be."""
    place.begin(proxy.port)
    script = """(async () => {
        const values = ["", "é", new Date(0), new Uint8Array(), Uint8Array.of(0, 255), LONE,
            { ["k" + LONE]: [LONE, ESCAPED] }, 0, null, undefined, "x".repeat(70000)];
        const found = [];
        for (const transport of ["websocket", "sse", "poll"]) {
            const client = connect({ transports: [transport] });
            const options = (number) => ({ idempotencyKey: `${channel}-${number}`, key: "k&=#" });
            const all = values.map((each, number) => client.publish(channel, each, options(number)));
            found.push((await Promise.all(all)).map(({ id }) => id.split(":")[1]));
            client.close();
        }
        return found;
    })()"""
    with server.client(f"/channels/{channel}") as raw:
        ids = place.run(script, channel=channel, LONE="\ud800", ESCAPED="\\ud800")
        came = [raw.recv(PATIENCE) for _ in range(11)]
    assert ids == [[str(number + 1) for number in range(11)]] * 3
    replaced = "\ufffd"
    assert came[:6] == ["", "é", "1970-01-01T00:00:00.000Z", b"", b"\x00\xff", replaced]
    assert json.loads(came[6]) == {f"k{replaced}": [replaced, "\\ud800"]}
    assert came[7:] == ["0", "null", "null", "x" * 70000]
    history = place.run(
        "fetch(url).then((answer) => answer.json())", url=f"http://localhost:{proxy.port}/channels/{channel}?after=0"
    )
    assert {each["key"] for each in history["messages"]} == {"k&=#"}


@everyTransport
def test_whatCannotBePublished(place: Place, proxy: Proxy, channel: str, transport: str) -> None:
    """What is too large, nested too deeply, or for no channel, fails with its own error; what is published beside it does not."""
    try:
        msgspec.json.decode(b"[" * 3000 + b"]" * 3000)
        tooDeep = False  # Python 3.13 reads what is nested deeper than browsers can write it
    except RecursionError:
        tooDeep = True
    place.begin(proxy.port)
    script = """(async () => {
        const client = connect({ transports: [transport] });
        const got = [];
        await seen(client.subscribe(channel, ({ data }) => got.push(Array.isArray(data) ? "deep" : data)), "subscribed");
        let deep = 1;
        for (let depth = 0; depth < 3000; depth++) deep = [deep];
        const found = await Promise.all([
            client.publish(channel, "one"), client.publish(channel, "x".repeat(2 ** 21)), client.publish(channel, "two"),
            client.publish(channel, deep), client.publish(channel, "three"), client.publish("a#b", 1),
            client.presence("a#b"), client.presence(channel),
        ].map(settled));
        await client.publish(channel, "last");
        await new Promise((done) => { const look = () => got.includes("last") ? done() : setTimeout(look, 20); look(); });
        return [got, found.map(([how, more]) => how === "done" ? how : [how, more])];
    })()"""
    got, found = place.run(script, transport=transport, channel=channel)
    assert sorted(got) == [*([] if tooDeep else ["deep"]), "last", "one", "three", "two"]
    presence = found.pop()
    refused = [["bad-request", True] if tooDeep else "done", "done", ["bad-channel", True], ["bad-channel", True]]
    if (
        transport == "websocket"
    ):  # the connection is closed for what is too large, and the answer to a question may be lost with it
        assert found.pop() in (["bad-channel", True], ["network", False])
        refused.pop()
        assert presence in ("done", ["network", False])
    else:
        assert presence == "done"
    assert found == ["done", ["too-large", True], "done", *refused]


@everyTransport
def test_manyChannels(place: Place, proxy: Proxy, publisher: _Publisher, channel: str, transport: str) -> None:
    """A hundred channels of long names all come, by as many requests as it takes, and come again when they were cut."""
    place.begin(proxy.port)
    names = [f"{channel}.{'long-' * 12}.{number}" for number in range(100)]
    script = """(async () => {
        globalThis.client = connect({ transports: [transport] });
        globalThis.got = [];
        await Promise.all(names.map((name) => seen(client.subscribe(name, ({ data }) => got.push(data)), "subscribed")));
    })()"""
    place.run(script, transport=transport, names=names)
    messages = [{"channel": name, "data": name} for name in names]
    for times in (1, 2):
        publisher.post("/api/batch", json.dumps({"messages": messages}))
        place.wait(f"got.length >= {times * 100}")
        proxy.cut()
    assert sorted(place.run("got")) == sorted(names * 2)


@everyTransport
def test_aBroadcastIsOne(place: Place, proxy: Proxy, publisher: _Publisher, channel: str, transport: str) -> None:
    """A broadcast of what looks like a frame is a broadcast, where one can come, and no message of a channel."""
    place.begin(proxy.port)
    place.run(_COUNT, channel=channel, options={"transports": [transport]})
    place.run("client.on('broadcast', (data) => told.push(data))")
    forged = json.dumps({"type": "message", "channel": channel, "id": "e:9", "data": "9"})
    publisher.post("/broadcaster/broadcast", forged)
    publisher.count(channel, 1)
    place.wait("numbers.length")
    assert place.run("numbers") == [0]
    assert place.run("told") == [transport, *([forged] if transport == "websocket" else [])]


def test_aBetterTransportComesBack(place: Place, proxy: Proxy, publisher: _Publisher, channel: str) -> None:
    """After an outage of WebSockets they are used again, and nothing is missed or told of it."""
    proxy.webSockets = "refuse"
    place.begin(proxy.port)
    assert place.run(_COUNT, channel=channel, options={"upgrade": 200}) == "sse"
    publisher.count(channel, 5)
    place.wait("numbers.length >= 5")
    assert place.run("client.transport") == "sse"
    proxy.webSockets = "pass"
    while place.run("client.transport") != "websocket":
        sent = publisher.count(channel, 1)
    sent = publisher.count(channel, 5)
    place.wait(f"numbers.length >= {sent}")
    assert place.run("numbers") == list(range(sent))
    assert place.run("told") == ["sse", "websocket", "recovered"]


def test_whatIsCutAtOnceHasFailed(place: Place, proxy: Proxy, publisher: _Publisher, channel: str) -> None:
    """A WebSocket that opens and is cut at once, three times in a row, is given up for the next transport."""
    proxy.webSockets = "cut"
    place.begin(proxy.port)
    assert place.run(_COUNT, channel=channel, options={}) == "sse"
    publisher.count(channel, 1)
    place.wait("numbers.length")
    assert proxy.handshakes == 3


def test_aLongWaitIsNoStorm(place: Place, proxy: Proxy, channel: str) -> None:
    """A server that asks to be left alone for longer than a timer can run is left alone."""
    proxy.answers["/channels"] = (
        b"HTTP/1.1 503 Busy\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    place.begin(proxy.port)
    script = """(async () => {
        const client = connect({ transports: ["sse", "poll"] });
        client.subscribe(channel);
        const { delay } = await seen(client, "retry");
        await new Promise((done) => setTimeout(done, 300));
        return delay;
    })()"""
    assert place.run(script, channel=channel) == 2**31 - 1
    assert len([path for path in proxy.requests if path.startswith("/channels")]) == 1  # a browser wants an icon, too


def test_nothingIsThrown(place: Place, proxy: Proxy) -> None:
    """Nobody listening, or a client that is closed while it connects, throws nothing at a program; it goes on."""
    port = freePort()
    place.begin(proxy.port)
    script = """(async () => {
        const url = `http://localhost:${port}/channels`;
        const refused = connect({ transports: ["websocket"] }, url);
        refused.subscribe("a");
        const closed = connect({ transports: ["websocket"] });
        closed.subscribe("a");
        await new Promise((done) => setTimeout(done)); // it is connecting by now
        closed.close();
        return [await seen(refused, "retry").then(({ error }) => error.code), closed.state];
    })()"""
    assert place.run(script, port=port) == ["network", "closed"]
    place.end()
    assert place.run("1 + 1") == 2


def test_aPolicyThatForbidsWebSockets(place: Place, proxy: Proxy, channel: str) -> None:
    """Where a page's policy forbids WebSockets, or its Node has none, the next transport is used without waiting for anything."""
    proxy.answers["/page"] = PAGE.format(f"Content-Security-Policy: connect-src http://localhost:{proxy.port}\r\n").encode()
    place.begin(proxy.port)
    # Longer than the test may take.
    options = {"timeout": 600000} if place.isBrowser else {"timeout": 600000, "WebSocket": None}
    assert place.run(_COUNT, channel=channel, options=options) == "sse"
    assert proxy.handshakes == 0
