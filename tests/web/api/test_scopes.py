"""What an API key is for: each operation asks for a scope, and the audit log has who did what."""

from __future__ import annotations

import json

import pytest

from tests.web.worlds import Client
from tests.web.worlds import World as Channels
from twisted_ws.access.publishers.audit import AuditLog
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.api.operations import OPERATIONS

KEYS = {
    "orders": "publish:orders.* read:orders.* unsubscribe:orders.* delete:orders.*",
    "reader": "read:news",
    "caster": "broadcast",
    "watcher": "read:*",
    "ops": "disconnect revoke metrics",
    "admin": "admin",
    "old": "",
}


class World(Channels):
    """A server with a broadcast site, whose keys have different scopes, and an audit log."""

    def __init__(self, folder):
        super().__init__()
        keys = folder / "keys"
        keys.write_text("".join(f"{name}: {name * 8}-0123456789 {scopes}\n" for name, scopes in KEYS.items()))
        keys.chmod(0o600)
        self.path = folder / "audit.jsonl"
        self.audit = AuditLog(str(self.path), self.clock)
        credentials = Credentials(keyFile=str(keys), limits=self.server.limits, reactor=self.clock)
        self.site = broadcastSite(self.server, credentials, self.audit)

    def call(self, key, method, path, body=None):
        """Return the status and the JSON of an answer."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = [f"Authorization: Bearer {key * 8}-0123456789", "Content-Type: application/json"]
        response = Client(self.site, self.clock).get(path, *headers, method=method, body=content)
        return response.status, json.loads(response.body) if response.body.startswith(b"{") else response.body

    def audited(self):
        """Return what the audit log has got."""
        self.audit.flush()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


CALLS = [
    ("POST", "/channels/orders.1", {"n": 1}, {"orders"}),
    ("POST", "/channels/news", {"n": 1}, set()),
    ("POST", "/channels/~server.log", {"n": 1}, set()),
    ("POST", "/api/publish", {"channel": "orders.1", "data": 1}, {"orders"}),
    ("POST", "/api/publish", {"channel": "orders", "data": 1}, set()),
    ("GET", "/api/channels/news", None, {"reader", "watcher"}),
    ("GET", "/api/channels/orders.1/history", None, {"orders", "watcher"}),
    ("GET", "/api/channels/news/presence", None, {"reader", "watcher"}),
    ("DELETE", "/api/channels/orders.1/history", None, {"orders"}),
    ("POST", "/api/unsubscribe", {"channel": "orders.1", "user": "ann"}, {"orders"}),
    ("POST", "/api/unsubscribe", {"channel": "news", "user": "ann"}, set()),
    ("POST", "/api/disconnect", {"user": "ann"}, {"ops"}),
    ("POST", "/api/revoke", {"user": "ann"}, {"ops"}),
    ("GET", "/api/nodes", None, {"ops", "watcher"}),
    ("GET", "/api/callers", None, {"watcher"}),
    ("GET", "/api/explain?action=publish&channel=orders.1", None, {"watcher"}),
    ("GET", "/api/settings", None, {"watcher"}),
    ("GET", "/api/channels/a/presence", None, {"watcher"}),
    ("GET", "/api/channels/~server.log/presence", None, set()),
    ("POST", "/broadcaster/broadcast", {"n": 1}, {"caster"}),
]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), CALLS)
def test_scopes(world, method, path, body, allowed):
    """A key may do what its scopes say, on the channels that they say, and nothing else; one without scopes may do everything."""
    world.publish("news", 1)
    world.publish("orders.1", 1)
    for key in KEYS:
        status, answer = world.call(key, method, path, body)
        if key in allowed | {"admin", "old"}:
            assert status == 200, (key, answer)
        else:
            assert (status, answer["error"]) == (403, "forbidden"), key


def test_everyOperation():
    """No operation is left out of the table above but those that are tested below."""
    called = {(method, path.replace("orders.1", "{channel}").replace("news", "{channel}")) for method, path, _, _ in CALLS}
    called = {(method, path.partition("?")[0]) for method, path in called}
    others = {("POST", "/api/batch"), ("GET", "/api/channels"), ("POST", "/api/tickets"), ("GET", "/api/callers/{connection}")}
    others |= {("POST", "/api/tails"), ("DELETE", "/api/tails/{tail}")}  # see test_watching
    assert {(each.method, each.path) for each in OPERATIONS} <= called | others


def test_batch(world):
    """Each message of a batch is judged by itself."""
    messages = [{"channel": name, "data": 1} for name in ("orders.1", "news", "orders.2")]
    status, answer = world.call("orders", "POST", "/api/batch", {"messages": messages})
    assert status == 200
    assert [each.get("error") for each in answer["results"]] == [None, "forbidden", None]
    assert world.call("caster", "POST", "/api/batch", {"messages": messages})[0] == 403


def test_list(world):
    """A key sees only the channels that it may read; the cursor passes over the others."""
    for name in ("a", "news", "orders.1", "orders.2", "z"):
        world.publish(name, 1)
    assert [each["channel"] for each in world.call("orders", "GET", "/api/channels")[1]["channels"]] == ["orders.1", "orders.2"]
    found, cursor = [], ""
    while cursor is not None:
        answer = world.call("orders", "GET", f"/api/channels?limit=1&cursor={cursor}")[1]
        found += [each["channel"] for each in answer["channels"]]
        cursor = answer["cursor"] if "cursor" in answer else answer.get("next")
    assert found == ["orders.1", "orders.2"]


def test_audit(world):
    """The audit log says who did what, when and from where, with the outcome; also what was refused for lack of a scope."""
    world.call("orders", "POST", "/channels/orders.1", {"n": 1})
    world.call("orders", "POST", "/channels/news", {"n": 1})
    world.call("orders", "POST", "/api/batch", {"messages": [{"channel": "orders.1", "data": 1}]})
    world.call("ops", "POST", "/api/disconnect", {"user": "ann\n"})
    world.call("caster", "POST", "/broadcaster/broadcast", {"n": 1})
    world.call("reader", "GET", "/api/channels/news")
    found = [{key: each[key] for key in sorted(each) if key not in ("time", "address")} for each in world.audited()]
    assert found.pop(0) == {"key": "", "operation": "open", "status": 0}
    assert found == [
        {"bytes": 8, "channel": "orders.1", "id": "e:1", "key": "orders", "operation": "post", "status": 200},
        {"channel": "news", "key": "orders", "operation": "post", "status": 403},
        {"bytes": 50, "count": 1, "key": "orders", "operation": "batch", "status": 200},
        {"bytes": 17, "key": "ops", "operation": "disconnect", "status": 200, "user": "ann\\n"},
        {"bytes": 8, "key": "caster", "operation": "broadcast", "status": 200},
        {"channel": "news", "key": "reader", "operation": "describe", "status": 404},
    ]
