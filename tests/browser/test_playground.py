from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.browser.axe import violations
from tests.browser.chromium import PATIENCE, Tab
from tests.live.support import Running, curl, running
from tests.ports import freePort

# Below this contrast of a text to what is behind it, people with weak sight cannot read it (WCAG 2.2, 1.4.3).
_READABLE = 4.5
_CONTRASTS = """(() => {
    const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(each => each / 255)
            .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let each = element; each; each = each.parentElement) {
            const color = getComputedStyle(each).backgroundColor;
            if (!color.startsWith("rgba(0, 0, 0, 0")) return color;
        }
    };
    return [...document.querySelectorAll("body *")].filter(each =>
        each.checkVisibility() && !each.disabled &&
        [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    ).map(each => {
        const [dark, bright] = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => a - b);
        return [each.outerHTML.slice(0, 80), (bright + 0.05) / (dark + 0.05)];
    });
})()"""


def _open(tab: Tab, server: Running, scheme: str = "http") -> None:
    tab.open(f"{scheme}://localhost:{server.port('ws' if scheme == 'http' else 'wss')}/")
    tab.wait("document.getElementById('channel-status').textContent === 'subscribed to playground'")
    tab.wait("document.getElementById('position').textContent.includes(':')")


def _click(tab: Tab, name: str) -> None:
    tab.run(f"document.getElementById({name!r}).click()")


def _fill(tab: Tab, name: str, text: str) -> None:
    tab.run(f"document.getElementById({name!r}).value = {text!r}")


def _submit(tab: Tab, name: str) -> None:
    tab.run(f"document.getElementById({name!r}).requestSubmit()")


def _shows(tab: Tab, name: str, text: str) -> None:
    """Wait until an element's text has `text` in it."""
    tab.wait(f"document.getElementById({name!r}).textContent.includes({text!r})")


def _logged(tab: Tab) -> list[list[str]]:
    """Return what the log of the channel shows, without the times."""
    found = tab.run(
        "[...document.querySelectorAll('#channel-log li')].map(each =>"
        " [each.querySelector('.kind').textContent.slice(2), each.querySelector('.text').textContent])"
    )
    return list(found)


