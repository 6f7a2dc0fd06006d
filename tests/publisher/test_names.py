"""What the publisher makes is what the server takes; settings that cannot work are refused at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted_ws_publisher import ConfigurationError, Publisher, TicketMaker, channel_token
from twisted_ws_publisher.settings import Settings

from tests.access.kinds.support import NOW, SECRET, Host, refused, request, secretFile, settings
from twisted_ws.access.kinds.ticket import TicketAuthenticator
from twisted_ws.access.rules import channelToken


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_token(user):
    """A user has the same token at the publisher and at the server."""
    assert channel_token(user) == channelToken(user)


def test_noToken():
    """An empty name has no token."""
    with pytest.raises(ValueError, match="empty"):
        channel_token("")


def test_ticket(tmp_path):
    """A ticket that was made here is taken once, and says what its bearer may do."""
    tickets = TicketAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path)), lambda: NOW)
    tickets.start(Host())
    maker = TicketMaker(tmp_path / secretFile(tmp_path), lambda: NOW)
    made = maker.make("ann", ["orders.*"], ["typing"], {"name": "Ann"}, ["chat", "vote"], expires=3600)
    found = tickets.identify(request(target=f"/ws?ticket={made}"))
    assert (found.user, list(found.subscribe), list(found.publish)) == ("ann", ["orders.*"], ["typing"])
    assert (found.info, found.scopes, found.expiresAt) == ({"name": "Ann"}, {"chat", "vote"}, NOW + 3600 + 10)
    assert refused(tickets, request(target=f"/ws?ticket={made}")).status == 401
    assert made not in repr(maker)
    assert SECRET not in repr(maker)


@pytest.mark.parametrize(("user", "seconds"), [("", 60), ("x" * 129, 60), ("ann", 0), ("ann", 61)])
def test_noTicket(tmp_path, user, seconds):
    """A ticket that the server would refuse is not made."""
    maker = TicketMaker(tmp_path / secretFile(tmp_path))
    with pytest.raises(ValueError, match="must"):
        maker.make(user, seconds=seconds)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8081", "must be"),
        ("ws://host", "must be"),
        ("http://", "must be"),
        ("http://host:99999", "range"),
        ("http://host/?x=1", "must be"),
        ("http://ho st", "without spaces"),
        ("http://host\r\nX: y", "without spaces"),
        ("http://ann:planted@host", "must not hold"),
        ("unix:run/x", "absolute"),
    ],
)
def test_urls(url, why):
    """A URL that cannot be the server's is refused when the publisher is made, without saying the password in it."""
    with pytest.raises(ConfigurationError, match=why) as caught:
        Publisher(url)
    assert "planted" not in str(caught.value)


def test_environment():
    """All settings may stand in the environment, and a mistake there is named."""
    with pytest.raises(ConfigurationError, match="TWISTED_WS_URL is not set"):
        Publisher.from_environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWISTED_WS_URL", "http://push:8081")
        patch.setenv("TWISTED_WS_TIMEOUT", "2.5")
        assert repr(Publisher.from_environment()) == "<Publisher push:8081>"
        patch.setenv("TWISTED_WS_ATTEMPTS", "many")
        with pytest.raises(ConfigurationError, match="TWISTED_WS_ATTEMPTS: 'many' is not a number"):
            Publisher.from_environment()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("", "no key"),
        ("# only\n", "no key"),
        ("shop:\n", "no key"),
        ("schlüssel\n", "not ASCII"),
        (f"sha256:{'0' * 64}\n", "it has the SHA-256 of a key"),
        (f"shop: sha256:{'0' * 64} publish:*\n", "it has the SHA-256 of a key"),
    ],
)
def test_keyFile(tmp_path, content, why):
    """A key file that cannot be used is named when the publisher is made."""
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=f"key_file: .*: {why}"):
        Publisher("http://push:8081", path)


@pytest.mark.parametrize("content", ["s3cret-s3cret-s3cret\n", "# NAME: KEY\nshop: s3cret-s3cret-s3cret publish:* read:*\n"])
def test_keyFileOfTheServer(tmp_path, content):
    """The file may be the server's own: its first key is sent, without its name and scopes."""
    path = tmp_path / "key"
    path.write_text(content)
    assert Settings("http://push:8081", path).headers == {"Authorization": "Bearer s3cret-s3cret-s3cret"}


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}, {"ca_file": "/nowhere"}])
def test_options(options):
    """Options that cannot work are refused."""
    with pytest.raises(ConfigurationError):
        Publisher("https://push", **options)
