"""Subscription tokens that an application makes, and what a server makes of them."""

from __future__ import annotations

import json

import pytest
from twisted_ws_publisher import ConfigurationError, SubscriptionTokenMaker

from tests.live.support import PATIENCE, running

SECRET = "0123456789abcdef0123456789abcdef"
CONFIGURATION = """
authenticate = ["pages", "guest"]
[authenticators.pages]
type = "jwt"
secret-file = "jwt.key"
issuer = "https://shop.example"
[channels."rooms.*"]
subscribe = "granted"
publish = "granted"
[services."/channels"]
target = "channels"
"""


@pytest.fixture
def secret(tmp_path):
    """The file that both sides have."""
    path = tmp_path / "jwt.key"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def ask(client, **request):
    """Send a request, and return its answer."""
    client.send(json.dumps({**request, "ref": 1}))
    while True:
        answer = json.loads(client.recv(PATIENCE))
        if answer.get("ref") == 1:
            return answer


def test_grants(secret, tmp_path):
    """With a token, a guest may subscribe and publish to what it says, and to nothing else."""
    (tmp_path / "push.toml").write_text(CONFIGURATION)
    tokens = SubscriptionTokenMaker(secret, issuer="https://shop.example")
    hear, say = tokens.make("", ["rooms.*"]), tokens.make("", ["rooms.7"], publish=["rooms.7"])
    with (
        running(tmp_path, "--config", "push.toml") as server,
        server.client("/channels", subprotocols=["twisted-ws.v1"]) as client,
    ):
        assert ask(client, type="subscribe", channel="rooms.7")["type"] == "error"
        assert ask(client, type="subscribe", channel="rooms.7", token=hear)["type"] == "subscribed"
        for token, channel, answer in ((hear, "rooms.7", "error"), (say, "rooms.8", "error"), (say, "rooms.7", "published")):
            assert ask(client, type="publish", channel=channel, data=1, token=token)["type"] == answer
        other = SubscriptionTokenMaker(secret, issuer="https://shop.example").make("ann", ["rooms.9"])
        assert ask(client, type="subscribe", channel="rooms.9", token=other)["reason"] == "another-user"


def test_mistakes(secret, tmp_path):
    """What would make a token that nothing takes is refused where it is written."""
    tokens = SubscriptionTokenMaker(secret)
    for arguments, error in (
        ({"channels": []}, ValueError),
        ({"channels": "rooms.7"}, TypeError),
        ({"channels": ["rooms.7"], "publish": "rooms.7"}, TypeError),
        ({"channels": ["rooms.7"], "seconds": 0}, ValueError),
    ):
        with pytest.raises(error):
            tokens.make("ann", **arguments)
    secret.write_text("short\n")
    with pytest.raises(ConfigurationError, match="shorter than 32 bytes"):
        SubscriptionTokenMaker(secret)
    assert SECRET not in repr(tokens)
