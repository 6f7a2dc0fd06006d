"""A real OpenID provider, in a Node: discovery, keys by URL, logins with PKCE, client credentials and refresh tokens."""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import http.cookiejar
import itertools
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urljoin, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.browser.node import environment, installed
from tests.live.support import PATIENCE, until

SCRIPT = Path(__file__).with_suffix(".mjs")
SECRET = "planted-client-secret-0123456789-0123456789"


# An RSA key takes long to make, so there are no more than may meet.
_TURNS = itertools.cycle(range(4))
_rsaKey = functools.cache(lambda turn: rsa.generate_private_key(65537, 2048))


def newKeys() -> list[dict[str, Any]]:
    """Return new private keys for RS256 and ES256, with ids of their own."""
    keys = (_rsaKey(next(_TURNS)), ec.generate_private_key(ec.SECP256R1()))
    found = [RSAAlgorithm.to_jwk(keys[0], as_dict=True), ECAlgorithm.to_jwk(keys[1], as_dict=True)]
    for each in found:
        each.pop("key_ops", None)  # what a private key is for; the provider would publish it with the public one
        each |= {"use": "sig", "kid": uuid.uuid4().hex}
    return found


class _Node:
    """The process that has all providers: to load what they are made of takes longer than most of them live."""

    def __init__(self) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._process = subprocess.Popen(["node", str(SCRIPT)], env=environment(), **pipes)
        self._lines: dict[str, list[str]] = {}
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self._end)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            port, _, text = line.rstrip("\n").partition(" ")
            with self._news:
                self._lines.setdefault(port, []).append(text)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def ask(self, task: str, answer: str, port: int, **options: Any) -> list[str]:
        """Ask for something, and return the lines of this port since then, to which others are added, once `answer` is there."""
        assert self._process.stdin is not None
        self._lines[str(port)] = lines = []
        self._process.stdin.write(json.dumps({"task": task, "port": port, **options}) + "\n")
        self._process.stdin.flush()
        with self._news:
            self._news.wait_for(lambda: answer in lines or self._ended, PATIENCE)
        assert answer in lines, self._lines
        return lines

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@functools.cache
def _node() -> _Node:
    return _Node()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


