"""The admin page in a real browser, against a real daemon with real callers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed

from tests.browser.axe import violations
from tests.browser.chromium import PATIENCE, Tab
from tests.browser.firefox import Tab as FirefoxTab
from tests.live.support import Running, curl, running, until, writeService
from tests.ports import freePort

FILES = Path(__file__).parents[2] / "twisted_ws/web/static/admin"
MOST = 40_000  # bytes of all files of the page
SECTIONS = ("now", "callers", "channels", "publish", "tail", "nodes", "settings")
# A name of each kind that would do something if it were markup, a script, an address or a format.
HOSTILE = (
    "<img src=x onerror=pwned=1>",
    '"><svg onload=pwned=1>',
    "</td></table><script>pwned=1</script>",
    "javascript:pwned=1",
    "${pwned=1}{{pwned=1}}",
    "' onmouseover='pwned=1",
    "\u202eevil\u2066",
)
_SERVICE = """
from twisted_ws.channels.service import ChannelService

class Rooms(ChannelService):
    def __init__(self):
        super().__init__(publish=True, presence=True, policy="drop-oldest")

    def onSubscribe(self, caller, channel):
        caller.user = caller.request.query.get("user", [None])[0]
"""
_WATCH = """
window.broken = [];
document.addEventListener("securitypolicyviolation", (event) => broken.push(event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture
def tab(tab: Tab) -> Iterator[Tab]:
    """Return a tab that notes in each page what its policy forbids."""
    script = tab.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)["identifier"]
    yield tab
    tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


@contextmanager
def _running(directory: Path, *arguments: str, **options: Any) -> Iterator[Running]:
    writeService(directory, _SERVICE)
    with running(
        directory, "--service", "/rooms/{channel}=rooms:Rooms", "--service", "/ws=demo", *arguments, **options
    ) as server:
        yield server


def _open(tab: Tab, server: Running, section: str = "now", scheme: str = "http") -> None:
    tab.open(f"{scheme}://localhost:{server.port(scheme)}/admin/#{section}")
    tab.wait("[...document.querySelectorAll('section, #login')].some(each => each.checkVisibility())")


def _go(tab: Tab, section: str) -> None:
    tab.run(f"location.hash = {section!r}")
    tab.wait(f"document.getElementById({section!r}).checkVisibility()")


def _button(tab: Tab, text: str) -> None:
    """Press the visible button with a text, once it is there."""
    found = (
        "[...document.querySelectorAll('button')].find(each => each.checkVisibility() && !each.disabled"
        f" && each.textContent === {text!r})"
    )
    tab.wait(found)
    tab.run(f"{found}.click()")


def _buttons(tab: Tab) -> list[str]:
    found = tab.run(
        "[...document.querySelectorAll('main button')].filter(each => each.checkVisibility()).map(each => each.textContent)"
    )
    return list(found)


def _fill(tab: Tab, name: str, text: str) -> None:
    tab.run(
        f"(field => {{ field.value = {text!r}; field.dispatchEvent(new Event('input', {{ bubbles: true }})) }})"
        f"(document.getElementById({name!r}))"
    )


def _submit(tab: Tab, inside: str) -> None:
    tab.run(f"document.getElementById({inside!r}).closest('form').requestSubmit()")


def _shows(tab: Tab, name: str, text: str) -> None:
    tab.wait(
        f"document.getElementById({name!r}).checkVisibility() && document.getElementById({name!r}).textContent.includes({text!r})"
    )


def _rows(tab: Tab, section: str, count: int) -> list[list[str]]:
    """Return the texts of the rows of a table, once there are so many."""
    rows = f"[...document.querySelectorAll('#{section} tbody tr:not(.below)')]"
    tab.wait(f"{rows}.length === {count} && document.querySelector('#{section} caption').textContent")
    return list(tab.run(f"{rows}.map(each => [...each.children].map(cell => cell.textContent))"))


def _key(tab: Tab, key: str) -> None:
    tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
    tab.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def test_size() -> None:
    """All files of the page together have at most 40 kB, as they are."""
    assert sum(each.stat().st_size for each in FILES.iterdir()) <= MOST


def test_onlyText() -> None:
    """No script of the page has a way to make markup or code of a text."""
    for script in FILES.glob("*.js"):
        text = script.read_text()
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
            "DOMParser",
        ):
            assert way not in text, (script, way)


