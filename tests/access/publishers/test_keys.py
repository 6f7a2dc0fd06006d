from __future__ import annotations

import hashlib
import hmac
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.access.publishers.keys import KeyFile
from twisted_ws.access.publishers.scopes import EVERYTHING
from twisted_ws.errors import ConfigurationError

KEY = "0123456789abcdef"
FORM = "must be a key, or a name, a colon and a key, which scopes may follow"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def test_find(tmp_path: Path) -> None:
    """A key's name is what precedes its colon, or its line number; comments, empty lines and spaces do not count."""
    text = f"# keys\n\n{KEY}\n  shop : {KEY}A==  \nshop:{KEY}B\n#{KEY}C\r\n"
    keys = KeyFile(write(tmp_path / "keys", text))
    assert len(keys) == 3
    assert keys.find(KEY).name == "line 3"
    assert keys.find(KEY + "A==").name == "shop"
    assert keys.find(KEY + "B") == ("shop", EVERYTHING)


def test_scopes(tmp_path: Path) -> None:
    """What a key may do follows it; a key may be given by its SHA-256, and end after a day."""
    digest = hashlib.sha256(b"the key of the shop").hexdigest()
    now = datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    text = f"shop: sha256:{digest} publish:orders.* publish:users.ann read:*\nops: {KEY} until=2027-01-31 disconnect\n"
    keys = KeyFile(write(tmp_path / "keys", text), lambda: now)
    shop = keys.find("the key of the shop").scopes
    assert shop.allows("publish", "orders.42")
    assert shop.allows("publish", "users.ann")
    assert not shop.allows("publish", "users.bob")
    assert shop.allows("read", "anything")
    assert not shop.allows("read", "~server.stats")
    assert not shop.allows("delete", "orders.42")
    assert not shop.allows("broadcast")
    assert keys.find(KEY).scopes.allows("disconnect")
    assert keys.expired(KEY) is None
    now += 1
    assert keys.find(KEY) is None
    assert keys.expired(KEY) == "ops, line 2"


def test_expiry(tmp_path: Path) -> None:
    """At each start and reload the log names the keys that have expired, and those that will within two weeks."""
    now = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()
    days = ["2027-01-30", "2027-01-31", "2027-02-13", "2027-02-14"]
    text = "".join(f"key{number}: {KEY}{number} until={day}\n" for number, day in enumerate(days))
    path = write(tmp_path / "keys", text)
    with capturedLogs() as events:
        keys = KeyFile(path, lambda: now)
    said = [formatEvent(event) for event in events]
    assert said == [
        f"The API key key0 (line 1 of {path}) expired after 2027-01-30",
        f"The API key key1 (line 2 of {path}) expires after 2027-01-31",
        f"The API key key2 (line 3 of {path}) expires after 2027-02-13",
    ]
    with capturedLogs() as again:
        keys.reload()
    assert [formatEvent(event) for event in again] == said


def test_expiredAndReplaced(tmp_path: Path) -> None:
    """A key that stands in the file twice counts as long as one of its lines does."""
    text = f"shop: {KEY} until=2020-01-01\nshop: {KEY} publish:*\nshop: {KEY} until=2020-01-01\n"
    assert str(KeyFile(write(tmp_path / "keys", text)).find(KEY).scopes) == "publish:*"


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        ("publish", "publish needs channels: publish:orders.*, or publish:* for all"),
        ("publish:orders*", "publish:orders* must name a channel or a pattern, such as orders.*"),
        ("publish:", "publish: must name a channel or a pattern, such as orders.*"),
        ("brodcast", "there is no scope brodcast: did you mean broadcast?"),
        ("until=tomorrow", "must have a day such as until=2027-01-31"),
        ("until=2027-02-30", "must have a day such as until=2027-01-31"),
        (KEY, "has what looks like another key after its key: give it a line of its own"),
    ],
)
def test_badScopes(tmp_path: Path, scopes: str, message: str) -> None:
    """A scope that is misspelt is refused, so that no key can do less, or more, than it seems."""
    with pytest.raises(ConfigurationError) as caught:
        KeyFile(write(tmp_path / "keys", f"shop: {KEY} {scopes}\n"))
    assert str(caught.value).endswith(message)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + " ", KEY.upper(), "shop", f"shop:{KEY}", KEY + "C", "ä" * 16, "\udcff"])