class Provider:
    """A provider that runs.

    Args:
        port: where it listens.
        path: that of its issuer; with a slash, if the issuer ends with one.
        jwks: the path of its keys, after that.
        resources: by resource indicator, what the tokens for it have: ``audience``, ``alg``, ``scope``.
        claims: more claims of access tokens; ``$USER``, ``$CLIENT`` and ``$SESSION`` are filled in.
        seconds: how long access tokens live.
        redirects: where the page of a client may be.

    Attributes:
        issuer: its name.
        keys: its private keys; others count after a new start.
    """

    def __init__(
        self,
        port: int,
        path: str = "",
        jwks: str = "/jwks",
        resources: Mapping[str, Mapping[str, str]] | None = None,
        claims: Mapping[str, Any] | None = None,
        seconds: int = 600,
        redirects: tuple[str, ...] = ("http://localhost:9/callback",),
    ) -> None:
        self.issuer = f"http://localhost:{port}{path}"
        self.jwks = self.issuer.rstrip("/") + jwks
        self.keys = newKeys()
        self._redirect = redirects[0]
        self._resources = resources or {"https://push.shop.example": {}}
        page = {"client_id": "page", "redirect_uris": redirects, "token_endpoint_auth_method": "none"}
        page |= {"grant_types": ["authorization_code", "refresh_token"], "post_logout_redirect_uris": redirects}
        machine = {"client_id": "machine", "client_secret": SECRET, "redirect_uris": [], "response_types": []}
        machine |= {"grant_types": ["client_credentials"]}
        self._options = {
            "module": str(installed("oidc-provider", "9") / "lib" / "index.js"),
            "port": port,
            "issuer": self.issuer,
            "jwks": jwks,
            "resources": self._resources,
            "claims": claims or {},
            "clients": [page, machine],
            "seconds": seconds,
        }
        self._runs = False
        self.lines: list[str] = []

    def start(self) -> None:
        """Start it, or start it anew with the keys that it has now; `lines` are new then."""
        self.stop()
        self.lines = _node().ask("start", "ready", **self._options, keys=self.keys)
        self._runs = True

    def stop(self) -> None:
        """End it: nothing listens, and there are no connections."""
        if self._runs:
            _node().ask("stop", "stopped", port=self._options["port"])
            self._runs = False

    @property
    def fetches(self) -> int:
        """How often its keys have been asked for since its start."""
        mark = f"/{uuid.uuid4().hex}"
        _asked(urllib.request.build_opener(), self.issuer.rstrip("/") + mark, None)
        until(lambda: any(line.endswith(mark) for line in self.lines))  # so all that came before is there, too
        return self.lines.count(f"GET {urlsplit(self.jwks).path}")

    def discover(self) -> dict[str, Any]:
        """Return what it says about itself (OpenID Connect Discovery)."""
        with urllib.request.urlopen(self.issuer.rstrip("/") + "/.well-known/openid-configuration", timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _tokens(self, fields: Mapping[str, str], secret: str = "") -> dict[str, Any]:
        headers = {}
        if secret:
            pair = f"machine:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        url = self.issuer.rstrip("/") + "/token"
        with urllib.request.urlopen(urllib.request.Request(url, urlencode(fields).encode(), headers), timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def machine(self, resource: str = "https://push.shop.example", scope: str = "") -> str:
        """Return an access token of the client ``machine`` (RFC 6749 section 4.4, RFC 8707)."""
        fields = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        return str(self._tokens(fields, SECRET)["access_token"])

    def refresh(self, token: str) -> str:
        """Return a new access token of the client ``page`` (RFC 6749 section 6)."""
        return str(self._tokens({"grant_type": "refresh_token", "refresh_token": token, "client_id": "page"})["access_token"])

    def login(
        self, user: str, resource: str = "https://push.shop.example", scope: str = "openid offline_access"
    ) -> dict[str, Any]:
        """Log a user in as a browser does, by the code flow with PKCE, and return the provider's answer with the tokens."""
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        opener.addheaders = [("Accept", "text/html")]
        verifier = uuid.uuid4().hex * 2
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "client_id": "page",
            "redirect_uri": self._redirect,
            "response_type": "code",
            "scope": scope,
            "prompt": "consent",
        }
        asked |= {"resource": resource, "code_challenge": challenge, "code_challenge_method": "S256"}
        url, form = f"{self.issuer.rstrip('/')}/auth?{urlencode(asked)}", None
        while not url.startswith(self._redirect):
            status, text, location = _asked(opener, url, form)
            if status == 200:
                (action,), (prompt,) = re.findall(r'action="([^"]*)"', text), re.findall(r'name="prompt" value="(\w+)"', text)
                url = urljoin(url, action)
                form = urlencode({"prompt": prompt, "login": user, "password": "x"}).encode()
            else:
                assert status in (302, 303), text
                url, form = urljoin(url, location), None
        (code,) = parse_qs(urlsplit(url).query)["code"]
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect, "code_verifier": verifier}
        return self._tokens({**fields, "client_id": "page"})


def _asked(opener: urllib.request.OpenerDirector, url: str, form: bytes | None) -> tuple[int, str, str]:
    """Return the status of an answer, its text, and where it leads."""
    try:
        with opener.open(url, form, timeout=PATIENCE) as page:
            return page.status, page.read().decode(), ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers.get("Location", "")


@contextmanager
def provider(port: int, **options: Any) -> Iterator[Provider]:
    """Start a provider, and end it; see `Provider`."""
    found = Provider(port, **options)
    try:
        found.start()
        yield found
    finally:
        found.stop()
