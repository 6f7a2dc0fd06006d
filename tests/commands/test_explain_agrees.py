"""Whatever the configuration, the token and the channel: ``twisted-ws explain`` says what the server does."""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import quote

import jwt
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dispatch.support import Turns
from tests.web.worlds import Client
from twisted_ws import WebSocketServer
from twisted_ws.commands.main import main
from twisted_ws.daemon.loading.authenticators import makeAuthenticators
from twisted_ws.daemon.loading.targets import loadService
from twisted_ws.daemon.settings import load, merge
from twisted_ws.web.pages import pagesSite

SECRET = "0123456789-0123456789-0123456789-0123456789"
USERS = "ann", "a.b", "~me", "*", "bob"
NAMES = "orders.1", "orders", "users.ann.x", "users.a~2Eb.x", "users.~7Eme.x", "users.bob", "news", "~server", "ordersx.1"
PATTERNS = "orders.*", "users.ann.*", "users.*", "*"
TABLES = "*", "orders.*", "orders.1", "users.{user}.*", "users.ann.x", "users.bob.*", "news", "~server"
# Subscribers are somebody only while they are connected.
WORDS = "anyone", "users", "granted", "owner", "scope:chat", "nobody"
ACTIONS = "subscribe", "publish", "presence"

words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2, unique=True)


@st.composite
def tables(draw):
    """Return some tables of channels; ``owner`` is only where there is one."""
    found = {}
    for pattern in draw(st.lists(st.sampled_from(TABLES), unique=True, max_size=4)):
        options = draw(st.dictionaries(st.sampled_from(ACTIONS), words, max_size=3))
        if "{user}" not in pattern:
            options = {name: rest for name, said in options.items() if (rest := [each for each in said if each != "owner"])}
        if pattern != "~server" and draw(st.booleans()):
            options["wildcards"] = draw(st.booleans())
        found[pattern] = options
    return found


grants = st.fixed_dictionaries(
    {}, optional={name: st.lists(st.sampled_from((*NAMES, *PATTERNS)), max_size=2) for name in ("subscribe", "publish")}
)
tokens = st.none() | st.fixed_dictionaries(
    {"sub": st.sampled_from(USERS), "exp": st.just(4e9), "twisted_ws": grants},
    optional={"scope": st.sampled_from(("chat", "read"))},
)
mounts = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(("publish", "presence", "wildcards"), st.booleans()), "scopes": st.just(["chat"])}
)
chains = st.sampled_from(([], ["site"], ["site", "guest"]))


def written(chain, mount, rules):
    """Return the file; scopes only where somebody is asked who they are."""
    lines = [
        f"authenticate = {json.dumps(chain)}" if chain else "",
        "[authenticators.site]",
        'type = "jwt"',
        'secret-file = "key"',
    ]
    lines += ['[services."/channels"]', 'target = "channels"']
    lines += [f"{name} = {json.dumps(value)}" for name, value in mount.items() if chain or name != "scopes"]
    for pattern, options in rules.items():
        lines += [f'[channels."{pattern}"]', *(f"{name} = {json.dumps(value)}" for name, value in options.items())]
    return "\n".join(lines)


def served(config):
    """Return a client of a server as the file has it."""
    clock = Turns()
    found = merge(load(str(config)), {})
    authenticate, authenticators = makeAuthenticators(found, clock)
    server = WebSocketServer(
        authenticate=authenticate, authenticators=authenticators, channelRules=found.channelRules, reactor=clock
    )
    (mount,) = found.services
    server.mount(mount.path, loadService(mount.target, mount.options), scopes=mount.scopes)
    return Client(server.factory(pagesSite(server)), clock)


@settings(deadline=None, max_examples=150)
@given(
    chain=chains,
    mount=mounts,
    rules=tables(),
    claims=tokens,
    channel=st.sampled_from((*NAMES, *PATTERNS)),
    action=st.sampled_from(ACTIONS),
)
def test_agrees(chain, mount, rules, claims, channel, action):
    """The exit code is 0 for what the server lets happen, and 1 for what it refuses with 401 or 403."""
    if channel in PATTERNS:
        action = "subscribe"
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for name in "key", "token":
            (place / name).touch(0o600)
        (place / "key").write_text(SECRET)
        config = place / "push.toml"
        config.write_text(written(chain, mount, rules))
        who, headers = [], []
        if claims is not None and chain:
            token = jwt.encode(claims, SECRET, "HS256")
            (place / "token").write_text(token)
            who, headers = ["--token", str(place / "token")], [f"Authorization: Bearer {token}"]
        elif claims is not None:
            who = ["--user", claims["sub"]]

        def says(action):
            with redirect_stdout(io.StringIO()) as said:
                code = main(["explain", "--config", str(config), *who, action, channel])
            assert code in (0, 1), said.getvalue()
            return code == 0

        client = served(config)
        path = f"/channels?channel={quote(channel, safe='')}"
        if action == "publish":
            status, expected = client.post(path, b"hello", *headers).status, says("publish")
        elif action == "subscribe":
            status, expected = client.get(path, *headers).status, says("subscribe")
        else:
            status = client.get(f"{path}&presence=true", *headers).status
            expected = says("subscribe") and says("presence")
        assert status in ((200,) if expected else (401, 403))
