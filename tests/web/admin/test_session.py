"""The login of the admin page: who gets a session, where it counts, and when it ends."""

from __future__ import annotations

import json

import pytest

from tests.web.worlds import Client
from tests.web.worlds import World as Channels
from twisted_ws.access.publishers.audit import AuditLog
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.web.admin.resource import AdminResource
from twisted_ws.web.api.broadcast import broadcastSite

KEYS = {"ops": "admin", "watcher": "read:*", "shop": "publish:orders.*", "reader": "read:orders.*", "both": "read:* disconnect"}
OWN = ("Origin: http://localhost:8080", "Sec-Fetch-Site: same-origin", "X-Twisted-WS: admin")


def keyOf(name):
    """Return the key of this name."""
    return f"{name * 8}-0123456789"


class World(Channels):
    """A server with an admin page, whose keys have different scopes, and an audit log."""

    def __init__(self, folder, needsKey=True, **limits):
        super().__init__(**limits)
        self.keys = folder / "keys"
        self.write(KEYS)
        self.path = folder / "audit.jsonl"
        self.audit = AuditLog(str(self.path), self.clock)
        self.credentials = Credentials(
            keyFile=str(self.keys) if needsKey else None, limits=self.server.limits, reactor=self.clock
        )
        admin = AdminResource(self.server, self.credentials, self.audit)
        self.site = broadcastSite(self.server, self.credentials, self.audit, admin)

    def write(self, keys):
        """Write the file of keys."""
        self.keys.write_text("".join(f"{name}: {keyOf(name)} {scopes}\n" for name, scopes in keys.items()))
        self.keys.chmod(0o600)

    def ask(self, method, path, *headers, body=None):
        """Return the answer to a request."""
        content = b"" if body is None else json.dumps(body).encode()
        return Client(self.site, self.clock).get(path, "Content-Type: application/json", *headers, method=method, body=content)

    def logIn(self, name="ops", *headers, key=None):
        """Log in from the page, and return the answer."""
        return self.ask("POST", "/admin/login", *(headers or OWN), body={"key": key or keyOf(name)})

    def cookie(self, name="ops"):
        """Log in, and return the header with the cookie."""
        answer = self.logIn(name)
        assert answer.status == 200, answer.body
        return "Cookie: " + answer.headers["set-cookie"][0].partition(";")[0]

    def audited(self):
        """Return operation, key and status of the calls that the audit log has got."""
        self.audit.flush()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [(each["operation"], each["key"], each["status"]) for each in lines if each["operation"] != "open"]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_cookie(world):
    """The cookie of a login is for this host alone, out of reach of scripts and other sites, and ends with the session."""
    (cookie,) = world.logIn().headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    value, *attributes = rest.split("; ")
    assert name == "tws-admin"
    assert len(value) >= 43
    assert attributes == ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"]


def test_session(world):
    """The session says who has logged in and what they may do; without one, how to log in."""
    said = world.ask("GET", "/admin/session", world.cookie("both")).json
    assert (said["user"], said["login"], said["may"]) == ("both", ["key"], ["read", "disconnect", "metrics"])
    assert said["expires"] is not None
    said = world.ask("GET", "/admin/session").json
    assert (said["user"], said["login"], said["may"], said["expires"]) == (None, ["key"], [], None)


def test_withoutCredentials(tmp_path):
    """Where nobody needs credentials, everybody is logged in for everything, and a login changes nothing."""
    world = World(tmp_path, needsKey=False)
    said = world.ask("GET", "/admin/session").json
    assert (said["user"], said["login"]) == ("", [])
    assert "admin" in said["may"]
    assert "set-cookie" not in world.logIn().headers


@pytest.mark.parametrize(("name", "status"), [("ops", 200), ("watcher", 200), ("both", 200), ("shop", 403), ("reader", 403)])
def test_who(world, name, status):
    """Whoever may do everything or read all channels can log in, and nobody else."""
    answer = world.logIn(name)
    assert answer.status == status
    assert ("set-cookie" in answer.headers) == (status == 200)
    assert world.audited() == [("login", name, status)]