@pytest.mark.parametrize(
    ("transport", "by"), [("", "WebSocket"), ("websocket", "WebSocket"), ("sse", "server-sent events"), ("poll", "long polling")]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_play(tab: Tab, tmp_path: Path, scheme: str, transport: str, by: str) -> None:
    """A person picks channel and transport, publishes, sees who is there, goes offline, and sees what was recovered."""
    with running(tmp_path, "--tls-port", "0") as server:
        _open(tab, server, scheme)
        _fill(tab, "channel", "playground.chess")
        _fill(tab, "transport", transport)
        _submit(tab, "subscribe")
        _shows(tab, "channel-log", "playground.chess")
        _shows(tab, "by", by)
        _shows(tab, "here", "1")
        for text in ("e4 <b>!</b>", '{"move": 2}'):
            _fill(tab, "publication", text)
            _submit(tab, "publish")
            _shows(tab, "published", "published as")
            _shows(tab, "channel-log", text.replace(": ", ":"))
            tab.run("document.getElementById('published').textContent = ''")

        command = shlex.split(tab.run("document.getElementById('channel-curl').textContent"))
        assert command[-1].endswith("/channels/playground.chess")

        def publish() -> None:
            subprocess.run([*command, "--noproxy", "*"], capture_output=True, timeout=PATIENCE, check=True)

        publish()
        _shows(tab, "channel-log", "Hello!")
        _click(tab, "network")
        _shows(tab, "channel-status", "disconnected")
        _shows(tab, "network", "Connect")
        publish()
        publish()
        _click(tab, "network")
        _shows(tab, "recovered", "2 messages recovered, nothing lost")
        _shows(tab, "position", ":5")
        _shows(tab, "network", "Disconnect")

        log = [each for each in _logged(tab) if each[0] == "received"]
        assert [text for _, text in log] == ["e4 <b>!</b>", '{"move":2}', "Hello!", "Hello!", "Hello!"]
        assert tab.run("document.querySelectorAll('#channel-log b').length") == 0
        assert tab.messages == []
        _click(tab, "channel-clear")
        assert _logged(tab) == []
        assert tab.run("document.getElementById('channel-log').hidden")


def test_whatIsLostIsTold(tab: Tab, tmp_path: Path) -> None:
    """When the server has forgotten what was published, the page says that it may be lost, and shows what is still there."""
    ports = ("--port", str(freePort()), "--broadcast-port", "0")
    with running(tmp_path, ports=ports) as server:
        _open(tab, server)
        _click(tab, "network")
        _shows(tab, "channel-status", "disconnected")
        curl("-d", "forgotten", f"http://localhost:{server.port('http')}/channels/playground")
    with running(tmp_path, ports=ports) as server:
        curl("-d", "still here", f"http://localhost:{server.port('http')}/channels/playground")
        _click(tab, "network")
        _shows(tab, "recovered", "1 message still there, others may be lost")
        _shows(tab, "channel-log", "still here")
        assert "forgotten" not in [text for _, text in _logged(tab)]


def test_whatIsRefusedIsTold(tab: Tab, tmp_path: Path) -> None:
    """A refusal is shown as an error at the field that it is about until it is no longer true: of a publication, of a name."""

    def isShown(name: str) -> bool:
        return bool(tab.run(f"document.getElementById({name!r}).checkVisibility()"))

    def isInvalid(name: str) -> bool:
        return bool(tab.run(f"document.getElementById({name!r}).matches('[aria-invalid=true]')"))

    with running(tmp_path) as server:
        _open(tab, server)
        _fill(tab, "channel", "orders.42")
        _submit(tab, "subscribe")
        _shows(tab, "target", "orders.42")
        _fill(tab, "publication", "paid")
        _submit(tab, "publish")
        _shows(tab, "publish-error", "Not published: From this page, publish to playground")
        assert isShown("publish-error")
        assert isInvalid("publication")
        assert tab.run("document.getElementById('publication').value") == "paid"  # to be sent again
        curl("-d", "paid", f"http://localhost:{server.port('http')}/channels/orders.42")
        _shows(tab, "channel-log", "paid")
        for name, reason in ("no name", "A channel name is"), ("playground.*", "Patterns are not allowed here."):
            _fill(tab, "channel", name)
            _submit(tab, "subscribe")
            _shows(tab, "channel-error", f"Not subscribed to \u201c{name}\u201d: {reason}")
            _shows(tab, "channel-log", reason)
            assert isShown("channel-error")
            assert isInvalid("channel")
            assert not isShown("publish-error")
            assert not isInvalid("publication")
            _shows(tab, "channel-status", "not subscribed")
            _shows(tab, "toggle", "Subscribe")
            assert not isShown("channel-command")
        _fill(tab, "channel", "playground.chess")
        _submit(tab, "subscribe")
        _shows(tab, "channel-log", "joinedplayground.chess")
        assert tab.run("document.getElementById('channel-status').textContent") == "subscribed to playground.chess"
        assert isShown("channel-command")
        assert not isShown("channel-error")
        assert not isInvalid("channel")


def test_theButtonsSayWhatTheyDo(tab: Tab, tmp_path: Path) -> None:
    """One button subscribes to what is in the fields, or unsubscribes if that is so already; after that one can still publish."""

    def texts() -> list[str]:
        return list(tab.run("['toggle', 'network'].map(each => document.getElementById(each).textContent)"))

    with running(tmp_path) as server:
        _open(tab, server)
        assert texts() == ["Unsubscribe", "Disconnect"]
        for name, text in ("playground.other", "Subscribe"), ("playground", "Unsubscribe"):
            _fill(tab, "channel", name)
            tab.run("document.getElementById('channel').dispatchEvent(new Event('input'))")
            assert texts() == [text, "Disconnect"]
        with server.client("/playground?channel=playground") as other:
            _click(tab, "toggle")
            _shows(tab, "channel-status", "not subscribed")
            assert texts() == ["Subscribe", "Disconnect"]
            assert tab.run("document.getElementById('network').disabled")
            _fill(tab, "publication", "from outside")
            _submit(tab, "publish")
            _shows(tab, "published", "published as")
            assert other.recv(PATIENCE) == "from outside"
        assert "from outside" not in [text for _, text in _logged(tab)]
        _click(tab, "toggle")
        _shows(tab, "channel-status", "subscribed to playground")
        assert texts() == ["Unsubscribe", "Disconnect"]


def test_whatWaits(tab: Tab, tmp_path: Path) -> None:
    """Offline the page shows nothing of a connection, and says that a publication waits for one."""
    with running(tmp_path) as server:
        _open(tab, server)
        _shows(tab, "here", "1")
        _click(tab, "network")
        _shows(tab, "channel-status", "disconnected")
        assert tab.run("['by', 'here'].map(each => document.getElementById(each).textContent)") == ["\u2013"] * 2
        _fill(tab, "publication", "later")
        _submit(tab, "publish")
        _shows(tab, "published", "waiting for you to connect")
        _click(tab, "network")
        _shows(tab, "published", "published as")
        _shows(tab, "by", "WebSocket")
        _shows(tab, "here", "1")


def test_twoPeople(tab: Tab, tmp_path: Path) -> None:
    """Who is there is counted, whatever they came by, and a broadcast to everybody is shown."""
    with running(tmp_path) as server:
        _open(tab, server)
        with server.client("/playground?channel=playground"):
            _shows(tab, "here", "2")
        assert server.curl("-d", "to everybody") == "OK"
        _shows(tab, "channel-log", "to everybody")


def test_whereThePresenceIsSecret(tab: Tab, tmp_path: Path) -> None:
    """With a service that does not show who is there, the rest works."""
    with running(tmp_path, "--service", "/ws=demo", "--service", "/channels=channels") as server:
        _open(tab, server)
        _shows(tab, "here", "not shown")
        curl("-d", "news", f"http://localhost:{server.port('http')}/channels/playground")
        _shows(tab, "channel-log", "news")


def test_withoutChannels(tab: Tab, tmp_path: Path) -> None:
    """Where there are no channels, there is no playground, and the console stays empty."""
    with running(tmp_path, "--service", "/ws=demo") as server:
        tab.open(f"http://localhost:{server.port('ws')}/")
        tab.wait("document.getElementById('status').textContent === 'connected'")
        assert tab.run("document.getElementById('playground').checkVisibility()") is False
        assert tab.messages == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390), ("light", 320)])
