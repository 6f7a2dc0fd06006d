"""A token in the first message, from browsers and Node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.browser.places import Place
from tests.browser.proxy import Proxy
from tests.live.support import Running, running

SECRET = "a-secret-of-the-site-that-has-32-bytes"
CONFIGURATION = """
authenticate = ["site"]

[authenticators.site]
type = "jwt"
secret-file = "jwt.key"
sources = ["header", "message"]

[services]
"/channels" = { target = "channels", publish = true }

[channels."*"]
subscribe = "users"
"""

_PAGE = """(async () => {
    globalThis.told = [];
    globalThis.client = connect({ transports: ["websocket"], tokenFirst: true, token: () => tokens.shift() });
    client.on("error", ({ code }) => told.push(code));
    const subscription = client.subscribe("news", ({ data }) => told.push(data));
    subscription.on("subscribed", () => client.publish("news", "hello").catch(() => {}));
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


def _token(seconds: float) -> str:
    claims: dict[str, Any] = {"sub": "ann", "exp": time.time() + seconds}
    return jwt.encode(claims, SECRET, "HS256")


def test_tokenFirst(place: Place, server: Running) -> None:
    """A client that sends its token first works as any other, also if the first has expired; the second is the last."""
    with Proxy(server.port("ws")) as proxy:
        for lives, told in ([-100, 600], ["hello"]), ([-100, -100, 600], ["unauthorized"]):
            place.begin(proxy.port)
            place.run(_PAGE, tokens=[_token(each) for each in lives])
            place.wait("told.length")
            assert place.run("told") == told
            place.end()
