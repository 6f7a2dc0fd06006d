"""A real OpenID provider, as a process: discovery, keys by URL, logins with PKCE, client credentials and refresh tokens."""

from __future__ import annotations

import base64
import hashlib
import http.cookiejar
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


def newKeys() -> list[dict[str, Any]]:
    """Return new private keys for RS256 and ES256, with ids of their own."""
    keys = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()))
    found = [RSAAlgorithm.to_jwk(keys[0], as_dict=True), ECAlgorithm.to_jwk(keys[1], as_dict=True)]
    for each in found:
        each.pop("key_ops", None)  # what a private key is for; the provider would publish it with the public one
        each |= {"use": "sig", "kid": uuid.uuid4().hex}
    return found


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
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.lines: list[str] = []

    def start(self) -> None:
        """Start it, or start it anew with the keys that it has now; it has forgotten its sessions then, and `lines` are new."""
        self.stop()
        options = json.dumps({**self._options, "keys": self.keys})
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._process = subprocess.Popen(["node", str(SCRIPT)], env=environment(), **pipes)
        assert self._process.stdin is not None
        self._process.stdin.write(options)
        self._process.stdin.close()
        self.lines = lines = []
        ready = threading.Event()

        def read(output: Any) -> None:
            for line in output:
                lines.append(line.rstrip("\n"))
                if line == "ready\n":
                    ready.set()
            ready.set()

        self._reader = threading.Thread(target=read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        ready.wait(PATIENCE)
        assert "ready" in lines, lines

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._reader is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

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