def test_callers(tab: Tab, tmp_path: Path) -> None:
    """Who is connected is listed and found; a caller is opened, unsubscribed and disconnected, with the reason that was given."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann") as ann, server.client("/ws/subscribe"):
        _open(tab, server, "callers")
        rows = _rows(tab, "callers", 2)
        assert [each[1:4] for each in rows] == [["WebSocket", path, "127.0.0.1"] for path in ("/rooms/{channel}", "/ws")]
        assert rows[0][0] == "ann"
        assert rows[1][0].startswith("guest ")
        assert tab.run("document.querySelector('#callers caption').textContent") == "2 callers"
        _fill(tab, "begins", "an")
        _submit(tab, "begins")
        _rows(tab, "callers", 1)
        _button(tab, "ann")
        _shows(tab, "callers", "orders.42")
        _button(tab, "Unsubscribe orders.42")
        tab.wait("document.getElementById('ask').open")
        _button(tab, "Close")  # the question is no answer
        tab.wait("!document.getElementById('ask').open")
        curl("-d", "still there", f"http://localhost:{server.port('http')}/channels/orders.42")
        assert ann.recv(PATIENCE) == "still there"
        _button(tab, "Disconnect")
        _shows(tab, "question", "End the connection of ann (caller")
        tab.run("document.getElementById('reason').value = 'lunch'")
        tab.run("document.getElementById('yes').click()")
        with pytest.raises(ConnectionClosed) as caught:
            ann.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4403, "lunch")
        _rows(tab, "callers", 0)


def test_pages(tab: Tab, tmp_path: Path) -> None:
    """Of many callers there are a hundred on a page; forth and back leads to the same."""
    with _running(tmp_path) as server, ExitStack() as stack:
        for number in range(103):
            stack.enter_context(server.client(f"/rooms/orders.42?user=user-{number:03}"))
        _open(tab, server, "callers")
        first = _rows(tab, "callers", 100)
        assert tab.run("document.querySelector('#callers caption').textContent") == "100 of 103 callers"
        _button(tab, "Next")
        last = _rows(tab, "callers", 3)
        assert sorted(each[0] for each in first + last) == [f"user-{number:03}" for number in range(103)]
        _button(tab, "Previous")
        assert [each[0] for each in _rows(tab, "callers", 100)] == [each[0] for each in first]
        assert "Previous" not in _buttons(tab)


def test_channels(tab: Tab, tmp_path: Path) -> None:
    """Channels are listed in the wanted order and found; one is opened: who is there, what is kept if asked for, and its end."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann"), server.client("/rooms/orders.42?user=bob"):
        for channel, texts in ("orders.42", ("first", "second")), ("ticks", ("1", "2", "3")):
            for text in texts:
                curl("-d", text, f"http://localhost:{server.port('http')}/channels/{channel}")
        _open(tab, server, "channels")
        rows = _rows(tab, "channels", 2)
        assert [[each[0], each[1], each[3]] for each in rows] == [["orders.42", "2", "2"], ["ticks", "0", "3"]]
        assert tab.run("document.querySelector('#channels [aria-sort=ascending]').textContent") == "Channel"
        _fill(tab, "order", "messages")
        _submit(tab, "order")
        tab.wait("document.querySelector('#channels tbody th').textContent === 'ticks'")
        assert tab.run("document.querySelector('#channels [aria-sort=descending]').textContent") == "Kept"
        _fill(tab, "prefix", "orders.")
        _submit(tab, "prefix")
        _rows(tab, "channels", 1)
        _button(tab, "orders.42")
        _shows(tab, "channels", "ann, bob")
        assert "first" not in tab.run("document.getElementById('channels').textContent")
        _button(tab, "Show the last messages")
        _shows(tab, "channels", "first")
        _button(tab, "Delete the history")
        tab.run("document.getElementById('yes').click()")
        tab.wait("[...document.querySelectorAll('#channels dd')].some(each => each.textContent === '0')")
        history = curl(f"http://localhost:{server.port('http')}/api/channels/orders.42/history")
        assert '"messages":[]' in history
        _button(tab, "Unsubscribe ann")
        tab.run("document.getElementById('yes').click()")
        tab.wait("document.querySelector('#channels dd').textContent === '1'")


