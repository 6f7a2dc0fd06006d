"""Sessions in signed cookies, as the frameworks themselves write them."""

from __future__ import annotations

import base64
import json
import time
from unittest import mock

import django.conf
import flask
import itsdangerous
import pytest
from django.contrib.sessions.backends.signed_cookies import SessionStore
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response
from starlette.routing import Route

from tests.access.kinds.support import NOW, SECRET, refused, request, secretFile, settings
from twisted_ws import ConfigurationError
from twisted_ws.access.kinds.cookies import PRESETS, CookieAuthenticator

if not django.conf.settings.configured:
    django.conf.settings.configure(SECRET_KEY=SECRET)

DAY = 86400


def ofFlask(session, secret=SECRET):
    app = flask.Flask("app")
    app.secret_key = secret
    serializer = flask.sessions.SecureCookieSessionInterface().get_signing_serializer(app)
    return serializer.dumps(session)


def ofStarlette(session, secret=SECRET):
    """Ask an application for its cookie, by the calls of ASGI."""

    async def login(asked):
        asked.session.update(session)
        return Response()

    app = SessionMiddleware(Starlette(routes=[Route("/", login)]), secret)
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "scheme": "http"}
    running = app({**scope, "server": ("a", 80), "root_path": ""}, receive, send)
    with pytest.raises(StopIteration):
        running.send(None)
    (cookie,) = (value for name, value in sent[0]["headers"] if name == b"set-cookie")
    return cookie.decode().partition(";")[0].partition("=")[2]


def ofDjango(session, secret=SECRET):
    with mock.patch.object(django.conf.settings, "SECRET_KEY", secret):
        store = SessionStore()
        store.update(session)
        store.save()
        return store.session_key


MAKERS = {"flask": ofFlask, "starlette": ofStarlette, "django": ofDjango}


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Let the frameworks sign now."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def made(directory, preset, age=0.0, **options):
    if "secret_file" not in options:
        options["secret_file"] = secretFile(directory)
    return CookieAuthenticator(settings(directory, preset=preset, **options), lambda: NOW + age)


def having(cookie, name):
    return request(("cookie", f"theme=dark; {name}={cookie}"))


def asking(preset, cookie):
    return having(cookie, PRESETS[preset].cookie)


@pytest.mark.parametrize("preset", PRESETS)
def test_ofTheFramework(tmp_path, preset):
    """What the framework signed is read without it, and the session ends when the framework says so."""
    key, age = PRESETS[preset].user, PRESETS[preset].maxAge
    for more in ({}, {"cart": ["apple"] * 300}):  # compressed, where the framework does that
        cookie = MAKERS[preset]({key: "ann", **more})
        found = made(tmp_path, preset).identify(asking(preset, cookie))
        assert (found.user, found.isAmbient, found.issuedAt, found.expiresAt) == ("ann", True, NOW, NOW + age)
        assert found.claims[key] == "ann"
        assert made(tmp_path, preset, age - 1).identify(asking(preset, cookie)).user == "ann"
        assert refused(made(tmp_path, preset, age), asking(preset, cookie)).reason == "expired"
        assert refused(made(tmp_path, preset, 60, max_age=60), asking(preset, cookie)).reason == "expired"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("user", ["a.b", "*", "~me", "\U0001f600" * 128, 7])
def test_users(tmp_path, preset, user):
    """A user may have any name of up to 128 characters, or a number."""
    cookie = MAKERS[preset]({PRESETS[preset].user: user})
    assert made(tmp_path, preset).identify(asking(preset, cookie)).user == str(user)


@pytest.mark.parametrize("preset", PRESETS)
def test_elsewhere(tmp_path, preset):
    """The user may be elsewhere in the session, and the cookie have another name."""
    authenticator = made(tmp_path, preset, cookie="__Host-s", user="profile.name")
    cookie = MAKERS[preset]({"profile": {"name": "ann"}})
    assert authenticator.identify(having(cookie, "__Host-s")).user == "ann"
    assert authenticator.identify(asking(preset, cookie)) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_ids(tmp_path, preset):
    """A session has the id that the framework gave it, a text or a number; none is good too, one of another kind is not."""
    authenticator = made(tmp_path, preset, id="login.id")
    key = PRESETS[preset].user
    for given, found in (({"login": {"id": "x7"}}, "x7"), ({"login": {"id": 7}}, "7"), ({}, None)):
        assert authenticator.identify(asking(preset, MAKERS[preset]({key: "ann", **given}))).tokenId == found
    for wrong in ("", "x" * 257, ["x"], True):
        cookie = MAKERS[preset]({key: "ann", "login": {"id": wrong}})
        assert refused(authenticator, asking(preset, cookie)).message == "The id of the session cannot be used."
    assert made(tmp_path, preset).identify(asking(preset, MAKERS[preset]({key: "ann", "id": 7}))).tokenId is None


