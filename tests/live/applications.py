"""The web applications of the how-to guide, each as a real process with its framework, beside our server and behind nginx."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from tests.live.proxies import fromPage
from tests.live.support import PATIENCE, unverified
from tests.transcript import ROOT, Block, Reader, blocks

PAGE = ROOT / "docs/howto/web-application.md"
HOST = "shop.example"
# The headings of the page under which a framework has its own part.
FRAMEWORKS = ("Flask", "FastAPI", "Django")
ANN, BOB = "ann@example.org", "bob"


def parts() -> dict[str, list[Block]]:
    """Return the blocks of the page by heading; "" for those before the first."""
    found: dict[str, list[Block]] = {}
    everything = list(blocks(PAGE))
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE):
        heading, _, text = section.partition("\n")
        found[heading] = [block for block in everything if f"```{block.kind}\n{block.text}```" in text]
    return found


@contextmanager
def application(framework: str, directory: Path) -> Iterator[int]:
    """Follow the page for one framework, start nginx as the page has it, and return its port, which speaks TLS."""
    everything = parts()
    (proxy,) = everything["nginx"]
    mine = [block for heading, part in everything.items() if heading not in {*FRAMEWORKS, "nginx"} for block in part]
    with Reader(directory) as reader:
        for block in (*mine, *everything[framework]):
            if block.kind == "toml" and not block.text.startswith("#"):
                with (directory / "push.toml").open("a") as file:
                    file.write("\n" + reader.translate(block.text))
            else:
                reader.follow(block)
        places = {f":{port}": f":{reader.ports[port]}" for port in ("8000", "8080")}
        with fromPage("nginx", proxy.text, directory, places) as port:
            yield port


class Visitor:
    """A browser as far as an application needs one: it keeps cookies and sends forms.

    Args:
        port: that of nginx.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"https://{HOST}:{port}"
        self._cookies: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """What a page's requests have: where it came from, and its cookies."""
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        return {"Host": f"{HOST}:{self.port}", "Origin": self.origin, **({"Cookie": cookies} if cookies else {})}

    def connect(self) -> http.client.HTTPSConnection:
        """Return a connection to nginx; TLS without a look at the certificate."""
        context: ssl.SSLContext = unverified()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)

    def ask(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """Return the status and the body for a page, or for a form that is sent; a redirect is a status."""
        connection = self.connect()
        body = None if form is None else urlencode(form)
        headers = self.headers if form is None else {**self.headers, "Content-Type": "application/x-www-form-urlencoded"}
        headers["Referer"] = self.origin + path
        try:
            connection.request("GET" if form is None else "POST", path, body, headers)
            answer = connection.getresponse()
            for line in answer.headers.get_all("Set-Cookie", ()):
                for name, morsel in SimpleCookie(line).items():
                    assert morsel["secure"] or not morsel.value
                    self._cookies[name] = morsel.value
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def send(self, page: str, path: str, **fields: str) -> int:
        """Fill in and send the form of a page, with what is hidden in it; return the status."""
        hidden = re.search(r'name="csrfmiddlewaretoken" value="(.*?)"', self.ask(page)[1])
        assert hidden is not None
        return self.ask(path, {"csrfmiddlewaretoken": hidden[1], **fields})[0]

    def login(self, user: str, password: str | None = None) -> None:
        """Log in by the form."""
        self.send("/login", "/login", username=user, password=f"password of {user}" if password is None else password)

    def order(self, item: str) -> None:
        """Order something."""
        assert self.send("/", "/orders", item=item) in (302, 303)

    def logout(self) -> None:
        """Log out; a copy of the cookies stays."""
        copy = dict(self._cookies)
        assert self.send("/", "/logout") in (302, 303)
        self._cookies = copy
