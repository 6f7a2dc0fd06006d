"""A real daemon and a real OpenID provider, with the configurations and the program of the how-to guide."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from tests.live.nursery import run
from tests.live.openid import SECRET, Provider, newKeys, provider
from tests.live.support import COMMAND, PATIENCE, Running, environment, running, until, writeService
from tests.live.test_access import SERVICE, said
from tests.ports import freePort
from tests.transcript import ROOT, blocks

HOWTO = ROOT / "docs" / "howto" / "openid.md"
(MACHINE,) = [block.text for block in blocks(HOWTO) if block.kind == "python"]
TABLES = [block.text for block in blocks(HOWTO) if block.kind == "toml"]
PUSH = "https://push.shop.example"


class Shape(NamedTuple):
    """What a provider must be like so that its tokens are those of a well-known one."""

    issuer: str  # in the guide
    path: str
    jwks: str
    claims: dict[str, Any]
    scopes: set[str]
    audience: str = PUSH


SHAPES = {
    "auth0": Shape("https://shop.eu.auth0.com/", "/", "/.well-known/jwks.json", {"permissions": ["chat"]}, {"chat"}),
    "keycloak": Shape(
        "https://login.shop.example/realms/shop",
        "/realms/shop",
        "/protocol/openid-connect/certs",
        {"typ": "Bearer", "azp": "$CLIENT", "realm_access": {"roles": ["chat", "offline_access"]}},
        {"chat", "offline_access"},
    ),
    "cognito": Shape(
        "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI",
        "/eu-west-1_AbCdEfGhI",
        "/.well-known/jwks.json",
        {"token_use": "access", "username": "$USER", "cognito:groups": ["chat"]},
        {"chat"},
    ),
    "supabase": Shape(
        "https://abcdefghij.supabase.co/auth/v1",
        "/auth/v1",
        "/.well-known/jwks.json",
        {"role": "authenticated", "is_anonymous": False},
        {"authenticated"},
        "authenticated",
    ),
    "firebase": Shape(
        "https://securetoken.google.com/shop-1234",
        "/shop-1234",
        "/jwks",
        {"user_id": "$USER", "roles": ["chat"]},
        {"chat"},
        "shop-1234",
    ),
    "": Shape("https://login.shop.example", "", "/jwks", {}, set()),
}


def table(preset: str) -> str:
    """Return the guide's table for a preset, "" for none, without the rest of a file."""
    wanted = f'preset = "{preset}"' if preset else "jwks ="
    found = next(each for each in TABLES if wanted in each and "grants" not in each)
    begin = found.index("[authenticators.login]")
    return found[begin:].partition("\n\n")[0]


def configure(directory: Path, preset: str, issuer: Provider) -> str:
    """Write the guide's configuration, for this provider, and return the name of the file."""
    shape = SHAPES[preset]
    text = table(preset).replace(f'"{shape.issuer}"', f'"{issuer.issuer}"').replace("1example23456789", "page")
    if preset == "":
        text = text.replace("https://login.shop.example/jwks", issuer.jwks)
    if preset == "firebase":  # the only one whose keys are elsewhere, and whose audience is in its issuer
        text += f'\njwks = "{issuer.jwks}"\naudience = "shop-1234"'
    text += "\ndeadline = 60"  # the provider may be slow, on a busy machine, and is not to be asked twice
    writeService(directory, SERVICE)
    rules = '[channels."users.{user}.*"]\nsubscribe = "owner"\n[limits]\nupgradeDeadline = 90\n'
    (directory / "push.toml").write_text(
        f'authenticate = ["login"]\n\n{text}\n\n[services]\n"/who" = {{ target = "rooms:Who" }}\n'
        f'"/channels" = {{ target = "channels" }}\n"/channels/{{channel}}" = {{ target = "channels" }}\n{rules}'
    )
    return "push.toml"


