"""Tokens for subscriptions in browsers and Node, by each transport: what has a token goes on over the end of it."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import jwt
import pytest

from tests.browser.places import Place
from tests.browser.proxy import Proxy
from tests.live.support import PATIENCE, Running, running

SECRET = "a-secret-of-the-site-that-has-32-bytes"
LIFE = 2  # seconds at least, and one more at most
CONFIGURATION = """
authenticate = ["site", "guest"]

[authenticators.site]
type = "jwt"
secret-file = "jwt.key"
leeway = 0

[services]
"/channels" = { target = "channels" }
"/channels/{channel}" = { target = "channels" }

[channels."rooms.*"]
subscribe = "granted"

[limits]
reconnectDelay = 0.05
"""
_names = count()

# A page whose tokens end one after the other; it is given all that it may need.
_ROOMS = """(async () => {
    globalThis.asked = [];
    globalThis.numbers = [];
    globalThis.told = [];
    globalThis.client = connect({ transports: [transport], subscriptionToken: async (channels) => {
        asked.push(channels);
        return tokens.find(([end]) => end > Date.now() / 1000 + life)[1];
    } });
    const subscription = client.subscribe(channel, ({ data }) => numbers.push(+data), { last: 3 });
    const other = client.subscribe(channel + ".other");
    for (const type of ["lost", "error"]) {
        for (const each of [subscription, other]) each.on(type, ({ code }) => told.push(code || type));
    }
    client.on("close", ({ code }) => told.push(code));
    await Promise.all([seen(subscription, "subscribed"), seen(other, "subscribed")]);
    return asked;
})()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start one server for all tests of this file."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "ws.toml").write_text(CONFIGURATION)
    (directory / "jwt.key").write_text(SECRET)
    os.chmod(directory / "jwt.key", 0o600)
    with running(directory, "--config", "ws.toml") as server:
        yield server


def publish(server: Running, channel: str, *numbers: int) -> None:
    """Publish numbers as a back end."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port("http"), timeout=PATIENCE)) as connection:
        for each in numbers:
            connection.request("POST", f"/channels/{channel}", str(each))
            answer = connection.getresponse()
            assert (answer.read(), answer.status)[1] == 200


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
def test_goesOn(place: Place, server: Running, transport: str) -> None:
    """Subscriptions go on over the end of one token after the other, with each message once and in order."""
    channel = f"rooms.{next(_names)}"
    publish(server, channel, *range(5))
    begin = time.time()
    header = {"typ": "twisted-ws-sub+jwt"}
    claims = {"sub": "", "channels": ["rooms.*"]}
    ends = [begin + number for number in range(1, 2 * PATIENCE)]
    tokens = [[end, jwt.encode({**claims, "exp": end}, SECRET, "HS256", header)] for end in ends]
    with Proxy(server.port("ws")) as proxy:
        place.begin(proxy.port)
        asked = place.run(_ROOMS, transport=transport, channel=channel, tokens=tokens, life=LIFE)
        assert asked[0] == [channel, f"{channel}.other"]
        sent = 5
        for calls in range(2, 4):
            place.wait(f"asked.length >= {calls}")
            publish(server, channel, sent, sent + 1)
            sent += 2
            place.wait(f"numbers.at(-1) === {sent - 1}")
        assert place.run("numbers") == list(range(2, sent))
        assert place.run("told") == []
        assert place.run(
            f"client.history({channel!r}, {{ limit: 4 }}).then(({{ messages }}) => messages.map(({{ data }}) => +data))"
        ) == [*range(sent - 4, sent)]
        place.end()
