"""The authenticator ``django`` in a real daemon, with a real site."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.live.support import PATIENCE, Running, environment, running, writeService
from tests.live.test_access import SERVICE, said, streams

SETTINGS = """
from pathlib import Path

SECRET_KEY = "planted-secret-0123456789-0123456789-0123456789"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
BEGIN = """
import os, sys
sys.path.insert(0, "site")
os.environ["DJANGO_SETTINGS_MODULE"] = "shopsettings"
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
def login(user):
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    print(session.session_key)
"""
MAKE = """
call_command("migrate", verbosity=0)
ann = User.objects.create_user("ann", password="old")
ann.groups.add(Group.objects.create(name="staff"))
login(ann)
login(ann)
login(User.objects.create_user("bob", password="old"))
"""
CONFIGURATION = """
[authenticators.site]
type = "django"
settings = "shopsettings"
project = "site"
groups = true
cache = 0
[services]
"/who" = { target = "rooms:Who", authenticate = ["site"] }
"/channels/{channel}" = { target = "channels", authenticate = ["site"] }
[channels."*"]
subscribe = "users"
"""


def onSite(directory: Path, code: str) -> list[str]:
    """Run code on the site, as a process of its own; return the lines that it prints."""
    command = [sys.executable, "-c", BEGIN + code]
    done = subprocess.run(
        command, cwd=directory, env=environment(directory), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def come(server: Running, session: str) -> str:
    """Return what a client hears with this session, or its status."""
    return said(lambda: server.client("/who", additional_headers={"Cookie": f"sessionid={session}"}))


def test_site(tmp_path: Path) -> None:
    """Who has logged in to the site comes in, until a logout, a changed password or the end of the account."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "shopsettings.py").write_text(SETTINGS)
    writeService(tmp_path, SERVICE)
    (tmp_path / "ws.toml").write_text(CONFIGURATION)
    first, second, bob = onSite(tmp_path, MAKE)
    with running(tmp_path, "--config", "ws.toml") as server:
        assert come(server, first) == "ann ['staff']"
        assert come(server, second) == "ann ['staff']"
        assert come(server, bob) == "bob []"
        assert streams(server, "-b", f"sessionid={first}") == "200"
        assert come(server, "a" * 32) == "401"
        assert come(server, "") == "401"
        onSite(tmp_path, f"SessionStore({first!r}).delete()")
        assert (come(server, first), come(server, second)) == ("401", "ann ['staff']")
        assert streams(server, "-b", f"sessionid={first}") == "401"
        onSite(tmp_path, "ann = User.objects.get(username='ann'); ann.set_password('new'); ann.save()")
        assert come(server, second) == "401"
        onSite(tmp_path, "User.objects.filter(username='bob').update(is_active=False)")
        assert come(server, bob) == "401"
        (tmp_path / "site" / "db.sqlite3").write_text("not a database at all, but a text of some length" * 100)
        assert come(server, bob) == "503"
    for secret in ("planted-secret", first, second, bob):
        assert secret not in server.output