def come(server: Running, token: str) -> str:
    """Return what a client hears with this token, or its status."""
    return said(lambda: server.client("/who", additional_headers={"Authorization": f"Bearer {token}"}))


def check(directory: Path, token: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of ``twisted-ws token check``."""
    command = [*COMMAND, "token", "check", "--config", "push.toml", "-"]
    pipe = subprocess.PIPE
    done = run(command, PATIENCE, token, cwd=directory, env=environment(directory), stdin=pipe, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("preset", SHAPES)
def test_presets(tmp_path: Path, preset: str) -> None:
    """With the guide's configuration, a user who has logged in comes in with roles; other tokens are refused, and why."""
    shape = SHAPES[preset]
    resources = {PUSH: {"audience": shape.audience}, f"{PUSH}/es": {"audience": shape.audience, "alg": "ES256"}}
    resources["https://other.example"] = {}
    options = {"path": shape.path, "jwks": shape.jwks, "claims": shape.claims, "resources": resources}
    with provider(freePort(), **options) as issuer:
        assert issuer.discover()["jwks_uri"] == issuer.jwks
        assert issuer.discover()["issuer"] == issuer.issuer
        with running(tmp_path, "--config", configure(tmp_path, preset, issuer)) as server:
            tokens = issuer.login("auth0|ann")
            access = tokens["access_token"]
            assert jwt.get_unverified_header(access)["alg"] == "RS256"
            assert come(server, access) == f"auth0|ann {sorted(shape.scopes)}"
            curved = issuer.login("ann", f"{PUSH}/es")["access_token"]
            assert jwt.get_unverified_header(curved)["alg"] == "ES256"
            assert come(server, curved) == f"ann {sorted(shape.scopes)}"
            assert issuer.fetches == 1
            code, lines = check(tmp_path, access)
            assert (code, lines[-1]) == (0, "accepted")
            assert 'user: sub is "auth0|ann"' in "\n".join(lines)
            # An ID token says who somebody is to the page, and is signed with the same keys.
            wrong = [tokens["id_token"]]
            if preset != "cognito":
                wrong.append(issuer.login("ann", "https://other.example")["access_token"])
            for token in wrong:
                assert come(server, token) == "401"
                code, lines = check(tmp_path, token)
                assert code == 1
                reason, number = lines[-1].removeprefix("refused (").split("push.toml:")
                line = (tmp_path / "push.toml").read_text().splitlines()[int(number.split(",")[0].rstrip("]")) - 1]
                if preset == "cognito":
                    assert reason.startswith("required): A claim does not have the value")
                    assert line.startswith(("require =", "preset ="))
                else:
                    assert reason.startswith("aud): The token is for another audience.")
                    assert line.startswith(("audience =", "preset ="))
    assert access not in server.output


def test_otherIssuer(tmp_path: Path) -> None:
    """A token of another provider is refused, also when it names the same audience, issuer and key."""
    with (
        provider(freePort()) as first,
        provider(freePort()) as second,
        running(tmp_path, "--config", configure(tmp_path, "", first)) as server,
    ):
        other = second.machine()
        assert come(server, other) == "401"
        server.waitFor("is from another issuer")
        lines = check(tmp_path, other)[1]
        assert lines[-1].startswith("refused (iss): No authenticator accepts this token.  [push.toml:")
        claims = jwt.decode(other, options={"verify_signature": False}) | {"iss": first.issuer}
        key = jwt.PyJWK(second.keys[0], algorithm="RS256").key
        for kid, reason in (
            (second.keys[0]["kid"], "no key with this token's id"),
            (first.keys[0]["kid"], "The signature is wrong"),
        ):
            forged = jwt.encode(claims, key, "RS256", {"kid": kid})
            assert come(server, forged) == "401"
            server.waitFor(reason)
        assert come(server, first.machine()) == "machine []"


def test_rotation(tmp_path: Path) -> None:
    """New keys of the provider count at once, at the cost of one fetch, and tokens of the old ones until what is kept ends."""
    with provider(freePort()) as issuer, running(tmp_path, "--config", configure(tmp_path, "", issuer)) as server:
        begin = time.monotonic()
        old = [issuer.login(user)["access_token"] for user in ("ann", "bob", "eve")]
        assert come(server, old[0]) == "ann []"
        issuer.keys = newKeys()
        issuer.start()
        # The old keys are those that the server knows.
        assert come(server, old[1]) == "bob []"
        assert issuer.fetches == 0
        assert come(server, issuer.login("ann")["access_token"]) == "ann []"
        assert issuer.fetches == 1
        # They are gone now; what was verified with them still counts, until it is verified anew.
        assert [come(server, each) for each in old] == ["ann []", "bob []", "401"]
        server.signal(signal.SIGHUP)
        until(lambda: come(server, old[0]) == "401")
        assert come(server, old[1]) == "401"
        assert come(server, issuer.login("ann")["access_token"]) == "ann []"
        # Ids of keys that somebody makes up.
        claims = jwt.decode(old[0], options={"verify_signature": False})
        key = jwt.PyJWK(newKeys()[0], algorithm="RS256").key
        with ThreadPoolExecutor(8) as threads:
            flood = [jwt.encode(claims, key, "RS256", {"kid": f"made up {number}"}) for number in range(60)]
            assert {*threads.map(partial(come, server), flood)} <= {"401", "503"}
        assert issuer.fetches <= 1 + (time.monotonic() - begin) // 30
        assert come(server, issuer.login("ann")["access_token"]) == "ann []"


def test_rotationWithWorkers(tmp_path: Path) -> None:
    """However many come at once with a new key to both workers, all come in, and each worker fetches the keys once."""
    with provider(freePort()) as issuer:
        name = configure(tmp_path, "", issuer)
        path = tmp_path / name
        path.write_text(f'workers = 2\nstate-directory = "state"\n{path.read_text()}')
        with running(tmp_path, "--config", name) as server, ThreadPoolExecutor(8) as threads:
            old = issuer.login("ann")["access_token"]
            assert {*threads.map(partial(come, server), [old] * 16)} == {"ann []"}
            issuer.keys = newKeys()
            issuer.start()
            new = [issuer.login("ann")["access_token"] for _ in range(16)]
            assert {*threads.map(partial(come, server), new)} == {"ann []"}
            assert issuer.fetches <= 2


def test_withoutTheProvider(tmp_path: Path) -> None:
    """While there are no keys, tokens are answered with 503; the keys are there by themselves when the provider is."""
    with provider(freePort()) as issuer:
        token = issuer.machine()
        issuer.stop()
        with running(tmp_path, "--config", configure(tmp_path, "", issuer)) as server:
            server.waitFor("no keys from its jwks URL")
            assert come(server, token) == "503"
            code, lines = check(tmp_path, token)
            assert code == 6
            assert any(line.startswith("key: Tokens cannot be checked at present.") for line in lines)
            issuer.start()
            until(lambda: come(server, token) == "machine []")
            issuer.stop()
            assert come(server, token) == "machine []"


@contextmanager
def program(directory: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program, which is ended if it does not end itself."""
    (directory / "machine.py").write_text(text)
    pipes: Any = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-u", "machine.py"]
    with subprocess.Popen(command, cwd=directory, env=environment(directory), text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def secret(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(text)
    path.chmod(0o600)


def test_machine(tmp_path: Path) -> None:
    """The guide's program logs in with its own secret, gets what is published for it, and comes back when its token has ended."""
    secret(tmp_path, "client.secret", SECRET)
    # Leeway and all, a connection is closed 12 seconds after a token was issued, and none is used in the 30 before its end.
    with provider(freePort(), seconds=2) as issuer, running(tmp_path, "--config", configure(tmp_path, "", issuer)) as server:
        text = MACHINE.replace("wss://push.shop.example", f"ws://localhost:{server.port('ws')}")
        text = text.replace("https://login.shop.example/token", f"{issuer.issuer}/token")

        def publish(message: str) -> int:
            answer = server.curl("-d", message, path="/channels/users.machine.jobs")
            return int(json.loads(answer)["recipients"])

        with program(tmp_path, text) as machine:
            assert machine.stdout is not None
            until(lambda: publish("first") == 1)
            while machine.stdout.readline() != "first\n":
                pass
            until(lambda: issuer.lines.count("POST /token") >= 2)
            until(lambda: publish("second") == 1)
            while machine.stdout.readline() != "second\n":
                pass
    assert SECRET not in server.output


REFRESH = """
from twisted.internet.task import react
from twisted_ws.client import OAuth2

tokens = OAuth2("ISSUER/token", "page", grant="refresh_token", refreshTokenFile="refresh.token")


async def main(reactor):
    for _ in range(3):
        print(await tokens())
        tokens.forget()


react(main)
"""


def test_refreshTokens(tmp_path: Path) -> None:
    """With a refresh token, which the provider replaces each time, a program gets token after token, also after a restart."""
    with provider(freePort()) as issuer, running(tmp_path, "--config", configure(tmp_path, "", issuer)) as server:
        secret(tmp_path, "refresh.token", issuer.login("ann")["refresh_token"])
        for _ in range(2):
            with program(tmp_path, REFRESH.replace("ISSUER", issuer.issuer)) as process:
                printed, errors = process.communicate(timeout=PATIENCE)
            assert errors == ""
            assert len({*printed.split()}) == 3
            assert [come(server, each) for each in printed.split()] == ["ann []"] * 3


def test_revocation(tmp_path: Path) -> None:
    """When a back end takes a user's tokens back, open connections end and the tokens open nothing; a new login does."""
    with provider(freePort()) as issuer, running(tmp_path, "--config", configure(tmp_path, "", issuer)) as server:
        old = issuer.login("ann")["access_token"]
        with server.client("/who", additional_headers={"Authorization": f"Bearer {old}"}) as client:
            assert client.recv(PATIENCE) == "ann []"
            server.curl("--json", json.dumps({"user": "ann"}), path="/api/revoke")
            with pytest.raises(ConnectionClosed):
                client.recv(PATIENCE)
        assert come(server, old) == "401"
        # Tokens have whole seconds: one of the same second may be older than the call.
        until(lambda: come(server, issuer.login("ann")["access_token"]) == "ann []")
        assert come(server, issuer.login("bob")["access_token"]) == "bob []"


def test_logout(tmp_path: Path) -> None:
    """A back end ends one login of a user, with all tokens that are refreshed from it, and leaves their other one alone."""
    shape = SHAPES["keycloak"]
    claims = {**shape.claims, "sid": "$SESSION"}
    with (
        provider(freePort(), path=shape.path, jwks=shape.jwks, claims=claims) as issuer,
        running(tmp_path, "--config", configure(tmp_path, "keycloak", issuer)) as server,
    ):
        phone, desk = issuer.login("ann"), issuer.login("ann")
        with (
            server.client("/who", additional_headers={"Authorization": f"Bearer {phone['access_token']}"}) as first,
            server.client("/who", additional_headers={"Authorization": f"Bearer {desk['access_token']}"}) as second,
        ):
            assert [first.recv(PATIENCE), second.recv(PATIENCE)] == ["ann ['chat', 'offline_access']"] * 2
            session = jwt.decode(phone["access_token"], options={"verify_signature": False})["sid"]
            server.curl("--json", json.dumps({"token": session}), path="/api/revoke")
            with pytest.raises(ConnectionClosed):
                first.recv(PATIENCE)
            assert come(server, phone["access_token"]) == "401"
            assert come(server, issuer.refresh(phone["refresh_token"])) == "401"
            assert come(server, issuer.refresh(desk["refresh_token"])) == "ann ['chat', 'offline_access']"
            assert second.ping().wait(PATIENCE)
