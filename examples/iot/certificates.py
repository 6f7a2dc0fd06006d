"""Make an authority, and certificates for the server and for devices: python certificates.py NAME ..."""

import datetime
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def save(path, *blocks):
    """Write PEM that nobody else may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(blocks)


def issue(name, issuer=None, signer=None):
    """Return a key and a certificate, signed by an issuer, or by itself as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=365))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if issuer is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return key, builder.sign(signer or key, hashes.SHA256())


def pem(key):
    """Return a key as PEM."""
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*kinds)


authorityKey, authority = issue("Example authority")
certificate = authority.public_bytes(serialization.Encoding.PEM)
Path("ca.pem").write_bytes(certificate)
for each in ("localhost", *sys.argv[1:]):
    key, issued = issue(each, authority.subject, authorityKey)
    save(f"{each}.pem", pem(key), issued.public_bytes(serialization.Encoding.PEM))
