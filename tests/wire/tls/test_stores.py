from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from twisted_ws.client import ConfigurationError, Store
from twisted_ws.wire.tls import files
from twisted_ws.wire.tls.files import MAX_FILE
from twisted_ws.wire.tls.stores import loadClientKey, loadTrust

ROOT = trustme.CA()
LEAF = ROOT.create_child_ca().issue_cert("alice@example.org")
KEY = load_pem_private_key(LEAF.private_key_pem.bytes(), None)
CERTIFICATES = [x509.load_pem_x509_certificate(each.bytes()) for each in LEAF.cert_chain_pems]
AUTHORITY = x509.load_pem_x509_certificate(ROOT.cert_pem.bytes())
LOCKED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def write(folder: Path, data: bytes, name: str = "store") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def p12(key=KEY, certificate=CERTIFICATES[0], others=CERTIFICATES[1:], password=b"secret") -> bytes:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"alice", key, certificate, others, lock)


def test_trust(tmp_path):
    """Every certificate of a PEM bundle or of a PKCS #12 file is trusted, that of its key included."""
    bundle = write(tmp_path, ROOT.cert_pem.bytes() * 2 + LEAF.private_key_pem.bytes())
    assert loadTrust(bundle) == (AUTHORITY, AUTHORITY)
    assert loadTrust(Path(bundle)) == (AUTHORITY, AUTHORITY)
    store = write(tmp_path, p12(others=[*CERTIFICATES[1:], AUTHORITY]))
    assert set(loadTrust(Store(store, "secret"))) == {*CERTIFICATES, AUTHORITY}
    open_ = write(tmp_path, p12(None, None, [AUTHORITY], None))
    assert loadTrust(open_) == (AUTHORITY,)


@pytest.mark.parametrize("password", [None, "secret"])
def test_clientKey(tmp_path, password):
    """A client's certificate is the one that the key belongs to; the others are its chain."""
    pem = (LEAF.private_key_pem.bytes() if password is None else LOCKED) + b"".join(
        each.bytes() for each in reversed(LEAF.cert_chain_pems)
    )
    for data in (pem, p12(password=None if password is None else b"secret")):
        found = loadClientKey(Store(write(tmp_path, data), password))
        assert found.certificate == CERTIFICATES[0]
        assert found.chain == tuple(CERTIFICATES[1:])


@pytest.mark.parametrize(
    ("data", "password", "hint"),
    [
        (b"", None, "neither PEM nor PKCS #12"),
        (b"\x00\x01\x02", None, "neither PEM nor PKCS #12"),
        (b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", None, "damaged"),
        (LEAF.private_key_pem.bytes(), None, "holds no certificate"),
        (p12(None, None, [AUTHORITY]), None, "give its password with Store"),
        (p12(None, None, [AUTHORITY]), "other", "check the password"),
        (b"x" * (MAX_FILE + 1), None, "larger than"),
    ],
)
def test_badTrust(tmp_path, data, password, hint):
    """A trust store that cannot be used is one line with the file and the mend."""
    path = write(tmp_path, data)
    with pytest.raises(ConfigurationError) as caught:
        loadTrust(Store(path, password))
    assert hint in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("data", "password", "hint"),
    [
        (ROOT.cert_pem.bytes(), None, "without its private key"),
        (LEAF.private_key_pem.bytes() + ROOT.cert_pem.bytes(), None, "none of its certificates"),
        (LEAF.private_key_pem.bytes(), None, "none of its certificates"),
        (LOCKED + ROOT.cert_pem.bytes(), None, "give its password"),
        (LOCKED + ROOT.cert_pem.bytes(), b"other", "damaged key, or its password"),
        (LEAF.private_key_pem.bytes() + ROOT.cert_pem.bytes(), "secret", "leave out the password"),
        (p12(), b"\xff", "check the password"),
        (
            x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + ROOT.cert_pem.bytes(),
            None,
            "of a kind that TLS cannot use",
        ),
    ],
)
def test_badClientKey(tmp_path, data, password, hint):
    """A client certificate that cannot be used is one line with the file and the mend."""
    path = write(tmp_path, data)
    with pytest.raises(ConfigurationError) as caught:
        loadClientKey(Store(path, password))
    assert hint in str(caught.value)
    assert path in str(caught.value)


def test_missing(tmp_path):
    """A file that is not there is named."""
    for path in (str(tmp_path / "none"), tmp_path, "a\0b"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            loadTrust(path)


def test_oldEncryption(tmp_path, monkeypatch):
    """A store whose encryption OpenSSL has given up says so."""

    def refuse(*arguments: object) -> None:
        raise UnsupportedAlgorithm("RC2")

    monkeypatch.setattr(files, "load_pkcs12", refuse)
    with pytest.raises(ConfigurationError, match="export it anew"):
        loadTrust(write(tmp_path, p12()))


def test_secret():
    """The password is in no repr."""
    assert "secret" not in repr(Store("a.p12", "secret"))
