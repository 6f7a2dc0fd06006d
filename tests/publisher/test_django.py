"""Publishing from Django: what is committed is published, and nothing else; with a real database and a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, running

SETTINGS = """
import os
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "twisted_ws_publisher.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
OPTIONS = {"context_processors": ["django.template.context_processors.request"]}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": OPTIONS}]
USE_TZ = True
TWISTED_WS = {"URL": os.environ["URL"], "TIMEOUT": float(os.environ.get("TIMEOUT", "5"))}
if os.environ.get("TICKET_FILE"):
    TWISTED_WS["TICKET_FILE"] = os.environ["TICKET_FILE"]
"""
BEGIN = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
import django
django.setup()
from django.db import transaction
from twisted_ws_publisher.django import *
from twisted_ws_publisher import Publisher
log = []
def said(channel):
    return [each["data"] for each in get_publisher().history(channel)["messages"]]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without credentials."""
    with running(tmp_path_factory.mktemp("server")) as found:
        yield f"http://127.0.0.1:{found.port('http')}"


def inDjango(directory: Path, url: str, program: str, **more: str) -> str:
    """Return what a program prints in a new project."""
    (directory / "site_settings.py").write_text(SETTINGS)
    environment = {**os.environ, "URL": url, "PYTHONPATH": str(directory), "PYTHONWARNINGS": "error", **more}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commit(tmp_path, server):
    """What a transaction publishes is one batch after its commit, without what a savepoint took back, and in order."""
    program = """
import datetime, decimal
sent = []
send = Publisher._run
Publisher._run = lambda self, call: sent.append(call.gi_code.co_name) or send(self, call)
with transaction.atomic():
    publish_on_commit("orders", {"at": datetime.date(2026, 1, 2), "price": decimal.Decimal("1.50")})
    publish_on_commit("orders", "second")
    assert sent == []
assert sent == ["batch"], sent
del sent[:]
with transaction.atomic():
    publish_on_commit("orders", 3)
    try:
        with transaction.atomic():
            publish_on_commit("orders", "taken back")
            raise KeyError
    except KeyError:
        pass
    with transaction.atomic():
        publish_on_commit("orders", 4)
    publish_on_commit("orders", 5)
try:
    with transaction.atomic():
        publish_on_commit("orders", "rolled back")
        raise KeyError
except KeyError:
    pass
with transaction.atomic():
    publish_on_commit("orders", 6)
publish_on_commit("orders", 7)
import json
print(json.dumps(said("orders")))
"""
    said = json.loads(inDjango(tmp_path, server, program))
    assert said == [{"at": "2026-01-02", "price": "1.50"}, "second", 3, 4, 5, 6, 7]


def test_failure(tmp_path):
    """A server that is away does not hurt the view; it is a line in the log and a signal, or an exception if that is wanted."""
    program = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
publish_failed.connect(lambda sender, error, messages, **more: log.append((error.code, messages)), weak=False)
with transaction.atomic():
    publish_on_commit("orders", 1)
    publish_on_commit("orders", 2, key="k")
print(log)
try:
    with transaction.atomic():
        publish_on_commit("orders", 3, fail_silently=False)
except Exception as error:
    print(type(error).__name__)
try:
    publish_on_commit("orders", object())
except TypeError:
    print("at once")
"""
    printed = inDjango(tmp_path, "http://127.0.0.1:9", program, TIMEOUT="0.2")
    first, *others = printed.splitlines()
    assert first.startswith("ERROR twisted_ws_publisher 2 messages are not published after a commit:")
    assert others == ["[('no-answer', [('orders', 1, None), ('orders', 2, 'k')])]", "PublishError", "at once"]


def test_check(tmp_path):
    """Settings that cannot work are found by ``manage.py check``."""
    program = """
from django.core.checks import run_checks
from django.test import override_settings
print([each.id for each in run_checks()])
for more in ({"URL": "nowhere"}, {"URI": "x"}, {"KEY_FILE": "/nowhere"}, {"TICKET_FILE": "/nowhere"}):
    wrong = {"URL": "http://a", **more}
    with override_settings(TWISTED_WS=wrong):
        print([each.id for each in run_checks()])
"""
    found = inDjango(tmp_path, "http://127.0.0.1:9", program).splitlines()
    assert found == ["[]", *["['twisted_ws.E001']"] * 3, "['twisted_ws.E002']"]


def test_capture(tmp_path):
    """A test sees what would be published."""
    program = """
from django.test import TestCase
with capture() as captured:
    with transaction.atomic():
        publish_on_commit("orders", {"n": 1})
        publish_on_commit("orders", {"n": 2}, key="n")
    assert [(each.channel, each.data["n"], each.key) for each in captured] == [("orders", 1, None), ("orders", 2, "n")]
print("captured")
"""
    assert inDjango(tmp_path, "http://127.0.0.1:9", program) == "captured\n"


def test_template(tmp_path):
    """A page gets a ticket for its user, none for a guest, and the token of a name."""
    (tmp_path / "ticket.key").write_text("0123456789abcdef0123456789abcdef\n")
    program = """
from django.contrib.auth.models import AnonymousUser, User
from django.template import engines
from django.test import RequestFactory
page = engines["django"].from_string("{% load twisted_ws %}[{% push_ticket %}] {{ name|channel_token }}")
for user in (AnonymousUser(), User(pk=42)):
    request = RequestFactory().get("/")
    request.user = user
    print(page.render({"name": "ann@x"}, request))
"""
    guest, user = inDjango(tmp_path, "http://127.0.0.1:9", program, TICKET_FILE=str(tmp_path / "ticket.key")).splitlines()
    assert guest == "[] ann~40x"
    assert user.startswith("[eyJ")
