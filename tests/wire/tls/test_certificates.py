from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from twisted.logger import capturedLogs

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.tls import files
from twisted_ws.wire.tls.certificates import (
    PASSWORD_VARIABLE,
    loadAuthorities,
    loadKeyStore,
    loadPEM,
    readPassword,
)
from twisted_ws.wire.tls.files import MAX_FILE
from twisted_ws.wire.tls.selfsigned import loadSelfSigned

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROOT = trustme.CA()
BETWEEN = ROOT.create_child_ca()
LEAF = BETWEEN.issue_cert("localhost")
OTHER = trustme.CA().issue_cert("localhost")

OWN = LEAF.cert_chain_pems[0].bytes()
KEY = LEAF.private_key_pem.bytes()
CHAIN = LEAF.cert_chain_pems[1].bytes()
ROOT_PEM = ROOT.cert_pem.bytes()


def write(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def parse(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def encrypted(data: bytes) -> bytes:
    return load_pem_private_key(data, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def keyStore(
    key: bytes | None = KEY,
    own: bytes | None = OWN,
    others: tuple[bytes, ...] = (CHAIN,),
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"server",
        load_pem_private_key(key, None) if key else None,
        parse(own) if own else None,
        [parse(each) for each in others],
        encryption or BestAvailableEncryption(b"secret"),
    )


def test_certificateKeyAndChainAreReadFromThreeFiles(tmp_path: Path) -> None:
    """Certificate, key and chain come from a file each."""
    found = loadPEM(write(tmp_path / "c", OWN), write(tmp_path / "k", KEY), write(tmp_path / "h", CHAIN))
    assert found.certificate == parse(OWN)
    assert found.chain == (parse(CHAIN),)
    assert found.source == str(tmp_path / "c")
    assert not found.selfSigned


@pytest.mark.parametrize("parts", [(OWN, CHAIN, ROOT_PEM, KEY), (ROOT_PEM, KEY, CHAIN, OWN, OWN)])
def test_oneFileMayHoldEverythingInAnyOrder(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    """A certificate file may carry the key and the chain; the chain is put in order from the certificate of the key."""
    found = loadPEM(write(tmp_path / "all.pem", b"".join(parts)))
    assert found.certificate == parse(OWN)
    assert found.chain == (parse(CHAIN), parse(ROOT_PEM))


@pytest.mark.parametrize("kind", ["RSA", "ECDSA"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_everyCommonFormOfKeyIsRead(tmp_path: Path, kind: str, form: PrivateFormat) -> None:
    """RSA and ECDSA keys are read as PKCS #8 and in the older form."""
    issued = ROOT.issue_cert("localhost", key_type=trustme.KeyType[kind])
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, form, NoEncryption())
    found = loadPEM(write(tmp_path / "c", issued.cert_chain_pems[0].bytes()), write(tmp_path / "k", pem))
    assert found.key.public_key() == key.public_key()


def test_theReprHasNoKey(tmp_path: Path) -> None:
    """The private key is not in the repr."""
    found = loadPEM(write(tmp_path / "all.pem", OWN + CHAIN + KEY))
    assert "key=" not in repr(found).lower()


def test_fingerprintAndDaysLeftTellOfTheCertificate(tmp_path: Path) -> None:
    """The fingerprint has the form that browsers show, and the days are counted to the end of validity."""
    found = loadPEM(write(tmp_path / "all.pem", OWN + CHAIN + KEY))
    assert len(found.fingerprint) == 32 * 3 - 1
    assert bytes.fromhex(found.fingerprint.replace(":", ""))[:1].hex().upper() == found.fingerprint[:2]
    assert found.fingerprint == found.fingerprint.upper()
    end = found.certificate.not_valid_after_utc
    assert found.daysLeft(end - timedelta(days=3, hours=12)) == 3.5
    assert found.daysLeft(end + timedelta(days=1)) == -1


# An elliptic curve of the same length of name that nobody knows.
UNKNOWN_CURVE = parse(OTHER.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)
UNKNOWN_CURVE = UNKNOWN_CURVE.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
X25519 = x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def der2pem(data: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"


def damaged(pem: bytes) -> bytes:
    return pem.replace(b"\nM", b"\nA", 1)


@pytest.mark.parametrize(
    ("certificate", "key", "chain", "line"),
    [
        (None, KEY, None, "The certificate {c} cannot be read (No such file or directory): check the path and its permissions."),
        (OWN, None, CHAIN, "The private key {k} cannot be read (No such file or directory): check the path and its permissions."),
        (b"\x00\xff" * 99, KEY, None, "The certificate {c} holds no PEM certificate: "),
        (b"", KEY, None, "The certificate {c} holds no PEM certificate: "),
        (KEY, KEY, None, "The certificate {c} holds no PEM certificate: "),
        (parse(OWN).public_bytes(Encoding.DER), KEY, None, "The certificate {c} holds no PEM certificate: "),
        (damaged(OWN), KEY, None, "The certificate {c} has a certificate that is damaged"),
        (der2pem(UNKNOWN_CURVE), KEY, None, "The certificate {c} has a certificate that is damaged or of an unknown kind"),
        (OWN + b" " * MAX_FILE, KEY, None, "The certificate {c} is larger than 4194304 bytes"),
        (OWN, b"garbage", None, "The private key {k} is not a usable PEM key"),
        (OWN, OWN, None, "The private key {k} is not a usable PEM key"),
        (OWN, damaged(KEY), None, "The private key {k} is not a usable PEM key"),
        (OWN, encrypted(KEY), None, "The private key {k} is encrypted: decrypt it (openssl pkey -in {k} -out new.pem)"),
        (OWN, X25519, None, "The private key in {k} is of a kind that TLS cannot use"),
        (OWN, OTHER.private_key_pem.bytes(), None, "The private key {k} does not belong to the certificate {c}"),
        (OWN, KEY, b"", "The chain {h} holds no PEM certificate"),
        (OWN, KEY, OTHER.cert_chain_pems[0].bytes(), "The chain in {h} does not fit the certificate {c}"),
        (OWN, KEY, ROOT_PEM, "The chain in {h} does not fit the certificate {c}"),
        (OWN + OTHER.cert_chain_pems[0].bytes(), KEY, CHAIN, "The chain in {c} does not fit the certificate {c}"),
    ],
)
def test_eachMistakeInPEMFilesIsOneLineThatNamesTheFile(
    tmp_path: Path, certificate: bytes | None, key: bytes | None, chain: bytes | None, line: str
) -> None:
    """Whatever is wrong with the files is one line with the path and the mend."""
    paths = {"c": str(tmp_path / "c.pem"), "k": str(tmp_path / "k.pem"), "h": str(tmp_path / "h.pem")}
    for name, data in (("c", certificate), ("k", key), ("h", chain)):
        if data is not None:
            write(Path(paths[name]), data)
    with pytest.raises(ConfigurationError) as caught:
        loadPEM(paths["c"], paths["k"], None if chain is None else paths["h"])
    text = str(caught.value)
    assert text.startswith(line.format(**paths))
    assert "\n" not in text
    assert text.endswith(".")


def test_aCertificateWithoutAKeySaysWhichOptionIsMissing(tmp_path: Path) -> None:
    """Without a key anywhere, the line names --private-key."""
    with pytest.raises(ConfigurationError, match="without its private key: name the key's file with --private-key"):
        loadPEM(write(tmp_path / "c.pem", OWN + CHAIN))


@pytest.mark.parametrize("path", ["{}", "/nowhere/at/all\n.pem", "a\0b"])
def test_aPathThatIsNoFileIsOneLine(tmp_path: Path, path: str) -> None:
    """A directory, a missing file with a newline in its name, and a name that no file can have are one line each."""
    with pytest.raises(ConfigurationError, match=r"^The client CA .* cannot be read \(.+\): check the path") as caught:
        loadAuthorities(path.format(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_aKeyThatOthersCanReadIsWarnedOf(tmp_path: Path, mode: int, warned: bool) -> None:
    """A private key that group or others may open is used, and a warning names the mend; a certificate alone may be open."""
    certificate, key = write(tmp_path / "c.pem", OWN, 0o644), write(tmp_path / "k.pem", KEY, mode)
    with capturedLogs() as events:
        loadPEM(certificate, key)
    assert [(e["log_level"].name, e["file"]) for e in events] == ([("warn", key)] if warned else [])
    assert all("chmod 600" in e["log_format"] for e in events)


def test_aKeyStoreGivesCertificateKeyAndChain(tmp_path: Path) -> None:
    """A PKCS #12 file has all three; certificates in it that are not of the chain are left out."""
    path = write(tmp_path / "s.p12", keyStore(others=(ROOT_PEM, OTHER.cert_chain_pems[0].bytes(), CHAIN)))
    found = loadKeyStore(path, b"secret")
    assert found.certificate == parse(OWN)
    assert found.chain == (parse(CHAIN), parse(ROOT_PEM))
    assert found.source == path


@pytest.mark.parametrize("password", [None, b""])
def test_aKeyStoreMayBeWithoutAPassword(tmp_path: Path, password: bytes | None) -> None:
    """A key store that is not encrypted opens without a password."""
    assert loadKeyStore(write(tmp_path / "s.p12", keyStore(encryption=NoEncryption())), password).certificate == parse(OWN)


@pytest.mark.parametrize(
    ("data", "password", "line"),
    [
        (None, b"", r"cannot be read \(No such file"),
        (keyStore(), b"wrong", r"does not open: check the password\."),
        (keyStore(), b"\xff", r"does not open: check the password\."),
        (keyStore(), None, r"give its password with --key-store-password-file or TWISTED_WS_KEY_STORE_PASSWORD\."),
        (b"garbage", b"", r"is not a PKCS #12 file: convert it"),
        (OWN + KEY, b"", r"is not a PKCS #12 file: convert it"),
        (b"", b"", r"is not a PKCS #12 file: convert it"),
        (keyStore()[:-9], b"secret", r"is not a PKCS #12 file: convert it"),
        (keyStore(key=None), b"secret", r"lacks a private key with its certificate"),
    ],
)
def test_eachMistakeInAKeyStoreIsOneLine(tmp_path: Path, data: bytes | None, password: bytes | None, line: str) -> None:
    """A wrong password and another kind of file are told apart, and neither the line nor its cause shows the password."""
    path = tmp_path / "s.p12"
    if data is not None:
        write(path, data)
    with pytest.raises(ConfigurationError, match=line) as caught:
        loadKeyStore(str(path), password)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_aKeyStoreThatOpenSSLNoLongerReadsIsOneLine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old encryption that OpenSSL was built without is named as the reason."""

    def refuse(data: bytes, password: bytes | None) -> None:
        raise UnsupportedAlgorithm("RC2 is not supported")

    monkeypatch.setattr(files, "load_pkcs12", refuse)
    with pytest.raises(ConfigurationError, match="no longer reads: export it anew"):
        loadKeyStore(write(tmp_path / "s.p12", keyStore()), b"secret")


def test_aKeyStoreThatOthersCanReadIsWarnedOf(tmp_path: Path) -> None:
    """A key store holds a private key, so it is warned of like one."""
    path = write(tmp_path / "s.p12", keyStore(), 0o644)
    with capturedLogs() as events:
        loadKeyStore(path, b"secret")
    assert [(e["log_level"].name, e["file"]) for e in events] == [("warn", path)]


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pass word", b"pass word"),
        (b"pw\n", b"pw"),
        (b"pw\r\n", b"pw"),
        (b"pw\n\n", b"pw\n"),
        (b"", b""),
        (b" \xc3\xa4 ", b" \xc3\xa4 "),
    ],
)
def test_thePasswordIsTheFileWithoutItsLastNewline(tmp_path: Path, content: bytes, password: bytes) -> None:
    """One newline at the end of the password file is dropped and nothing else."""
    assert readPassword(write(tmp_path / "pw", content)) == password


def test_thePasswordFileWinsOverTheEnvironment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, the environment variable counts; without both, there is no password."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the environment")
    assert readPassword(write(tmp_path / "pw", b"from the file")) == b"from the file"
    assert readPassword(None) == b"from the environment"
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert readPassword(None) is None


def test_aPasswordFileIsReadOrNamed(tmp_path: Path) -> None:
    """A missing password file is a line with its path, an open one is warned of."""
    with pytest.raises(ConfigurationError, match=f"The key store password file {tmp_path}/pw cannot be read"):
        readPassword(str(tmp_path / "pw"))
    with capturedLogs() as events:
        readPassword(write(tmp_path / "pw", b"secret", 0o644))
    assert [e["log_level"].name for e in events] == ["warn"]


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink(os.devnull, path)], ids=["pipe", "directory", "device"]
)
def test_onlyRegularFilesAreRead(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, a directory or a device is one clear line at once: none is waited for."""
    path = tmp_path / "file"
    make(path)
    for load in (loadPEM, loadAuthorities, readPassword, partial(loadKeyStore, password=b"")):
        with pytest.raises(ConfigurationError, match=f"{path} cannot be read .*(not a regular file|directory)"):
            load(str(path))


def test_authoritiesAreAllCertificatesOfTheFile(tmp_path: Path) -> None:
    """A client CA file may hold several."""
    assert loadAuthorities(write(tmp_path / "ca.pem", ROOT_PEM + CHAIN)) == (parse(ROOT_PEM), parse(CHAIN))


@pytest.mark.parametrize("content", [b"", b"# no client may come\n", KEY])
def test_aClientCAFileWithoutACertificateIsRefused(tmp_path: Path, content: bytes) -> None:
    """A client CA file that holds none would refuse everybody, so it is said at start."""
    with pytest.raises(ConfigurationError, match=r"^The client CA .*ca.pem holds no PEM certificate"):
        loadAuthorities(write(tmp_path / "ca.pem", content))


# The self-signed certificate


def test_theSelfSignedCertificateIsForLocalhostOnly(tmp_path: Path) -> None:
    """It names localhost and the loopback addresses, cannot sign others, and browsers accept its length."""
    found = loadSelfSigned(str(tmp_path / "state"), NOW)
    certificate = found.certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    assert isinstance(found.key, ec.EllipticCurvePrivateKey)
    assert found.key.curve.name == "secp256r1"
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=397)
    assert certificate.not_valid_before_utc < NOW
    assert found.selfSigned


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_onlyTheOwnerCanReadTheSelfSignedKey(tmp_path: Path, umask: int) -> None:
    """The directory is made 0700 and the files 0600, whatever the umask is."""
    before = os.umask(umask)
    try:
        loadSelfSigned(str(tmp_path / "a" / "state"), NOW)
    finally:
        os.umask(before)
    state = tmp_path / "a" / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in state.iterdir()} == {
        "self-signed.pem": 0o600,
        "self-signed.pem.lock": 0o600,
    }


@pytest.mark.parametrize(("days", "kept"), [(0, True), (389, True), (390, False), (400, False), (-1, False)])
def test_theSelfSignedCertificateIsKeptWhileItIsValid(tmp_path: Path, days: int, kept: bool) -> None:
    """It is used again until 7 days before its end; then, or if the clock was set back, a new one is made."""
    first = loadSelfSigned(str(tmp_path), NOW)
    second = loadSelfSigned(str(tmp_path), NOW + timedelta(days=days))
    assert (second.certificate == first.certificate) is kept
    assert second.source == first.source == str(tmp_path / "self-signed.pem")


@pytest.mark.parametrize("content", [b"", b"garbage", OWN, OWN + OTHER.private_key_pem.bytes(), KEY, damaged(OWN) + KEY])
def test_aDamagedSelfSignedFileIsMadeAnew(tmp_path: Path, content: bytes) -> None:
    """A file that is cut, garbage or does not match is replaced, and the new one is kept."""
    write(tmp_path / "self-signed.pem", content)
    made = loadSelfSigned(str(tmp_path), NOW)
    assert loadPEM(made.source).certificate == made.certificate == loadSelfSigned(str(tmp_path), NOW).certificate


def test_anOpenStateDirectoryIsWarnedOf(tmp_path: Path) -> None:
    """Anybody that can write to the directory can exchange the key, so a warning names the remedy."""
    tmp_path.chmod(0o777)
    with capturedLogs() as events:
        loadSelfSigned(str(tmp_path), NOW)
    assert [(e["log_level"].name, e["file"]) for e in events] == [("warn", str(tmp_path))]


def test_aStateDirectoryThatCannotBeUsedIsOneLine(tmp_path: Path) -> None:
    """A file in the way of the directory is named, with what to do."""
    write(tmp_path / "state", b"")
    with pytest.raises(
        ConfigurationError, match=r"state cannot keep a certificate \(File exists\): make it writable, or give --cert"
    ):
        loadSelfSigned(str(tmp_path / "state"), NOW)


def test_nothingIsLeftBehindWhenTheDiskIsFull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves no half file and no temporary one."""

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        loadSelfSigned(str(tmp_path), NOW)
    assert [each.name for each in tmp_path.iterdir()] == ["self-signed.pem.lock"]


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [
        ("{}/xdg", "{}/home", "{}/xdg/twisted-ws/self-signed.pem"),
        ("relative", "{}/home", "{}/home/.local/state/twisted-ws/self-signed.pem"),
        ("", "{}/home", "{}/home/.local/state/twisted-ws/self-signed.pem"),
    ],
)
def test_theStateDirectoryFollowsTheXDGSpecification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdg: str, home: str, expected: str
) -> None:
    """$XDG_STATE_HOME where it is absolute, else ~/.local/state."""
    monkeypatch.setenv("XDG_STATE_HOME", xdg.format(tmp_path))
    monkeypatch.setenv("HOME", home.format(tmp_path))
    assert loadSelfSigned(None, NOW).source == expected.format(tmp_path)


def test_withoutAHomeTheStateDirectoryMustBeGiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home is told what to set, instead of finding a directory named ~."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigurationError, match=r"There is no home directory .*: set XDG_STATE_HOME, or give --certificate"):
        loadSelfSigned(None, NOW)


@pytest.mark.exhaustive
def test_processesThatStartTogetherGetTheSameCertificate(tmp_path: Path) -> None:
    """Several processes that find no certificate, or a damaged one, agree on one."""
    write(tmp_path / "self-signed.pem", b"damaged")
    code = (
        "import sys; from datetime import *; from twisted_ws.wire.tls.selfsigned import loadSelfSigned\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "print(loadSelfSigned(sys.argv[1], datetime.now(UTC)).fingerprint)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.close()
        each.stdin = None
    fingerprints = {each.communicate()[0] for each in started}
    assert fingerprints == {loadPEM(str(tmp_path / "self-signed.pem")).fingerprint + "\n"}