def test_axe(tab: Tab, tmp_path: Path, scheme: str, width: int) -> None:
    """Axe finds nothing, and nothing is scrolled sideways, whether all is well or refused; 320 wide is 1280 at 400 %."""

    def look() -> None:
        assert violations(tab) == []
        assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0

    with running(tmp_path) as server:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.resize(width, 800)
        _open(tab, server)
        for name, text, form in ("publication", "hello", "publish"), ("message", "hello", "form"):
            _fill(tab, name, text)
            _submit(tab, form)
        _shows(tab, "channel-log", "hello")
        _shows(tab, "log", "Echo")
        look()
        _fill(tab, "channel", "no name")
        _submit(tab, "subscribe")
        _shows(tab, "channel-error", "Not subscribed")
        _fill(tab, "publication", "hello")
        _submit(tab, "publish")
        _shows(tab, "publish-error", "Not published")
        _click(tab, "connection")
        look()
        assert tab.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybodyCanUseIt(tab: Tab, tmp_path: Path, scheme: str) -> None:
    """Each text is readable, each field has a label, each button a text, and all are reached by the keyboard in their order."""
    with running(tmp_path) as server:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.resize(1280, 800)
        _open(tab, server)
        for name, text in ("publication", "hello"), ("message", "hello"):
            _fill(tab, name, text)
        _submit(tab, "publish")
        _shows(tab, "channel-log", "hello")
        _submit(tab, "form")
        _shows(tab, "log", "Echo")
        weak = [each for each in tab.run(_CONTRASTS) if each[1] < _READABLE]
        assert weak == []
        fields = "[...document.querySelectorAll('input, select')]"
        assert tab.run(f"{fields}.filter(each => !each.labels.length).length") == 0
        assert tab.run("[...document.querySelectorAll('button')].filter(each => !each.textContent.trim()).length") == 0
        tab.run("document.getElementById('message').focus()")
        reached = []
        for _ in range(18):
            for kind in ("rawKeyDown", "keyUp"):
                tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))
        wanted = ["channel", "transport", "toggle", "network", "channel-log", "channel-clear", "publication", "Publish"]
        assert [each for each in reached if each in wanted] == wanted
        assert "channel-copy" in reached