def test_publish(tab: Tab, tmp_path: Path) -> None:
    """What is filled in is published, and shown as the same in curl and Python; what is refused is said."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42") as client, server.client("/ws/subscribe") as other:
        _open(tab, server, "publish")
        for name, text in ("channel", "orders.42"), ("data", '{"paid": true, "by": ["it\'s", null]}'):
            _fill(tab, name, text)
        tab.run("document.getElementById('json').click()")
        _submit(tab, "data")
        _shows(tab, "published", "to 1 connection.")
        assert client.recv(PATIENCE) == '{"paid":true,"by":["it\'s",null]}'
        command = tab.run("document.getElementById('curl').textContent")
        assert "Bearer $KEY" in command
        done = curl(
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            '{"n":1}',
            f"http://localhost:{server.port('http')}/channels/orders.42",
        )
        assert '"recipients":1' in done
        client.recv(PATIENCE)
        python = tab.run("document.getElementById('python').textContent").splitlines()[-1]
        assert python == 'push.publish("orders.42", {"paid": True, "by": ["it\'s", None]})'
        _fill(tab, "data", "{")
        _submit(tab, "data")
        _shows(tab, "unpublished", "JSON")
        tab.run("document.getElementById('json').click()")
        _fill(tab, "channel", "no name")
        _submit(tab, "data")
        _shows(tab, "unpublished", "channel name")
        _fill(tab, "to", "all")
        _fill(tab, "data", "Hello!")
        _submit(tab, "data")
        _shows(tab, "published", "Sent to everybody.")
        assert (client.recv(PATIENCE), other.recv(PATIENCE)) == ("Hello!", "Hello!")


def test_explain(tab: Tab, tmp_path: Path) -> None:
    """Whether somebody may do something is answered with the reasons, by what credentials would say or, of a row, by its own."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann"):
        _open(tab, server, "publish")
        for field, text in {"asked": "ann", "grants": "orders.* news", "scopes": "staff", "about": "orders.42"}.items():
            _fill(tab, field, text)
        _submit(tab, "about")
        tab.wait("document.querySelector('#publish .value')")
        urls = "performance.getEntriesByType('resource').map(each => new URL(each.name))"
        asked = tab.run(f"Object.fromEntries({urls}.find(each => each.pathname === '/api/explain').searchParams)")
        said = {"user": "ann", "grants": "orders.* news", "scopes": "staff", "connection": ""}
        assert asked == {**said, "action": "subscribe", "channel": "orders.42"}
        _go(tab, "callers")
        _rows(tab, "callers", 1)
        _button(tab, "ann")
        _button(tab, "What may it do?")
        tab.wait("document.activeElement.id === 'about'")
        assert tab.run("document.getElementById('connection').value")
        _fill(tab, "about", "orders.43")
        _submit(tab, "about")
        tab.wait("document.querySelector('#publish .value')")
        assert not tab.run("document.getElementById('unexplained').checkVisibility()")


