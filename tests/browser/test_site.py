"""The site of the documentation, built, in a browser, from files and without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.axe import violations
from tests.browser.chromium import PATIENCE, Tab
from tests.live.support import running

DOCS = Path(__file__).parents[2] / "docs"

_CONFIGURATION = """
[services]
"/channels" = { target = "channels", publish = true }
[limits]
historyMessages = 8
"""

# One conversation by WebSocket, by event stream and by polling. What differs from server to server gets the same names: epochs,
# ids of connections, times and words for people.
_CONVERSATION = """
async (WebSocket, fetch, origin) => {
    const at = (query) => `${origin}/channels?${query}`;
    const post = async (channel, data) => (await fetch(new URL(at(`channel=${channel}`)), {
        method: "POST", body: data, headers: { "Content-Type": "text/plain" },
    })).json();
    const first = await post("orders", "first");
    const epoch = first.id.split(":")[0];
    const said = [["post", first]];

    const socket = new WebSocket(at("").replace(/^http/, "ws"), "twisted-ws.v1");
    const frames = [
        { type: "subscribe", channel: "orders" },
        { type: "publish", channel: "orders", data: "a" },
        { type: "publish", channel: "orders", data: { state: "paid" }, key: "state", idempotencyKey: "once" },
        { type: "publish", channel: "orders", data: { state: "paid" }, key: "state", idempotencyKey: "once" },
        { type: "subscribe", channel: "orders" },
        { type: "unsubscribe", channel: "orders" },
        { type: "publish", channel: "orders", data: "nobody hears this" },
        ...["E:2", "E:4", "0", "other:2", "E:99"].flatMap((after) => [
            { type: "subscribe", channel: "orders", after }, { type: "unsubscribe", channel: "orders" },
        ]),
        ...Array.from({ length: 9 }, (_, data) => ({ type: "publish", channel: "orders", data })),
        ...[{ after: "E:2" }, { after: "E:5" }, { last: 2 }, { last: 99 }].flatMap((from) => [
            { type: "subscribe", channel: "orders", ...from }, { type: "unsubscribe", channel: "orders" },
        ]),
        { type: "subscribe", channel: "new", after: "0" },
        { type: "nonsense" },
        { type: "ping" },
    ];
    // One request after the other: each when the one before is answered, and what it brings is there.
    await new Promise((done) => {
        let [sent, toCome] = [0, 0];
        socket.onmessage = ({ data }) => {
            const frame = JSON.parse(data);
            said.push(["frame", frame]);
            toCome += frame.type === "message" ? -1 : frame.type === "subscribed" ? frame.count : 0;
            if (frame.type === "message" && toCome < 0) toCome = 0; // its own, which comes before the answer
            else if (!toCome && frame.type === "pong") done();
            else if (!toCome) socket.send(JSON.stringify({ ...frames[sent], ref: sent++ }).replace("E:", `${epoch}:`));
        };
    });
    socket.onclose = null;
    socket.close();

    const get = async (query, init) => {
        const response = await fetch(new URL(at(query.replaceAll("E:", `${epoch}:`))), init);
        said.push(["head", response.status, response.headers.get("Content-Type")]);
        return response;
    };
    for (const from of ["", "after=E:9", "after=orders=E:9", "after=0", "after=other:2", "after=orders=E:1", "last=3"]) {
        said.push(["poll", await (await get(`channel=orders&wait=0&${from}`)).json()]);
    }
    said.push(["poll", await (await get("channel=orders&channel=new&after=orders=E:12,new=E:0&wait=0")).json()]);
    const waiting = get("channel=new&after=E:0&wait=30").then((response) => response.json());
    await post("new", "comes later");
    said.push(["poll", await waiting]);

    const abort = new AbortController();
    const stream = await get("channel=orders&after=orders=E:11&format=json", {
        headers: { Accept: "text/event-stream" }, signal: abort.signal,
    });
    const [reader, decoder] = [stream.body.getReader(), new TextDecoder()];
    let text = "";
    for (let posted = false; (text.match(/"type":"message"/g) || []).length < 3 || !text.endsWith("\\n\\n");) {
        text += decoder.decode((await reader.read()).value, { stream: true });
        if (!posted) posted = await post("orders", "last");
    }
    abort.abort();
    const lines = text.split("\\n").filter(Boolean).map((line) => line.split(": "));
    said.push(...lines.map(([name, ...rest]) => ["line", name, name === "data" ? JSON.parse(rest.join(": ")) : null]));
    const names = { connection: "C", retry: "R", message: "M" };
    const isFree = (name, value) => name in names && ["string", "number"].includes(typeof value);
    return JSON.parse(JSON.stringify(said, (name, value) => isFree(name, value) ? names[name]
        : typeof value === "string" ? value.replaceAll(epoch, "E") : value));
}
"""


class _Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what others can lead to, and where this leads to."""
        found = {name: value for name, value in attributes if value}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        self.links |= {found[name] for name in ("href", "src") if name in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    # The collector of cycles would take a third of the time.
    program = "import gc, sys; gc.disable(); from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-n", "-W", "-q", "-b", "html", "-d", folder / "trees", DOCS, folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_links(site: Path) -> None:
    """Each link from page to page leads to a page, and to a place in it, that is there."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 50
    broken = []
    for path, page in pages.items():
        for link in page.links:
            where = urlsplit(link)
            if where.scheme or where.netloc:
                continue
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            if not target.exists():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif where.fragment and target in pages and unquote(where.fragment) not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link} (no such place)")
    assert broken == []


def test_flags(site: Path) -> None:
    """No page shows the two hyphens of an option as a dash, which nobody can type."""
    found = {path.name: re.findall(r"[ >(]\u2013[a-z][\w-]*", path.read_text()) for path in site.rglob("*.html")}
    assert {name: dashes for name, dashes in found.items() if dashes} == {}


def test_theServerInThePageSaysWhatTheRealOneSays(site: Path, tab: Tab, tmp_path: Path) -> None:
    """The server of the demo answers each request, by each transport, as the real one does."""
    (tmp_path / "ws.toml").write_text(_CONFIGURATION)
    with running(tmp_path, "--config", "ws.toml") as server:
        origin = f"http://localhost:{server.port('ws')}"
        tab.open(origin + "/")
        real = tab.run(f"({_CONVERSATION})(WebSocket, fetch, {origin!r})")
        tab.fresh()
    tab.open((site / "index.html").as_uri())
    line = "((line) => [line.WebSocket, line.fetch])(new Line(new PageServer()))"
    played = tab.run(f"({_CONVERSATION})(...{line}, 'http://localhost')")
    assert [*map(_known, played)] == [*map(_known, real)]


def _known(said: list[Any]) -> list[Any]:
    """Leave out of what was said the fields that clients of the demo do not need, and those of users, who are not in it."""
    return [{**each, "user": None, "expires": None, "ping": None} if isinstance(each, dict) else each for each in said]


def _log(number: int) -> str:
    return f"[...document.querySelectorAll('.demo-log')[{number}].children].map((each) => each.className + ' ' + each.innerText)"


def _press(tab: Tab, name: str, number: int = 0) -> None:
    buttons = f"[...document.querySelectorAll('#demo button')].filter((each) => each.textContent === {name!r})"
    tab.run(f"{buttons}[{number}].click()")


def _connected(tab: Tab, count: int, way: str = "") -> None:
    shown = f"[...document.querySelectorAll('.demo-status')].filter((each) => each.textContent.startsWith('Connected by {way}'))"
    tab.wait(f"{shown}.length === {count}")


@pytest.mark.parametrize(("transport", "way"), [("websocket", "WebSocket"), ("sse", "event stream"), ("poll", "polling")])
def test_aReaderCutsTheLineAndSeesWhatComesBack(site: Path, tab: Tab, transport: str, way: str) -> None:
    """Without a network, the demo shows that what was published while a line was cut comes afterwards, once and in order."""
    tab.offline(True)
    tab.open((site / "index.html").as_uri())
    _connected(tab, 2)
    tab.run(
        "for (const each of document.querySelectorAll('#demo select')) {"
        f" each.value = {transport!r}; each.dispatchEvent(new Event('change')) }}"
    )
    _connected(tab, 2, way)
    _press(tab, "Publish")
    tab.wait(f"{_log(1)}.some((each) => each.includes('paid'))")
    _press(tab, "Cut the line", 1)
    _connected(tab, 1)
    _press(tab, "Publish")
    _press(tab, "Publish")
    tab.wait(f"{_log(0)}.some((each) => each.includes('shipped'))")
    _press(tab, "Mend the line")
    _connected(tab, 2)
    _press(tab, "Publish")
    for each in (0, 1):
        tab.wait(f"{_log(each)}.some((each) => each.includes('delivered'))")
    logs = [[line.split()[:3] for line in tab.run(_log(each)) if "It goes on by" not in line] for each in (0, 1)]
    assert [log[[line[0] == "demo-live" for line in log].index(True) :] for log in logs] == [
        [
            ["demo-live", "e1:1", "paid"],
            ["demo-live", "e1:2", "packed"],
            ["demo-live", "e1:3", "shipped"],
            ["demo-live", "e1:4", "delivered"],
        ],
        [
            ["demo-live", "e1:1", "paid"],
            ["demo-note", "The", "connection"],
            ["demo-note", "Back:", "it"],
            ["demo-late", "e1:2", "packed"],
            ["demo-late", "e1:3", "shipped"],
            ["demo-live", "e1:4", "delivered"],
        ],
    ]
    assert tab.messages == []


def test_aReaderRestartsTheServer(site: Path, tab: Tab) -> None:
    """When the server of the demo has forgotten its messages, the page says that something may be gone."""
    tab.open((site / "index.html").as_uri())
    _connected(tab, 2)
    _press(tab, "Publish")
    _press(tab, "Restart the server")
    tab.wait(f"{_log(0)}.some((each) => each.startsWith('demo-lost'))")
    _connected(tab, 2)
    _press(tab, "Publish")
    tab.wait(f"{_log(0)}.at(-1).includes('e2:1')")


def test_nothingIsWiderThanAPhone(site: Path, tab: Tab) -> None:
    """No page is wider than a phone, no code is cut off, only tables of figures are scrolled, and what is, by keyboard, too."""
    tab.resize(390, 844)
    wide, mute = [], []
    looks = """(() => {
        const wider = [...document.querySelectorAll(".content *")].filter((each) => each.scrollWidth > each.clientWidth + 1);
        const scrolled = (each) => each.tabIndex < 0 && /auto|scroll/.test(getComputedStyle(each).overflowX);
        const isFree = (each) => !each.clientWidth || each.closest(".demo") || each.querySelector(".figures");
        const cut = (each) => each.matches("pre, .table-wrapper") && !isFree(each);
        return [
            document.documentElement.scrollWidth,
            [...wider.filter(scrolled).map((each) => each.outerHTML), ...wider.filter(cut).map((each) => each.textContent)],
        ];
    })()"""
    for path in sorted(site.rglob("*.html")):
        tab.open(path.as_uri())
        name = str(path.relative_to(site))
        width, found = tab.run(looks)
        if width > 390:
            wide.append(name)
        mute += [f"{name}: {each[:80]}" for each in found]
    assert (wide, mute) == ([], [])


@pytest.mark.parametrize("page", ["index", "tutorial/board", "reference/options", "explanation/comparison", "performance"])
def test_axe(site: Path, tab: Tab, page: str) -> None:
    """Axe finds nothing on a page of each kind, in both themes, on a phone and on a screen."""
    for scheme, width in (("light", 390), ("dark", 1280)):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.resize(width, 900)
        tab.open((site / f"{page}.html").as_uri())
        if page == "index":
            _connected(tab, 2)
        assert violations(tab) == [], (scheme, width)