def test_actions(world):
    """With a session, one may do what the key may, under its name."""
    ann = {"user": "ann"}
    assert world.ask("POST", "/api/disconnect", world.cookie("ops"), *OWN, body=ann).status == 200
    assert world.ask("POST", "/api/disconnect", world.cookie("watcher"), *OWN, body=ann).status == 403
    assert world.ask("POST", "/broadcaster/broadcast", world.cookie("watcher"), *OWN, body=ann).status == 403
    assert world.ask("GET", "/api/channels", world.cookie("watcher")).status == 200
    assert [each for each in world.audited() if each[0] != "login"] == [
        ("disconnect", "ops", 200),
        ("disconnect", "watcher", 403),
        ("broadcast", "watcher", 403),
        ("listChannels", "watcher", 200),
    ]


FOREIGN = {
    "without the header of the page": OWN[:2],
    "another value": (*OWN[:2], "X-Twisted-WS: yes"),
    "another origin": ("Origin: https://evil.example", OWN[2]),
    "another port": ("Origin: http://localhost:9999", OWN[2]),
    "a page without an origin": ("Origin: null", OWN[2]),
    "a site beside it": (OWN[0], "Sec-Fetch-Site: same-site", OWN[2]),
    "another site": ("Sec-Fetch-Site: cross-site", OWN[2]),
    "two origins": (OWN[0], "Origin: https://evil.example", OWN[2]),
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_forgery(world, headers):
    """Nothing but the page itself changes anything with the cookie of a session, or logs anybody in."""
    cookie = world.cookie()
    assert world.ask("POST", "/api/disconnect", cookie, *headers, body={"user": "ann"}).status in (400, 403)
    assert world.ask("DELETE", "/api/channels/a/history", cookie, *headers).status in (400, 403)
    assert world.ask("POST", "/admin/logout", cookie, *headers).status in (400, 403)
    assert world.logIn("ops", *headers).status in (400, 403)
    assert world.ask("GET", "/admin/session", cookie).json["user"] == "ops"


def test_forgedReading(world):
    """A page of another site cannot even read with the cookie: not from beside it, either."""
    cookie = world.cookie()
    assert world.ask("GET", "/api/channels", cookie, "Sec-Fetch-Site: same-origin").status == 200
    assert world.ask("GET", "/api/channels", cookie, "Sec-Fetch-Site: same-site").status == 403
    assert world.ask("GET", "/api/channels", cookie, "Origin: https://evil.example").status == 403


def test_forgedWithoutCredentials(tmp_path):
    """Where nobody needs credentials, the page may act, a program too, and no other page."""
    world = World(tmp_path, needsKey=False)
    ann = {"user": "ann"}
    assert world.ask("POST", "/api/disconnect", *OWN, body=ann).status == 200
    assert world.ask("POST", "/api/disconnect", body=ann).status == 200
    for headers in FOREIGN.values():
        assert world.ask("POST", "/api/disconnect", *headers, body=ann).status in (400, 403)


@pytest.mark.parametrize("path", ["/admin/", "/admin/session", "/admin/login", "/admin/admin.js"])
@pytest.mark.parametrize("needsKey", [True, False])
def test_rebinding(tmp_path, path, needsKey):
    """On loopback, the page is not there for a name that its owner has made lead to this machine, with or without a key."""
    world = World(tmp_path, needsKey)
    client = Client(world.site, world.clock)
    method = "POST" if path.endswith("login") else "GET"
    client.send(
        f"{method} {path} HTTP/1.1\r\nHost: evil.example:8080\r\nOrigin: http://evil.example:8080\r\n"
        "X-Twisted-WS: admin\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert client.responses()[0].status == 421


def test_fixation(world):
    """A cookie that the server has not given out is nobody's, and a login never takes one over."""
    planted = "Cookie: tws-admin=planted-by-somebody-else-0123456789abcdef"
    (cookie,) = world.logIn("ops", *OWN, planted).headers["set-cookie"]
    assert "planted" not in cookie
    assert world.ask("GET", "/admin/session", planted).json["user"] is None
    assert world.ask("GET", "/api/channels", planted).status == 401


def test_prefix(world):
    """The cookie of plain HTTP does not count over TLS, where it could have been planted, nor the other way round."""
    value = world.cookie().partition("=")[2]
    assert world.ask("GET", "/admin/session", f"Cookie: __Host-tws-admin={value}").json["user"] is None
    assert world.ask("GET", "/admin/session", f"Cookie: other=1; tws-admin={value}").json["user"] == "ops"


def test_logout(world):
    """After a logout the cookie is nobody's, whoever has kept it."""
    cookie = world.cookie()
    answer = world.ask("POST", "/admin/logout", cookie, *OWN)
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers["set-cookie"][0]
    assert world.ask("GET", "/api/channels", cookie).status == 401


def test_twelveHours(world):
    """A session ends after twelve hours, used or not."""
    cookie = world.cookie()
    world.clock.advance(12 * 3600 - 1)
    assert world.ask("GET", "/api/channels", cookie).status == 200
    world.clock.advance(2)
    assert world.ask("GET", "/api/channels", cookie).status == 401


def test_reload(world):
    """A reload that changes the keys logs everybody out; one that changes nothing does not."""
    cookie = world.cookie("watcher")
    world.credentials.reload()
    assert world.ask("GET", "/api/channels", cookie).status == 200
    world.write({**KEYS, "watcher": "read:news"})
    world.credentials.reload()
    assert world.ask("GET", "/api/channels", cookie).status == 401


def test_wrongKeys(world):
    """Wrong keys at the login are counted with all other wrong credentials of the address; the right one still gets in."""
    statuses = [world.logIn(key=f"wrong-{n:020}").status for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert world.ask("GET", "/api/channels", "Authorization: Bearer wrong-000000000000000000").status == 429
    assert world.logIn().status == 200


def test_tooMany(world):
    """More sessions than there may be log the oldest out."""
    first = world.cookie()
    for _ in range(world.server.limits.adminSessions):
        last = world.cookie()
    assert world.ask("GET", "/api/channels", first).status == 401
    assert world.ask("GET", "/api/channels", last).status == 200


def _moved(world, **options):
    """Return how a request is answered by a process that has taken over from that of a world, for each of two sessions."""
    cookies = [world.cookie(), world.cookie("watcher")]
    credentials = Credentials(reactor=world.clock, **options)
    credentials.arrive(*world.credentials.moving())
    site = broadcastSite(world.server, credentials, None, AdminResource(world.server, credentials, None))
    return lambda path: [Client(site, world.clock).get(path, each) for each in cookies]


def test_anotherProcess(world):
    """Sessions go on in a process that takes over, with the same rights, and end when they would have."""
    answers = _moved(world, keyFile=str(world.keys), limits=world.server.limits)
    said = [json.loads(each.body) for each in answers("/admin/session")]
    assert [each["user"] for each in said] == ["ops", "watcher"]
    assert ["admin" in each["may"] for each in said] == [True, False]
    assert [each.status for each in answers("/api/channels")] == [200, 200]
    world.clock.advance(world.server.limits.adminSession + 1)
    assert [each.status for each in answers("/api/channels")] == [401, 401]


def test_anotherProcessWithOtherKeys(world):
    """All are logged out if the keys are others there, as when they are read again."""
    other = world.keys.parent / "other"
    other.write_text(world.keys.read_text() + f"more: {keyOf('more')}\n")
    other.chmod(0o600)
    assert [each.status for each in _moved(world, keyFile=str(other))("/api/channels")] == [401, 401]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"key": 1}', b'{"kye": "x"}', b'{"key": "\\ud800"}', b"x" * 5000, b"\xff"])
def test_nonsense(world, body):
    """A login that is no login is refused, and nothing of it is repeated."""
    answer = Client(world.site, world.clock).get("/admin/login", *OWN, method="POST", body=body)
    assert answer.status in (400, 401, 413)


def test_scriptIsNotAsked(world):
    """A script that has no session is told so; its browser does not ask for a password."""
    answer = world.ask("GET", "/api/channels", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin")
    assert answer.status == 401
    assert "Basic" not in (answer.header("www-authenticate") or "")