def test_keyboard(tab: Tab, tmp_path: Path) -> None:
    """1 to 7 are the sections, / searches and ? helps; not while somebody types, and not where they are turned off."""
    with _running(tmp_path) as server:
        _open(tab, server, "settings")
        for number, name in enumerate(SECTIONS, 1):
            _key(tab, str(number))
            tab.wait(f"document.getElementById({name!r}).checkVisibility()")
            assert tab.run("document.querySelectorAll('section:not([hidden])').length") == 1
            assert tab.run("document.querySelector('[aria-current=page]').hash") == f"#{name}"
            assert tab.run("document.activeElement.id") == f"{name}-title"
        _key(tab, "1")
        tab.wait("document.getElementById('now').checkVisibility()")
        _key(tab, "/")
        tab.wait("document.activeElement.id === 'begins'")
        _key(tab, "5")
        assert tab.run("document.activeElement.value") == "5"
        tab.run("document.activeElement.blur()")
        _key(tab, "?")
        tab.wait("document.getElementById('ask').open")
        _button(tab, "Close")
        _key(tab, "7")
        tab.wait("document.getElementById('settings').checkVisibility()")
        tab.run("document.getElementById('keys').click(); document.activeElement.blur()")
        _key(tab, "1")
        assert tab.run("document.getElementById('settings').checkVisibility()")
        tab.run("document.getElementById('keys').click()")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_login(tab: Tab, tmp_path: Path, scheme: str) -> None:
    """A wrong key is refused in words, the right one leads to the page, and after the logout nothing of it is left."""
    keys = tmp_path / "keys"
    keys.write_text("ops: 0123456789abcdef admin\nwatch: fedcba9876543210 read:*\n")
    keys.chmod(0o600)
    options = ("--api-key-file", str(keys), "--broadcast-tls-port", "0")
    with _running(tmp_path, *options) as server, server.client("/rooms/orders.42?user=ann"):
        _open(tab, server, "callers", scheme)
        assert tab.run("document.activeElement.id") == "secret"
        _fill(tab, "secret", "wrong")
        _submit(tab, "secret")
        tab.wait("document.getElementById('refused').checkVisibility()")
        _fill(tab, "secret", "0123456789abcdef")
        _submit(tab, "secret")
        _rows(tab, "callers", 1)
        _shows(tab, "who", "ops")
        assert "0123456789abcdef" not in tab.run(
            "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.body.outerHTML])"
        )
        _button(tab, "ann")
        _button(tab, "Tail")
        tab.wait("document.getElementById('tail').checkVisibility()")
        tab.leave("document.getElementById('logout').click()")
        tab.wait("document.getElementById('login').checkVisibility()")
        assert "orders.42" not in tab.run("document.body.textContent")

        # Who may only read has no buttons that do anything.
        _fill(tab, "secret", "fedcba9876543210")
        _submit(tab, "secret")
        _shows(tab, "who", "watch")
        _go(tab, "callers")
        _rows(tab, "callers", 1)
        _button(tab, "ann")
        tab.wait("[...document.querySelectorAll('button')].some(each => each.textContent === 'What may it do?')")
        assert _buttons(tab) == ["Search", "ann", "What may it do?"]
        _go(tab, "channels")
        _button(tab, "orders.42")
        tab.wait("[...document.querySelectorAll('button')].some(each => each.textContent === 'Show the last messages')")
        assert _buttons(tab) == ["Search", "orders.42", "Show the last messages", "Tail"]
        _go(tab, "publish")
        assert _buttons(tab) == ["Explain"]

        # A session that ends elsewhere ends here, too.
        _go(tab, "now")
        _shows(tab, "state", "live")
        tab.leave(
            "fetch('/admin/logout', { method: 'POST', headers: { 'X-Twisted-WS': 'admin' } }).then(() => location.hash = 'nodes')"
        )
        tab.wait("document.getElementById('login').checkVisibility()")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390), ("light", 320)])
def test_axe(tab: Tab, tmp_path: Path, scheme: str, width: int) -> None:
    """Axe finds nothing, and nothing is scrolled sideways, in any section, without callers and with hostile ones, rows opened."""

    def look() -> None:
        assert violations(tab) == []
        assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0

    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.resize(width, 800)
    with _running(tmp_path) as server, ExitStack() as stack:
        _open(tab, server)
        for name in SECTIONS:
            _go(tab, name)
            look()
        for name in HOSTILE:
            stack.enter_context(server.client(f"/rooms/a-channel-with-a-long-name.{'x' * 60}?user={name.encode().hex() * 2}"))
        for section in ("callers", "channels"):
            _go(tab, section)
            _rows(tab, section, len(HOSTILE) if section == "callers" else 1)
            tab.run(f"document.querySelector('#{section} tbody button').click()")
            tab.wait(f"document.querySelector('#{section} dd')")
            look()
        _button(tab, "Delete the history")
        tab.wait("document.getElementById('ask').open")
        look()


