"""What the documentation says is what happens: its commands and snippets are run, as they stand, against a real server."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.transcript import PATIENCE, ROOT, Block, Reader, blocks
from twisted_ws.daemon.settings import load, merge

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*/*.md"))]
# Followed in tests/live/test_web_applications.py, and in tests/outbox/test_howto.py.
_IN_PARTS = {DOCS / "howto" / "web-application.md", DOCS / "howto" / "outbox.md"}
RUN = [
    page for page in PAGES if page not in _IN_PARTS and any(block.kind in ("console", "python", "sh") for block in blocks(page))
]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _samples(kind: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.kind == kind]


@pytest.mark.parametrize("page", RUN, ids=_name)
def test_follow(page: Path, tmp_path: Path) -> None:
    """A reader who types what a page says sees what it says."""
    with Reader(tmp_path) as reader:
        for block in blocks(page):
            reader.follow(block)


def test_failedStep(tmp_path: Path) -> None:
    """The error of a step that fails says what the server and the open clients had printed."""
    with Reader(tmp_path) as reader:
        reader.follow(Block("console", "$ twistd -n wsservice\n"))
        reader.follow(Block("console", "$ websockets ws://localhost:8080/ws/subscribe\n> hello\n< Echo: hello\n"))
        with pytest.raises(AssertionError, match="false: exit code 1") as raised:
            reader.follow(Block("console", "$ false\n"))
        client, server = raised.value.__notes__
    assert client.startswith("websockets ws://")
    assert "< Echo: hello" in client
    assert server.startswith("twistd -n wsservice")
    assert f"WebSocket on ws://localhost:{reader.ports['8080']}" in server


@pytest.mark.parametrize("page", [*PAGES, *sorted(DOCS.glob("*.md"))], ids=_name)
def test_tables(page: Path) -> None:
    """Each table follows an empty line: right behind a paragraph it would be shown as text with bars in it."""
    lines = page.read_text().splitlines()
    heads = [number - 1 for number, line in enumerate(lines) if re.fullmatch(r"\|( *:?-+:? *\|)+", line)]
    assert [lines[head] for head in heads if not lines[head].startswith("|") or lines[head - 1]] == []


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")], ids=_name)
def test_linksOfReadmes(page: Path) -> None:
    """Each link of a page that is not part of the site leads to a file that is there, and to a heading that is in it."""
    broken = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in _headings(target)):
            broken.append(link)
    assert broken == []


def _headings(page: Path) -> list[str]:
    """Return the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


@pytest.mark.parametrize("page", sorted((DOCS / "tutorial").glob("*.md")), ids=_name)
def test_noCodeUnrun(page: Path) -> None:
    """The tutorial has no block of a kind that nothing runs; what it has of HTML is saved as a page that a browser opens."""
    assert {block.kind for block in blocks(page)} <= {"console", "python", "text", "toml", "json", "html"}
    assert all(block.text.startswith("<!-- templates/board.html -->") for block in blocks(page) if block.kind == "html")


def test_examplesUsed() -> None:
    """Each example is shown on some page, and each page shows examples that exist."""
    text = "".join(page.read_text() for page in PAGES)
    for example in (ROOT / "examples").glob("*.py"):
        assert f"examples/{example.name}" in text, f"{example.name} is on no page"


def test_embedWhereItCannotListen(tmp_path: Path) -> None:
    """The program that embeds the server says why it cannot listen, and ends."""
    with Reader(tmp_path) as reader, socket.create_server(("127.0.0.1", int(reader.ports["8080"]))):
        command = [sys.executable, "embed.py"]
        done = subprocess.run(command, cwd=tmp_path / "examples", capture_output=True, text=True, timeout=PATIENCE, check=False)
    place = f"127.0.0.1:{reader.ports['8080']}"
    assert done.stderr == f"Couldn't listen on {place}: [Errno {errno.EADDRINUSE}] Address already in use.\n"


@pytest.mark.parametrize("sample", _samples("toml"))
def test_configuration(sample: Block, tmp_path: Path) -> None:
    """Each configuration file that a page shows is one that the daemon takes."""
    file = tmp_path / "wsservice.toml"
    file.write_text(sample.text)
    merge(load(str(file)), {})


@pytest.mark.parametrize("sample", _samples("ini"))
def test_systemd(sample: Block, tmp_path: Path) -> None:
    """Each systemd unit that a page shows is one that systemd takes; without systemd, its sections and keys are checked."""
    # The first line names the unit; the programs that it starts are somewhere else on this machine.
    name = Path(sample.text.partition("\n")[0].removeprefix("# ")).name
    assert name.endswith((".service", ".socket"))
    unit = tmp_path / name
    unit.write_text(sample.text.replace("/opt/chat/bin/", "/bin/true #"))
    if name.endswith(".socket"):
        (tmp_path / f"{unit.stem}.service").write_text("[Service]\nExecStart=/bin/true\n")
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=30)
        ours = [line for line in done.stderr.splitlines() if name in line and "is not executable" not in line]
        assert not ours
    lines = [line for line in sample.text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("[")
    assert all(line.startswith("[") or "=" in line for line in lines)


@pytest.mark.parametrize("sample", _samples("nginx"))
def test_nginx(sample: Block, tmp_path: Path) -> None:
    """Each nginx configuration that a page shows is balanced, and passes nginx's own test where nginx is installed."""
    assert sample.text.count("{") == sample.text.count("}")
    assert all(line.rstrip().endswith((";", "{", "}")) for line in sample.text.splitlines() if line and line.lstrip()[:1] != "#")
    nginx = shutil.which("nginx")
    if nginx is not None:
        configuration = tmp_path / "nginx.conf"
        # Its certificates are on another machine.
        http = "\n".join(line for line in sample.text.replace(" ssl;", ";").splitlines() if "ssl_certificate" not in line)
        configuration.write_text(f"pid {tmp_path}/pid; error_log stderr;\nevents {{}}\nhttp {{\n{http}\n}}\n")
        subprocess.run([nginx, "-t", "-q", "-c", configuration, "-p", tmp_path], check=True, timeout=30)
