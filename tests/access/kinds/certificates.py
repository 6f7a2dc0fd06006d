"""Certificates of clients, made as fast as possible, and lists of revoked ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.access.kinds.support import NOW

DAY = timedelta(days=1)
BEGIN = datetime.fromtimestamp(NOW, UTC) - DAY


class Authority:
    """Signs certificates and lists."""

    def __init__(self, name: str = "Our devices", begin: datetime = BEGIN) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.begin = begin
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate, _ = self.issue(self.name, key=self.key, isAuthority=True)

    def issue(
        self,
        subject: x509.Name | str | None,
        *alternatives: x509.GeneralName,
        begin: datetime | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        isAuthority: bool = False,
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Return a certificate for two days, and its key."""
        if not isinstance(subject, x509.Name):
            subject = x509.Name([] if subject is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        key = key or ec.generate_private_key(ec.SECP256R1())
        begin = begin or self.begin
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 2 * DAY)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        if isAuthority:
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        return builder.sign(self.key, SHA256()), key

    def revoke(self, certificates: Iterable[x509.Certificate], until: datetime = BEGIN + 2 * DAY) -> bytes:
        """Return a list of revoked certificates, as PEM."""
        builder = x509.CertificateRevocationListBuilder(self.name, BEGIN - 9 * DAY, until)
        for each in certificates:
            revoked = x509.RevokedCertificateBuilder(each.serial_number, BEGIN)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def save(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Write a certificate, with its key; return the path."""
    path = directory / name
    written = b"" if key is None else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem(certificate) + written)
    path.chmod(0o600)
    return str(path)