def test_live(tab: Tab, tmp_path: Path) -> None:
    """What happens is on the page within seconds: numbers with their range, and warnings; and the console stays empty."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann"):
        _open(tab, server)
        _shows(tab, "state", "live")
        value = "document.querySelector('.value').textContent"
        tab.wait(f"{value} === '1'")
        tab.wait("document.querySelector('.problems.good, .problems.bad')")
        with server.client("/rooms/orders.42?user=bob"):
            tab.wait(f"{value} === '2'")
            tab.wait("[...document.querySelectorAll('article')][0].textContent.includes('1 to 2 in 5 minutes')")
        assert tab.run("document.querySelector('path').getAttribute('d')").startswith("M")
        _go(tab, "settings")
        _shows(tab, "settings", "None so far.")
        assert tab.messages == []
        assert tab.run("broken") == []


def test_wrong(tab: Tab, tmp_path: Path) -> None:
    """What is wrong is a sentence on the page and a number in its title, while it lasts, and whom it is about is found."""
    sentences = "document.querySelector('.problems.bad')?.textContent"
    with _running(tmp_path) as server:
        _open(tab, server)
        _shows(tab, "state", "live")
        with server.client("/rooms/orders.42?user=ann", max_queue=1):  # of which nobody reads

            def isWrong() -> bool:
                curl("--data-binary", "@-", f"http://localhost:{server.port('http')}/channels/orders.42", body=b"x" * 500_000)
                return bool(tab.run(f"{sentences}?.includes('1 caller takes messages more slowly than they arrive.')"))

            until(isWrong)
            assert re.match(r"\(\d\) now", tab.run("document.title"))
            _go(tab, "callers")
            tab.run("document.getElementById('slow').click()")
            _submit(tab, "begins")
            assert [row[0] for row in _rows(tab, "callers", 1)] == ["ann"]
        _go(tab, "now")
        tab.wait(f"!{sentences}?.includes('more slowly')")


def test_heals(tab: Tab, tmp_path: Path) -> None:
    """A page whose server has gone says so and since when, and is live again when there is one, without being asked."""
    ports = ("--port", "0", "--broadcast-port", str(freePort()))
    with _running(tmp_path, ports=ports) as server:
        _open(tab, server)
        _shows(tab, "state", "live")
    _shows(tab, "state", "since")
    assert tab.run("document.getElementById('state').classList.contains('bad')")
    with _running(tmp_path, ports=ports):
        _shows(tab, "state", "live")


def test_tail(tab: Tab, tmp_path: Path) -> None:
    """A channel is followed line by line, with contents if they are asked for, with pauses, until it is stopped."""
    with _running(tmp_path) as server:
        url = f"http://localhost:{server.port('http')}/channels/orders.42"
        _open(tab, server, "tail")
        _shows(tab, "state", "live")
        _fill(tab, "named", "orders.*")
        _button(tab, "Start")
        _shows(tab, "tail-state", "Following orders.*.")
        curl("-d", "secret words", url)
        _shows(tab, "tail", "published")
        assert "secret words" not in tab.run("document.getElementById('tail').textContent")
        tab.run("document.getElementById('contents').click()")
        _shows(tab, "tail", "secret words")
        _button(tab, "Pause")
        curl("-d", "while paused", url)
        _shows(tab, "tail-state", "Paused.")
        assert "while paused" not in tab.run("document.getElementById('tail').textContent")
        _button(tab, "Go on")
        _shows(tab, "tail", "while paused")
        _button(tab, "Stop")
        _shows(tab, "tail-state", "Nothing is followed.")
        assert tab.run("document.querySelectorAll('#tail ol li').length") == 2
        assert tab.messages == []


def test_tailOfACaller(tab: Tab, tmp_path: Path) -> None:
    """From a caller's row one follows what goes to it and comes from it; one that cannot be is an error in words."""
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann") as ann:
        _open(tab, server, "callers")
        _rows(tab, "callers", 1)
        _button(tab, "ann")
        _button(tab, "Tail")
        _shows(tab, "tail-state", "Following")
        curl("-d", "for ann", f"http://localhost:{server.port('http')}/channels/orders.42")
        assert ann.recv(PATIENCE) == "for ann"
        _shows(tab, "tail", "sent")
        _button(tab, "Stop")
        _fill(tab, "of", "channel")
        _fill(tab, "named", "no name")
        _button(tab, "Start")
        _shows(tab, "failed", "A channel name is")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tab: Tab, tmp_path: Path, name: str) -> None:
    """What clients send is text on the page, whatever it looks like: user, path, program, payload; no policy is violated."""
    with _running(tmp_path, "--allowed-origin", "*", "--service", "/<u>named=demo") as server:
        headers = {"Origin": "http://evil.example", "User-Agent": name.encode("ascii", "replace").decode()}
        user = quote(name)
        with server.client(f"/rooms/orders.42?user={user}", additional_headers=headers) as client, server.client("/%3Cu%3Enamed"):
            _open(tab, server, "callers")
            assert sorted(row[2] for row in _rows(tab, "callers", 2)) == ["/<u>named", "/rooms/{channel}"]
            tab.run("document.querySelector('#callers tbody button').click()")
            _shows(tab, "callers", "http://evil.example")
            _go(tab, "tail")
            tab.run("document.getElementById('contents').click()")
            _fill(tab, "named", "orders.*")
            _button(tab, "Start")
            _shows(tab, "tail-state", "Following")
            client.send(name)
            curl("--data-binary", "@-", f"http://localhost:{server.port('http')}/channels/orders.42", body=name.encode())
            _shows(tab, "tail", "published")
            _go(tab, "channels")
            _rows(tab, "channels", 1)
            _button(tab, "orders.42")
            _button(tab, "Show the last messages")
            tab.wait("document.querySelector('#channels pre')")
            _go(tab, "publish")
            for field in ("channel", "data", "key", "connection", "asked", "grants", "scopes", "about"):
                _fill(tab, field, name)
            for each in SECTIONS:
                _go(tab, each)
            _fill(tab, "contains", name)
        found = "main img, main script, main iframe, main [onload], main [onerror], main [onmouseover], main a, main u"
        assert tab.run(f"document.querySelectorAll({found!r}).length") == 0
        assert tab.run("typeof pwned") == "undefined"
        assert tab.run("broken") == []
        assert tab.messages == []


