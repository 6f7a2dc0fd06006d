from __future__ import annotations

import os

import pytest

from tests.web.test_pages import Server, get
from twisted_ws.errors import ConfigurationError
from twisted_ws.services.demo import Demo
from twisted_ws.web import folder
from twisted_ws.web.folder import readFolder


@pytest.fixture
def pages(tmp_path):
    """A folder with pages, and with what is not for visitors."""
    for name, text in (
        ("index.html", "<h1>Hello</h1>"),
        ("page.js", "let a = 1;"),
        ("a b/index.html", "<h1>Below</h1>"),
        ("data", "?"),
        (".secret", "hush"),
        (".git/config", "hush"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_read(pages):
    """Each file is at its path, index.html at that of its folder, too; what begins with a dot is not there."""
    found = readFolder(str(pages))
    assert sorted(found) == [b"/", b"/a%20b/", b"/a%20b/index.html", b"/data", b"/index.html", b"/page.js"]
    assert {path: each.kind for path, each in found.items() if b"index" not in path} == {
        b"/": "text/html; charset=utf-8",
        b"/a%20b/": "text/html; charset=utf-8",
        b"/data": "application/octet-stream",
        b"/page.js": "text/javascript; charset=utf-8",
    }


def test_circle(pages):
    """A link to a folder is not followed, so none leads around in a circle; a link to a file is that file."""
    os.symlink(pages, pages / "again")
    os.symlink(pages / "page.js", pages / "linked.js")
    os.mkfifo(pages / "pipe")
    found = readFolder(str(pages))
    assert found[b"/linked.js"].content == b"let a = 1;"
    assert not [path for path in found if b"again" in path or b"pipe" in path]


def test_anyBytes(pages):
    """A file is at the bytes of its name, whether or not they are UTF-8."""
    for name in b"gr\xc3\xbcn", b"gr\xfcn", b"\x1b[2J":
        with open(os.path.join(os.fsencode(pages), name), "wb") as file:
            file.write(name)
    found = readFolder(str(pages))
    assert found[b"/gr%C3%BCn"].content == b"gr\xc3\xbcn"
    assert found[b"/gr%FCn"].content == b"gr\xfcn"
    assert found[b"/%1B%5B2J"].content == b"\x1b[2J"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_saysNoSize(pages, monkeypatch):
    """A file counts with the bytes that it has, whatever size the system says: those of /proc have none."""
    os.symlink("/proc/self/status", pages / "status.txt")
    assert readFolder(str(pages))[b"/status.txt"].content.startswith(b"Name:")
    monkeypatch.setattr(folder, "BYTES", 100)
    with pytest.raises(ConfigurationError, match="more than"):
        readFolder(str(pages))


def test_mistakes(pages, monkeypatch):
    """A folder that is missing, too large, or not readable is refused with its name."""
    for path in ("page.js", "nothing"):
        with pytest.raises(ConfigurationError, match=f"{path} is not a folder"):
            readFolder(str(pages / path))
    for name in ("FILES", "BYTES"):
        with monkeypatch.context() as changed:
            changed.setattr(folder, name, 2)
            with pytest.raises(ConfigurationError, match="more than"):
                readFolder(str(pages))


def test_served(pages):
    """The files are served with their types and validators, before the page of the demo; nothing else of the disk is."""
    server = Server(ws=Demo())
    options = {"folder": readFolder(str(pages))}
    page = get(server, "/", **options)
    assert (page.status, page.body, page.header("content-type")) == (200, b"<h1>Hello</h1>", "text/html; charset=utf-8")
    assert page.header("x-content-type-options") == "nosniff"
    assert get(server, "/", f"If-None-Match: {page.header('etag')}", **options).status == 304
    assert get(server, "/page.js?version=2", **options).body == b"let a = 1;"
    assert get(server, "/ws", **options).status == 426
    for path in ("/.secret", "/.git/config", "/%2e%2e/etc/passwd", "/a%20b", "//page.js", "/page%2ejs"):
        assert get(server, path, **options).status in (400, 404)
    assert get(server, "/page.js", "Content-Length: 0", method="POST", **options).status == 405
