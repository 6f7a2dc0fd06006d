"""Sessions of a Django site, looked up with the site's own settings and models."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import django
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.kinds.threads import Threads
from twisted_ws.access.options import Options
from twisted_ws.access.recent import Recent
from twisted_ws.access.refusals import INVALID, AccessRefused, unauthorized, unavailable
from twisted_ws.access.sources import MOST_BYTES
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import LONGEST_USER, Identity
from twisted_ws.upgrade import UpgradeRequest

# Seconds for which an answer counts; a look-up costs about a third of a millisecond of Python, and what the database takes.
CACHE = 30


class Found(NamedTuple):
    """Who has a session.

    Attributes:
        user: the name, or the primary key as text.
        scopes: the names of the user's groups, if they are asked for.
        expiresAt: when the session ends, in Unix time.
    """

    user: str
    scopes: frozenset[str]
    expiresAt: float


# Finds out who has a session; None: nobody. It runs in a thread, and may take its time.
Look = Callable[[str], Found | None]


class DjangoAuthenticator:
    """The authenticator ``django``: who has logged in to a Django site, in this process, with the site's settings.

    A logout and a changed password are noticed after ``cache`` seconds at the latest, by new requests; connections that are open
    stay until they are revoked. The id of a session, for ``POST /api/revoke``, is ``sha256:`` and the SHA-256 of its key.

    Options: ``settings`` (the module, as in ``DJANGO_SETTINGS_MODULE``), ``project`` (the directory that has it), ``user``
    (``username`` or ``pk``), ``groups`` (whether the names of groups are scopes), ``cookie``, ``cache`` (seconds).

    Args:
        settings: the settings.
        look: finds out who has a session; None: Django does.
        threads: where it does so; None: the reactor's.

    Raises:
        ConfigurationError: an option is wrong, or the site cannot be set up.
    """

    _log = Logger()

    findsGuests = False

    def __init__(self, settings: AuthenticatorSettings, look: Look | None = None, threads: Threads | None = None) -> None:
        where = f"authenticators.{settings.name}"
        options = Options(where, settings.options, settings.directory)
        module: str = options.text("settings", expected="a module, such as shop.settings")
        project = options.path("project", None)
        name = options.choice("user", ("username", "pk"), "username")
        withGroups = options.switch("groups", False)
        cookie = options.text("cookie", None)
        cache = options.number("cache", CACHE, 0, 3600, "seconds")
        options.done()
        self._name = settings.name
        self._threads = threads or Threads(settings.reactor)
        self._recent: Recent[Identity] = Recent(cache, settings.reactor.seconds)
        # Those that wait for an answer about the same session.
        self._asking: dict[str, list[Deferred[Identity | None]]] = {}
        self._host: Host | None = None
        if look is None:
            cookie = _setUp(where, module, project, cookie)
            look = partial(_look, name == "pk", withGroups)
        self._look: Look = look
        self._cookie: str = cookie or "sessionid"

    def __repr__(self) -> str:
        return f"<DjangoAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who limits the lines of the log."""
        self._host = host

    def reload(self) -> None:
        """Forget what was looked up."""
        self._recent.clear()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity | None] | None:
        """Return who has the session in a request; None without one, or if nobody has logged in to it."""
        session = request.cookies.get(self._cookie)
        if not session or len(session) > MOST_BYTES or "\x00" in session:
            return None
        known = self._recent.get(session.encode("utf-8", "surrogatepass"))
        if known is not None:
            return known if known.user else None
        result: Deferred[Identity | None] = Deferred()
        waiting = self._asking.get(session)
        if waiting is not None:
            waiting.append(result)
            return result
        asked = self._threads.run(partial(self._look, session))
        self._asking[session] = [result]
        asked.addCallback(self._identity, session).addErrback(self._failed).addBoth(self._tell, session)
        return result

    def _identity(self, found: Found | None, session: str) -> Identity | None:
        identity = Identity("")
        if found is not None:
            if not 0 < len(found.user) <= LONGEST_USER:
                raise unauthorized(INVALID, "The session names no user.")
            # Of the key only a hash: it opens the site.
            digest = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
            identity = Identity(
                found.user,
                scopes=found.scopes,
                expiresAt=found.expiresAt,
                issuedAt=time.time(),
                tokenId=f"sha256:{digest}",
                isAmbient=True,
            )
        self._recent.put(identity, session.encode("utf-8", "surrogatepass"), size=identity.size)
        return identity if found is not None else None

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(AccessRefused):
            return failure
        kind = type(failure.value).__name__
        if turn := 1 if self._host is None else self._host.mayLog(f"authenticator {self._name}: {kind}"):
            # Without the traceback, whose frames have the session.
            self._log.error(
                "the authenticator {by} could not look up a session: {reason}",
                by=self._name,
                reason=kind,
                event="auth.failed",
                suppressed=turn - 1,
            )
        return Failure(unavailable("Sessions cannot be looked up at present."))

    def _tell(self, answer: Any, session: str) -> None:
        for each in self._asking.pop(session):
            if not each.called:
                each.callback(answer)  # a Failure, too


def _setUp(where: str, module: str, project: str | None, cookie: str | None) -> str:
    """Set Django up, and return the name of its session's cookie."""
    if project is not None and project not in sys.path:
        sys.path.insert(0, project)
    before = os.environ.get("DJANGO_SETTINGS_MODULE", module)
    if before != module:
        raise ConfigurationError(f"{where}.settings: one process has one Django site, and this one has {before}.")
    try:
        importlib.import_module(module)
        os.environ["DJANGO_SETTINGS_MODULE"] = module
        django.setup()
        from django.conf import settings

        name: str = cookie or settings.SESSION_COOKIE_NAME
        importlib.import_module(settings.SESSION_ENGINE)
        importlib.import_module("django.contrib.auth.models")
    except Exception as error:  # whatever the site's own modules raise
        raise ConfigurationError(f"{where}.settings: {module} cannot be set up ({type(error).__name__}).") from None
    return name


def _look(byKey: bool, withGroups: bool, session: str) -> Found | None:
    """Ask Django, as its middleware does: a password that was changed ends sessions, and so does a user that is not active."""
    from django.conf import settings
    from django.contrib.auth import get_user
    from django.db import close_old_connections
    from django.http import HttpRequest

    close_old_connections()  # which the database may have closed
    try:
        store = importlib.import_module(settings.SESSION_ENGINE).SessionStore(session)
        request = HttpRequest()
        request.session = store
        user = get_user(request)
        if not user.is_authenticated:
            return None
        ends = store.get_expiry_date()
        if hasattr(store, "model"):  # in a database: when it really ends, whatever it would get if it were saved now
            row = store.model.objects.filter(session_key=session).values_list("expire_date", flat=True).first()
            ends = row or ends
        groups = frozenset(user.groups.values_list("name", flat=True)) if withGroups else frozenset()
        return Found(str(user.pk if byKey else user.get_username()), groups, ends.timestamp())
    finally:
        close_old_connections()