def test_firefox(firefoxTab: FirefoxTab, tmp_path: Path) -> None:
    """In Firefox the page is live, axe finds nothing in any section, and a caller is disconnected."""
    tab = firefoxTab
    with _running(tmp_path) as server, server.client("/rooms/orders.42?user=ann") as ann:
        tab.open(f"http://localhost:{server.port('http')}/admin/")

        def wait(condition: str) -> None:
            until(lambda: bool(tab.run(f"Boolean({condition})")))

        wait("document.getElementById('state').textContent === 'live'")
        for name in SECTIONS:
            tab.run(f"location.hash = {name!r}")
            wait(f"document.getElementById({name!r}).checkVisibility()")
            assert violations(tab) == []
        tab.run("location.hash = 'callers'")
        wait("document.querySelector('#callers tbody button')")
        tab.run("document.querySelector('#callers tbody button').click()")
        wait("document.querySelector('#callers .bad')")
        tab.run("document.querySelector('#callers .bad').click()")
        tab.run("document.getElementById('yes').click()")
        with pytest.raises(ConnectionClosed):
            ann.recv(PATIENCE)


def test_said(tab: Tab, tmp_path: Path) -> None:
    """A screen reader is told at most one thing in ten seconds, and then the newest."""
    with _running(tmp_path) as server:
        _open(tab, server)
        _shows(tab, "state", "live")
        said = """import("/admin/page.js").then(({ say }) => {
            const told = [], waits = [], wait = setTimeout;
            let now = 1e6;
            performance.now = () => now;
            window.setTimeout = (act, delay) => { waits.push([act, now + Math.max(0, delay)]); return waits.length; };
            window.clearTimeout = (number) => { if (waits[number - 1]) waits[number - 1] = null; };
            const pass = (seconds) => {
                const [act, due] = waits.findLast(Boolean);
                now += seconds * 1000;
                if (now >= due) { act(); told.push([now, document.getElementById("said").textContent]); }
            };
            say("first"); pass(0);
            for (const each of ["second", "third"]) { say(each); pass(2); }
            pass(6);
            window.setTimeout = wait;
            return told;
        })"""
        assert tab.run(said) == [[1_000_000, "first"], [1_010_000, "third"]]
        live = "[...document.querySelectorAll('[aria-live], [role=status], [role=log]')].map(each => each.id)"
        assert "tail-state" not in tab.run(live)
