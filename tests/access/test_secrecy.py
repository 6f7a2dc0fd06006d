"""What shows an object, such as a debugger or a log with variables, shows no secret that it holds."""

from __future__ import annotations

import pytest
from twisted.internet import reactor

from tests.access.kinds.support import SECRET, secretFile, settings
from twisted_ws.access.asking.exchange import Answer, Question
from twisted_ws.access.asking.http import HTTPAuthenticator
from twisted_ws.access.asking.introspection import IntrospectionAuthenticator
from twisted_ws.access.kinds.basic import BasicAuthenticator
from twisted_ws.access.kinds.cookies import CookieAuthenticator
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.kinds.ldap import LDAPAuthenticator
from twisted_ws.access.kinds.passwords import Entry
from twisted_ws.access.kinds.ticket import TicketAuthenticator
from twisted_ws.access.publishers.credentials import Credentials, Password, decodeBasic
from twisted_ws.access.publishers.keys import KeyFile
from twisted_ws.access.sources import Found
from twisted_ws.access.tokens.verification import Key, Token
from twisted_ws.channels.subscribers.subprotocol import readRequest
from twisted_ws.client import Bearer
from twisted_ws.client.http.credentials import SubscriptionToken
from twisted_ws.daemon.settings import merge
from twisted_ws.identity import Identity
from twisted_ws.upgrade import UpgradeRequest

URL = "http://127.0.0.1:1/x"


def authenticators(path):
    secret = secretFile(path)
    users = secretFile(path, f"ann:{SECRET}", name="users")
    return [
        JWTAuthenticator(settings(path, secret_file=secret)),
        TicketAuthenticator(settings(path, secret_file=secret)),
        CookieAuthenticator(settings(path, preset="flask", secret_file=secret)),
        BasicAuthenticator(settings(path, file=users)),
        HTTPAuthenticator(settings(path, url=URL, secret_file=secret)),
        IntrospectionAuthenticator(settings(path, url=URL, client="push", client_secret_file=secret)),
        LDAPAuthenticator(settings(path, reactor, url="ldap://127.0.0.1", base="dc=x", bind_dn="cn=x", password_file=secret)),
        KeyFile(str(path / secret)),
        Credentials(keyFile=str(path / secret)),
    ]


def test_authenticators(tmp_path):
    """No authenticator shows its secrets, and none of the objects of ours that it has shows them."""
    for each in authenticators(tmp_path):
        ours = [part for part in vars(each).values() if type(part).__module__.startswith("twisted_ws")]
        for found in (each, *ours, *(getattr(each, "_authenticators", None) or ())):
            assert SECRET not in repr(found)
            assert SECRET not in str(found)


@pytest.mark.parametrize(
    "found",
    [
        Found(SECRET),
        Found(SECRET, isAmbient=True),
        Entry(SECRET, frozenset()),
        Key(SECRET.encode(), ("HS256",)),
        Token(SECRET, "HS256", None, "jwt", SECRET.encode()),
        Question("GET", f"https://x/?{SECRET}", (("authorization", SECRET),), SECRET.encode()),
        Answer(200, SECRET.encode()),
        Password(b"ann", SECRET.encode()),
        decodeBasic("YTpi"),
        Identity("ann", info=SECRET, payload=SECRET.encode()),
        UpgradeRequest(f"/?ticket={SECRET}", (("authorization", f"Bearer {SECRET}"), ("cookie", f"t={SECRET}"))),
        UpgradeRequest(subProtocols=(f"twisted-ws.bearer.{SECRET}",)),
        readRequest(f'{{"type":"auth","token":"{SECRET}"}}'),
        readRequest(f'{{"type":"subscribe","channel":"a","token":"{SECRET}"}}'),
        readRequest(f'{{"type":"publish","channel":"a","data":"{SECRET}"}}'),
        readRequest(f'{{"type":"publish","channel":"a","data":1,"token":"{SECRET}"}}'),
        readRequest(f'{{"type":"history","channel":"a","token":"{SECRET}"}}'),
        Bearer(SECRET),
        SubscriptionToken(SECRET),
        merge({"authenticators": {"a": {"type": "jwt", "secret-file": "x"}}}, {}, (Password(b"a", SECRET.encode()),)),
    ],
    ids=lambda found: type(found).__name__,
)
def test_requests(found):
    """What has a token, a password or a message on its way through the server does not show it."""
    assert SECRET not in f"{found!r} {found}"
