"""Where the keys of a configuration file are."""

from __future__ import annotations

import pytest

from twisted_ws.daemon.lines import lineOf

DOCUMENT = '''\
# issuer of tokens
authenticate = ["site"]

[authenticators.site]
type = "jwt"
audience = [
    "issuer",
    "require",
]
text = """
issuer = 1
"""
issuer = "https://shop.example"  # issuer
require.typ = "Bearer"
require."realm_access.roles" = "chat"

[authenticators."other one"]
require = { typ = "x" }
[authenticators.third.require]
typ = "y"
[channels]
'users.{user}.*' = { subscribe = "owner" }'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("authenticate",), 2),
        (("authenticators",), 4),
        (("authenticators", "site"), 4),
        (("authenticators", "site", "audience"), 6),
        (("authenticators", "site", "issuer"), 13),
        (("authenticators", "site", "require"), 14),
        (("authenticators", "site", "require", "typ"), 14),
        (("authenticators", "site", "require", "realm_access.roles"), 15),
        (("authenticators", "other one", "require", "typ"), 18),
        (("authenticators", "third", "require", "typ"), 20),
        (("channels", "users.{user}.*"), 22),
        (("authenticators", "site", "scopes"), None),
        (("authenticators", "site", "issuer", "typ"), None),
        (("Bearer",), None),
    ],
)
def test_lineOf(keys: tuple[str, ...], line: int | None) -> None:
    """A table or value is found on the line on which it begins, however it is written, and not where only its name is."""
    assert lineOf(DOCUMENT, *keys) == line


def test_windowsLines() -> None:
    """With lines that end as those of Windows do, the numbers are the same."""
    assert lineOf(DOCUMENT.replace("\n", "\r\n"), "authenticators", "site", "issuer") == 13
