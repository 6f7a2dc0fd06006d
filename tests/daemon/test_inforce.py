"""The settings in force, as the admin page shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509

from twisted_ws.daemon.inforce import certificateOf, inForce
from twisted_ws.daemon.settings import KEYS, load, merge

FILE = """# ours
port = 9000
allowed-origin = ["https://a.example", "https://b.example"]
engine = "redis://:hunter2@redis.example"
max-message-size = "64KiB"

[limits]
head = 4096

[services."/chat"]
target = "demo"
colour = "hunter2"

[authenticators.site]
type = "jwt"
secret = "hunter2"

[channels."news.*"]
subscribe = "anyone"
"""


@pytest.fixture
def shown(tmp_path):
    """Return the settings of a file and some flags, by name."""
    path = tmp_path / "push.toml"
    path.write_text(FILE)
    flags = {"broadcast-port": "9001", "authenticate": ["site", "jwt:secret-file=hunter2"]}
    report = inForce(merge(load(str(path)), flags))
    assert report.file == str(path)
    return {each.name: each for each in report.settings}


def test_sources(shown):
    """Each setting says whether it is from the file, and on which line, from a flag, or nobody has set it."""
    found = {name: (shown[name].value, shown[name].source, shown[name].line) for name in shown}
    assert found["port"] == ("9000", "file", 2)
    assert found["allowed-origin"] == ("https://a.example, https://b.example", "file", 3)
    assert found["max-message-size"] == ("65536", "file", 5)
    assert found["limits.head"] == ("4096", "file", 8)
    assert found["broadcast-port"] == ("9001", "flag", None)
    assert found["compression"] == ("off", "default", None)
    assert found["services./chat"][:2] == ("demo", "file")
    assert found["authenticators.site"] == ("jwt", "file", None)


def test_levels():
    """The levels of the log are shown as they are written in the file."""
    for given in ("info", "info, twisted_ws.wire=debug"):
        found = {each.name: each.value for each in inForce(merge({}, {"log-level": given})).settings}
        assert found["log-level"] == given


def test_secrets(shown):
    """Nothing that may be a secret is shown: passwords in URLs, options of services and of authenticators."""
    assert "hunter2" not in repr(shown)
    assert shown["engine"].value == "redis://set@redis.example"
    assert shown["authenticate"].value == "site, jwt:set"


def test_all():
    """Without a file, every setting and every limit is there, each once."""
    report = inForce(merge({}, {}))
    names = [each.name for each in report.settings]
    assert report.file is None
    assert len(names) == len(set(names))
    assert {key.name for key in KEYS} <= set(names)
    assert {each.source for each in report.settings} == {"default"}


def test_moved(tmp_path):
    """A file that has been moved away since the start has no lines, and the settings stay."""
    path = tmp_path / "push.toml"
    path.write_text(FILE)
    settings = merge(load(str(path)), {})
    path.unlink()
    port = next(each for each in inForce(settings).settings if each.name == "port")
    assert (port.value, port.source, port.line) == ("9000", "file", None)


def test_certificate():
    """A certificate is shown by the names that it is for, and its end."""
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    issued = trustme.CA().issue_cert("push.example", "127.0.0.1", not_after=ends)
    found = certificateOf(x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()))
    assert found.names == ["push.example", "127.0.0.1"]
    assert found.expires == ends.timestamp()
