"""Tokens of connections in browsers and Node: each transport ends with its token, and the client comes back with another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import count

import jwt
import pytest

from tests.browser.places import Place
from tests.browser.proxy import Proxy
from tests.browser.test_subscription_tokens import publish
from tests.live.support import PATIENCE, Running, running

SECRET = "a-secret-of-the-site-that-has-32-bytes"
# Seconds between the ends of tokens, and for which one has to live that is taken: a slow machine must not be late with it.
STEP, LEAST = 1, 2
NEAR = 0.15  # seconds before and after the end of any token in which messages are published without a pause
CONFIGURATION = """
authenticate = ["site"]

[authenticators.site]
type = "jwt"
secret-file = "jwt.key"
leeway = 0

[services]
"/channels" = { target = "channels" }
"/channels/{channel}" = { target = "channels" }

[channels."*"]
subscribe = "users"
publish = "users"

[limits]
reconnectDelay = 0.05
"""
_names = count()

# A page that has no new token before the one in use has ended.
_PAGE = """(async () => {
    globalThis.used = new Set();
    globalThis.numbers = [];
    globalThis.told = [];
    globalThis.returns = 0;
    globalThis.client = connect({ transports: [transport], token: async ({ reason }) => {
        if (reason === "refresh") throw new Error("not yet");
        const [end, token] = tokens.find(([end]) => end > Date.now() / 1000 + least);
        used.add(end);
        return token;
    } });
    // Whichever token a transport has, it ends when one of them does.
    globalThis.nearAnEnd = () => {
        const past = (Date.now() / 1000 - begin) % step;
        return past < near ? 0 : new Promise((done) => setTimeout(done, (step - near - past) * 1000));
    };
    const subscription = client.subscribe(channel, ({ data }) => numbers.push(+data));
    for (const type of ["lost", "error"]) subscription.on(type, ({ code }) => told.push(code || type));
    subscription.on("recovered", () => returns++);
    client.on("close", ({ code, final }) => final && told.push(code));
    await seen(subscription, "subscribed");
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


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
def test_comesBack(place: Place, server: Running, transport: str) -> None:
    """A client whose token ends comes back with the next on each transport; it gets and publishes each message once."""
    channel = f"news{next(_names)}"
    begin = time.time()
    ends = [begin + STEP * number for number in range(1, 2 * PATIENCE)]
    tokens = [[end, jwt.encode({"sub": "ann", "exp": end}, SECRET, "HS256")] for end in ends]
    with Proxy(server.port("ws")) as proxy:
        place.begin(proxy.port)
        place.run(_PAGE, transport=transport, channel=channel, tokens=tokens, least=LEAST, begin=begin, step=STEP, near=NEAR)
        sent = 0
        # How often it has come back, or, as it does that all the time, with how many tokens.
        count = "used.size" if transport == "poll" else "returns"
        for _ in range(2):
            before = place.run(count)
            # What is sent when it goes and while it is away, it gets afterwards.
            while place.run(count) == before:
                place.run("nearAnEnd()")
                publish(server, channel, sent)
                place.run(f"client.publish({channel!r}, {sent + 1}).then(() => 0)")
                sent += 2
            place.wait(f"numbers.at(-1) === {sent - 1}")
        assert place.run("numbers") == list(range(sent))
        assert place.run("told") == []
        place.end()