@pytest.mark.parametrize("preset", PRESETS)
def test_nobody(tmp_path, preset):
    """Without a session, or with one in which nobody has logged in, others are asked."""
    authenticator = made(tmp_path, preset)
    assert authenticator.identify(request()) is None
    for session in ({"theme": "dark"}, {PRESETS[preset].user: ""}, {PRESETS[preset].user: None}):
        assert authenticator.identify(asking(preset, MAKERS[preset](session))) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_forged(tmp_path, preset):
    """What another secret signed, or was changed or cut, is refused."""
    authenticator = made(tmp_path, preset)
    key = PRESETS[preset].user
    good = MAKERS[preset]({key: "ann"})
    bad = [
        MAKERS[preset]({key: "ann"}, "other-" + SECRET),
        *(good[:length] for length in range(0, len(good), 7)),
        "A" + good,
        "x" * 9000,
        ".",
        ":",
        "::",
        "a:b:c",
        "ü" * 20,
        "%00",
        "a." * 2000,
        ":" * 4000,
    ]
    for each in bad:
        assert refused(authenticator, asking(preset, each)).reason == "invalid"


@pytest.mark.parametrize("user", [["ann"], {"a": 1}, True, 1.5, "u" * 129])
def test_noUser(tmp_path, user):
    """A session whose user is no name is refused."""
    assert refused(made(tmp_path, "flask"), asking("flask", ofFlask({"_user_id": user}))).reason == "invalid"


def test_anotherFormat(tmp_path):
    """What the right secret has signed but is no session is refused; one that inflates to megabytes is not inflated."""
    authenticator = made(tmp_path, "flask")
    huge = ofFlask({"_user_id": "ann", "x": "x" * 1_000_000})
    assert len(huge) < 4096
    assert refused(authenticator, asking("flask", huge)).message == "The session cannot be read."
    signer = itsdangerous.TimestampSigner(SECRET)
    for content in (b"?", base64.b64encode(b"[1]"), base64.b64encode(json.dumps("a").encode()), b""):
        cookie = signer.sign(content).decode()
        assert refused(made(tmp_path, "starlette"), asking("starlette", cookie)).message == "The session cannot be read."


@pytest.mark.parametrize("preset", PRESETS)
def test_rotation(tmp_path, preset):
    """While two secrets are in the file, sessions of both are good; a broken file changes nothing."""
    secretFile(tmp_path, "n" * 32, SECRET)
    authenticator = made(tmp_path, preset, secret_file="secret")
    key = PRESETS[preset].user
    for secret in ("n" * 32, SECRET):
        assert authenticator.identify(asking(preset, MAKERS[preset]({key: "ann"}, secret))).user == "ann"
    secretFile(tmp_path, "n" * 15)
    with pytest.raises(ConfigurationError, match="fewer than 16 bytes"):
        authenticator.reload()
    assert authenticator.identify(asking(preset, MAKERS[preset]({key: "ann"}))).user == "ann"
    secretFile(tmp_path, "n" * 32)
    authenticator.reload()
    assert refused(authenticator, asking(preset, MAKERS[preset]({key: "ann"}))).reason == "invalid"
    assert SECRET not in repr(authenticator) + repr(vars(authenticator))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "rails"}, "flask or starlette or django"),
        ({"preset": "flask", "cookie": "a b"}, "the name of a cookie"),
        ({"preset": "flask", "max_age": 0}, "max-age must be"),
        ({"preset": "flask", "salt": "x"}, "salt is not an option"),
    ],
)
def test_options(tmp_path, options, message):
    """What is wrong in the configuration is said at the start."""
    with pytest.raises(ConfigurationError, match=message):
        CookieAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path), **options))
