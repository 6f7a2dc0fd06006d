from __future__ import annotations

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import FILETYPE_PEM, load_certificate

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls.certificates import CertifiedKey
from twisted_ws.wire.tls.client import ClientTLS

ROOT = trustme.CA()
SERVER = ROOT.create_child_ca().issue_cert("localhost", "127.0.0.1")
CLIENT = trustme.CA().issue_cert("alice@example.org", common_name="alice")


def parse(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


def test_judge():
    """A certificate that cannot be judged is refused: nothing is raised through OpenSSL, and nothing let through."""
    tls = ClientTLS("localhost", [parse(ROOT.cert_pem.bytes())])
    certificate = load_certificate(FILETYPE_PEM, SERVER.cert_chain_pems[0].bytes())
    refusal = tls.judge(certificate, 99, 0, False)
    assert refusal is not None
    assert "verification error 99" in refusal.text
    assert not refusal.isWrongName
    assert tls.judge(certificate, 0, 1, True) is None
    assert tls.judge(certificate, 0, 0, True) is None


def test_badKey():
    """A client certificate that OpenSSL refuses is an error of the operator, and named."""
    other = load_pem_private_key(CLIENT.private_key_pem.bytes(), None)
    key = CertifiedKey("client.pem", parse(SERVER.cert_chain_pems[0].bytes()), other)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"client\.pem"):
        ClientTLS("localhost", None, key)
