"""Tokens from an authorization server."""

from __future__ import annotations

import base64
import errno
import json
import os
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.access.asking.exchange import Answer, Unanswered
from twisted_ws.client import ConnectFailed, OAuth2

URL = "http://127.0.0.1:9/token"


class Server:
    """An authorization server that notes what it is asked, and answers what the test says."""

    def __init__(self, *answers):
        self.answers = [*answers]
        self.asked = []

    def send(self, question):
        self.asked.append((dict(question.headers), {name: value[0] for name, value in parse_qs(question.body.decode()).items()}))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        result = Deferred()
        if isinstance(answer, Exception):
            result.errback(answer)
        else:
            status, body = answer
            result.callback(Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode()))
        return result


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    return write


def asking(server, clock, **options):
    return OAuth2(URL, "shop", reactor=clock, send=server.send, **options)


def token(function):
    results = []
    Deferred.fromCoroutine(function()).addBoth(results.append)
    (result,) = results
    if not isinstance(result, str):
        result.raiseException()
    return result


def test_parameters(write):
    """More of the request can be said, but not something else than the other arguments say."""
    server = Server((200, {"access_token": "one"}))
    more = {"audience": "https://push.shop.example", "grant_type": "password"}
    token(asking(server, Clock(), secretFile=write("secret", "s"), parameters=more))
    assert server.asked[0][1] == {"grant_type": "client_credentials", "audience": "https://push.shop.example"}


def test_clientCredentials(write):
    """The client names itself by HTTP Basic, and a token is used until 30 seconds before its end."""
    clock, server = Clock(), Server((200, {"access_token": "one", "expires_in": 100}), (200, {"access_token": "two"}))
    clock.advance(1000)
    function = asking(server, clock, secretFile=write("secret", "s3cr:t\n"), scope="push chat")
    assert [token(function), token(function)] == ["one", "one"]
    ((headers, fields),) = server.asked
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"shop:s3cr%3At"
    assert fields == {"grant_type": "client_credentials", "scope": "push chat"}
    clock.advance(69)
    assert token(function) == "one"
    clock.advance(2)
    assert token(function) == "two"
    function.forget()
    token(function)
    assert len(server.asked) == 3


def test_password(write):
    """A user's password comes from a file; a client without a secret names itself in the body."""
    server = Server((200, {"access_token": "t"}))
    token(asking(server, Clock(), grant="password", user="ann", passwordFile=write("password", "hunter2")))
    (_, fields) = server.asked[0]
    assert fields == {"grant_type": "password", "username": "ann", "password": "hunter2", "client_id": "shop"}


def test_refreshToken(write):
    """A refresh token that comes with an answer replaces the one in the file, from where the program goes on after a restart."""
    clock, path = Clock(), write("refresh", "first\n")
    answers = [(200, {"access_token": "a", "expires_in": 1, "refresh_token": each}) for each in ("second", "third")]
    server = Server(*answers, (200, {"access_token": "a", "expires_in": 1}))
    function = asking(server, clock, grant="refresh_token", refreshTokenFile=path)
    token(function)
    token(function)
    for _ in range(2):  # the same counts for as long as no other comes
        token(asking(server, clock, grant="refresh_token", refreshTokenFile=path))
    assert [fields["refresh_token"] for _, fields in server.asked] == ["first", "second", "third", "third"]
    assert os.listdir(os.path.dirname(path)) == ["refresh"]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_refreshTokenThatCannotBeKept(write, monkeypatch):
    """If the file cannot be written, the log warns, and the new token is used all the same."""
    clock, path = Clock(), write("refresh", "first")

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    server = Server((200, {"access_token": "a", "expires_in": 1, "refresh_token": "second-secret"}))
    function = asking(server, clock, grant="refresh_token", refreshTokenFile=path)
    with capturedLogs() as logged:
        token(function)
        token(function)
    assert [fields["refresh_token"] for _, fields in server.asked] == ["first", "second-secret"]
    (line,) = map(formatEvent, logged)
    assert line.startswith(f"The new refresh token of shop cannot be written to {path} (Read-only file system)")
    assert "second-secret" not in line


def test_assertion(write):
    """A client with a key signs a short-lived token about itself, anew each time."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    server = Server((200, {"access_token": "t", "expires_in": 1}))
    function = asking(server, Clock(), grant="jwt-bearer", keyFile=write("key", pem), algorithm="ES256")
    token(function)
    token(function)
    claims = [jwt.decode(fields["assertion"], key.public_key(), ["ES256"], audience=URL) for _, fields in server.asked]
    assert [(each["iss"], each["sub"], each["exp"] - each["iat"]) for each in claims] == [("shop", "shop", 60)] * 2
    assert claims[0]["jti"] != claims[1]["jti"]
    with pytest.raises(ConnectFailed, match="cannot sign with RS256"):
        token(asking(server, Clock(), grant="jwt-bearer", keyFile=write("key", pem)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {"error": "invalid_client"}), r"refused with 400 \(invalid_client\)"),
        ((200, {"token": "x"}), "not that of an authorization server"),
        ((200, b"[" * 50_000), "not that of an authorization server"),
        ((302, b""), "refused with 302"),
        (Unanswered("it took too long"), "did not answer: it took too long"),
    ],
)
def test_refused(write, answer, message):
    """Without a token it fails with why, and shows no secret; the next call asks again."""
    server = Server(answer, (200, {"access_token": "t"}))
    function = asking(server, Clock(), secretFile=write("secret", "s3cret"))
    with pytest.raises(ConnectFailed, match=message) as caught:
        token(function)
    assert "s3cret" not in str(caught.value) + repr(function)
    assert token(function) == "t"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grant": "implicit"}, "grant must be one of"),
        ({}, "needs secretFile"),
        ({"grant": "password", "user": "ann"}, "needs passwordFile"),
        ({"url": "http://shop.example/token"}, "must be an https:// URL"),
        ({"url": "https://a:b@shop.example/token"}, "must be an https:// URL"),
        ({"url": "ftp://localhost/"}, "must be an https:// URL"),
    ],
)
def test_mistakes(options, message):
    """What cannot work is refused at once."""
    given = {"url": URL, **({"secretFile": "s"} if "url" in options else {}), **options}
    with pytest.raises(ValueError, match=message):
        OAuth2(given.pop("url"), "shop", **given)