def test_unknown(tmp_path: Path, key: str) -> None:
    """Anything but a whole key is unknown."""
    assert KeyFile(write(tmp_path / "keys", f"shop:{KEY}\n")).find(key) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the API key file {path} has no key"),
        ("# nothing\n", "the API key file {path} has no key"),
        (
            "short\n",
            "line 1 of the API key file {path} has a key shorter than 16 characters: make one with openssl rand -hex 32",
        ),
        (
            "shop:\n",
            "line 1 of the API key file {path} has a key shorter than 16 characters: make one with openssl rand -hex 32",
        ),
        (
            f"\nshop {KEY}\n",
            "line 2 of the API key file {path} " + FORM,
        ),
        (f"{KEY}\u00e4\n", "line 1 of the API key file {path} has a key with characters other than letters, digits and -._~+/"),
        (
            f"my shop:{KEY}\n",
            "line 1 of the API key file {path} " + FORM,
        ),
        (f":{KEY}\n", "line 1 of the API key file {path} " + FORM),
        (
            f"{KEY}:{KEY}:{KEY}\n",
            "line 1 of the API key file {path} " + FORM,
        ),
        (f"{KEY}\n" * 4000, "the API key file {path} is larger than 64 KiB"),
    ],
    ids=map(str, itertools.count()),
)
def test_badFile(tmp_path: Path, text: str, message: str) -> None:
    """A file that cannot be used is refused with one line that names it, the line and the remedy, and shows no key."""
    path = write(tmp_path / "keys", text)
    with pytest.raises(ConfigurationError) as caught:
        KeyFile(path)
    assert str(caught.value) == message.format(path=path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o610, 0o601, 0o777])
def test_openToOthers(tmp_path: Path, mode: int) -> None:
    """A key file that others may use is refused, and the error says how to fix it."""
    path = write(tmp_path / "keys", KEY, mode)
    with pytest.raises(ConfigurationError, match=f"is open to others: run chmod 600 {path}$"):
        KeyFile(path)


def test_openToItsGroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key file that its group may read is used, with a warning unless systemd has put it there."""
    path = write(tmp_path / "keys", KEY, 0o440)
    with capturedLogs() as events:
        assert len(KeyFile(path)) == 1
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert len(KeyFile(path)) == 1
    assert [(each["log_level"].name, each["file"]) for each in events] == [("warn", path)]


def test_noFile(tmp_path: Path) -> None:
    """A missing or invalid file is named, and a pipe does not hang the start."""
    with pytest.raises(ConfigurationError, match=r"cannot read the API key file .*/keys: No such file or directory$"):
        KeyFile(str(tmp_path / "keys"))
    with pytest.raises(ConfigurationError, match=r"Is a directory$"):
        KeyFile(str(tmp_path))
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigurationError, match=r"is not a regular file$"):
        KeyFile(str(tmp_path / "pipe"))


def test_reload(tmp_path: Path) -> None:
    """After a reload, the file's new keys replace the old ones; an invalid file changes nothing."""
    path = tmp_path / "keys"
    keys = KeyFile(write(path, f"{KEY}\n"))
    write(path, f"{KEY}2\n")
    keys.reload()
    assert keys.find(KEY) is None
    assert keys.find(KEY + "2").name == "line 1"
    write(path, "short\n")
    with pytest.raises(ConfigurationError):
        keys.reload()
    assert keys.find(KEY + "2").name == "line 1"


def test_secrecy(tmp_path: Path) -> None:
    """The object reveals no key."""
    keys = KeyFile(write(tmp_path / "keys", f"shop:{KEY}\n"))
    assert KEY not in repr(keys)
    assert KEY not in repr(vars(keys))


def test_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a key takes says nothing: each is compared with all, right or wrong, first or last, in constant time."""
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    keys = [f"{name}-0123456789abcdef" for name in ("first", "middle", "last")]
    path = tmp_path / "keys"
    path.write_text("\n".join(f"{key[:5]}: {key}" for key in keys))
    path.chmod(0o600)
    found = KeyFile(str(path))
    monkeypatch.setattr("twisted_ws.access.publishers.keys.hmac.compare_digest", compare)
    for key in (*keys, keys[0][:-1], "x", "x" * 5000):
        compared.clear()
        found.find(key)
        assert compared == [32, 32, 32]
