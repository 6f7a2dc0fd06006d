"""``twisted-ws token`` makes tokens that the server takes, and says why it refuses others."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.access.kinds.support import request
from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.commands.main import main
from twisted_ws.daemon.settings import load
from twisted_ws.limits import Limits

SECRET = "planted-secret-0123456789-0123456789"
CONFIG = """\
authenticate = ["site"]

[authenticators.site]
type = "jwt"
secret-file = "jwt.key"
issuer = "https://shop.example"
audience = "push"
user = "name"
leeway = 5
require = { tenant = ["one", "two"] }
"""
RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP384R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
CLAIMS = {"iss": "https://shop.example", "aud": "push", "name": "ann", "tenant": "one"}


class Place:
    """A directory with a configuration and keys, where the commands are given."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.write("jwt.key", SECRET + "\n")
        self.write("push.toml", CONFIG)

    def write(self, name: str, content: str | bytes) -> str:
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o600)
        return str(path)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code and what is printed, in which nothing is secret."""
        code = main(["token", *arguments])
        printed = self._capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        assert "PRIVATE" not in printed.out.replace("-----BEGIN PRIVATE KEY-----", "")
        return code, printed.out.strip(), printed.err.strip()

    def made(self, *arguments: str) -> str:
        """Return the token that is made."""
        code, token, error = self.run("make", *arguments)
        assert (code, error) == (0, "")
        return token

    def checked(self, token: str, *arguments: str, config: str = "push.toml") -> tuple[int, list[str]]:
        """Return the exit code and the lines of a check, in which the token is not; the file is called ``F``."""
        path = self.write("token", token + "\n")
        config = str(self.directory / config)
        code, printed, error = self.run("check", "--config", config, *arguments, path)
        assert error == ""
        assert not token or token not in printed
        return code, printed.replace(config, "F").splitlines()

    def server(self, name: str = "site") -> JWTAuthenticator:
        """Return the authenticator as the server has it."""
        table = dict(load(str(self.directory / "push.toml"))["authenticators"][name])
        del table["type"]
        return JWTAuthenticator(AuthenticatorSettings(name, table, str(self.directory), Limits(), None))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


def sign(secret: str = SECRET, alg: str = "HS256", header: dict[str, Any] | None = None, **more: Any) -> str:
    now = int(time.time())
    claims = {name: value for name, value in {**CLAIMS, "iat": now, "exp": now + 600, **more}.items() if value is not ...}
    return jwt.encode(claims, secret, alg, header)


def test_made(place: Place) -> None:
    """With the server's configuration, a token is made that the server takes, with scopes and grants, and an end in an hour."""
    config = str(place.directory / "push.toml")
    grants = ("--scope", "chat", "--scope", "admin", "--subscribe", "orders.*", "--publish", "typing")
    token = place.made("--config", config, "--user", "ann", *grants, "--claim", "age=7", "--claim", "of=x y")
    found = place.server().identify(request(("authorization", f"Bearer {token}")))
    assert (found.user, found.scopes, list(found.subscribe), list(found.publish)) == (
        "ann",
        {"chat", "admin"},
        ["orders.*"],
        ["typing"],
    )
    assert (found.claims["age"], found.claims["of"]) == (7, "x y")
    assert found.tokenId
    assert found.claims["tenant"] == "one"
    assert found.expiresAt - found.issuedAt == 3600 + 5
    assert (
        jwt.decode(place.made("--secret-file", str(place.directory / "jwt.key"), "--user", "ann"), SECRET, ["HS256"])["sub"]
        == "ann"
    )


def test_channelToken(place: Place) -> None:
    """A subscription token is made that the server takes as one, and the check says what it allows."""
    options = ("--config", str(place.directory / "push.toml"), "--user", "ann", "--channel", "rooms.7", "--channel", "a.*")
    token = place.made(*options, "--publish", "rooms.7")
    found = place.server().grantsOf(token, "ann")
    assert ({*found.subscribe}, {*found.publish}) == ({"rooms.7", "a.*"}, {"rooms.7"})
    code, lines = place.checked(token)
    assert code == 0
    assert "typ: a subscription token, which opens no connection" in lines
    assert lines[-5:-2] == ['user: sub is "ann"', 'channels: ["rooms.7", "a.*"]', 'publish: ["rooms.7"]']
    assert lines[-1] == "accepted"
    assert place.checked(sign(header={"typ": "twisted-ws-sub+jwt"}, sub="ann"))[1][-2:] == [
        "channels: missing",
        "refused (channels): The subscription token has no list of channels.",
    ]


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (CURVE, "ES384"), (EDWARDS, "EdDSA")], ids=["rsa", "curve", "edwards"]
)
def test_privateKeys(place: Place, key: Any, algorithm: str) -> None:
    """A private key signs with its own algorithm, under its id, and the check says which public key has verified it."""
    private = place.write("private.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    others = [each for each in (RSA, CURVE, EDWARDS) if each is not key]
    pems = [each.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for each in (*others, key)]
    place.write("public.pem", "".join(pems))
    place.write("keys.toml", '[authenticators.site]\ntype = "jwt"\nkey-file = "public.pem"\n')
    options = ("--key-file", private, "--key-id", "k1", "--user", "ann", "--audience", "a", "--audience", "b", "--expiry", "60")
    token = place.made(*options)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    claims = jwt.decode(token, key.public_key(), [algorithm], audience="b")
    assert (claims["aud"], claims["exp"] - claims["iat"]) == (["a", "b"], 60)
    code, lines = place.checked(place.made("--key-file", private, "--user", "ann"), config="keys.toml")
    assert code == 0
    assert lines[3].startswith("key: ")
    assert lines[3].endswith(", number 3 of 3  [F:3]")


def test_steps(place: Place) -> None:
    """The check prints each step of the decision, with the line that says what must be."""
    now = int(time.time())
    code, lines = place.checked(sign(jti="t1", scope=["chat"], exp=now + 6000))
    assert code == 0
    assert lines[:4] == [
        "header: alg HS256, kid none, typ jwt",
        "authenticator: site  [F:4]",
        "typ: opens connections",
        "key: a secret  [F:5]",
    ]
    assert lines[4] == "signature: right"
    assert lines[5].startswith("times: issued 20")
    assert lines[5].endswith(" seconds); the leeway is 5 seconds  [F:9]")
    assert lines[6:] == [
        'iss: "https://shop.example"; it must be "https://shop.example"  [F:6]',
        'aud: "push"; it must have "push"  [F:7]',
        'required: tenant is "one", and must be "one" or "two"  [F:10]',
        'user: name is "ann"  [F:8]',
        'scopes: scope is ["chat"]  [F:3, by default]',
        "grants: twisted_ws is missing  [F:3, by default]",
        'id: jti is "t1"  [F:3, by default]',
        "accepted",
    ]


NOW = int(time.time())
REFUSED: list[tuple[str, str]] = [
    ("x", "refused (header): This is not a JSON Web Token."),
    (sign("other" * 8), "refused (signature): The signature is wrong.  [F:5]"),
    (sign("other" * 16, "HS512"), "refused (key): No key here is for the algorithm that the token is signed with.  [F:5]"),
    (sign(header={"crit": ["exp"]}), "refused (header): The token has a critical extension (crit or b64)."),
    (sign(header={"typ": "logout+jwt"}), "refused (typ): The token is of another type (typ)."),
    (sign(iss="https://other.example"), "refused (iss): No authenticator accepts this token.  [F:6]"),
    (sign(aud="other"), "refused (aud): The token is for another audience.  [F:7]"),
    (sign(aud=...), "refused (aud): The token is for another audience.  [F:7]"),
    (sign(aud=[7]), "refused (aud): The token has an audience that is malformed (aud)."),
    (sign(tenant="three"), "refused (required): A claim does not have the value that is required.  [F:10]"),
    (sign(name=...), "refused (user): The token does not name a user with 1 to 128 characters.  [F:8]"),
    (sign(scope=7), "refused (scopes): The scopes are neither text nor a list of texts.  [F:3, by default]"),
    (sign(twisted_ws=[]), "refused (grants): The grants are not an object.  [F:3, by default]"),
    (sign(jti=7), "refused (id): The id of the token is not text of at most 256 characters."),
    (sign(exp=...), "refused (times): The token must say when it ends (exp)."),
    (sign(exp="x"), "refused (times): The token has an invalid time (exp)."),
    (sign(exp=NOW - 3600), "refused (times): The token has expired."),
    (sign(nbf=NOW + 3600), "refused (times): The token is not valid yet (nbf).  [F:9]"),
    (sign(iat=NOW + 3600, exp=NOW + 7200), "refused (times): The token was issued in the future (iat).  [F:9]"),
]


@pytest.mark.parametrize(
    ("token", "why"), REFUSED, ids=[f"{n}-{why[9:].partition(')')[0]}" for n, (_, why) in enumerate(REFUSED)]
)
def test_refused(place: Place, token: str, why: str) -> None:
    """What the server refuses is refused, with its reason and the line that wants it so, and exit code 1."""
    server = place.server()
    asked = request(("authorization", f"Bearer {token}"))
    reason = "This is not" if token == "x" else "No authenticator accepts"
    try:
        assert server.identify(asked) is None
    except AccessRefused as refusal:
        reason = refusal.message
    assert reason in why
    code, lines = place.checked(token)
    assert code == 1
    assert why in lines
    assert "accepted" not in lines


def test_expiredAndWrong(place: Place) -> None:
    """Of a token that has expired, the check also says what was wrong with it before."""
    lines = place.checked(sign(iat=NOW - 7200, exp=NOW - 3600, aud="other"))[1]
    assert [line for line in lines if line.startswith("refused")] == [
        "refused (times): The token has expired.",
        "refused (aud): The token is for another audience.  [F:7]",
    ]
    assert lines[-1].startswith("refused (aud)")


def test_ticket(place: Place) -> None:
    """A ticket is called one: it is not said to be wrong, because the server may take it."""
    code, lines = place.checked(sign(aud="twisted-ws-ticket", iss=..., jti="1"))
    assert (code, lines[-1]) == (
        1,
        "refused (aud): This is a ticket, for an authenticator of the type ticket: this command knows no tickets.",
    )


SEVERAL = """
[authenticators.first]
type = "jwt"
secret-file = "jwt.key"
issuer = "first"

[authenticators.second]
type = "jwt"
preset = "keycloak"
secret-file = "jwt.key"
issuer = "second"
audience = "push"
require.azp = "app"
"""


def test_several(place: Place) -> None:
    """The token's issuer chooses among several authenticators, or an option does; what a preset wants is said of its line."""
    place.write("push.toml", SEVERAL)
    code, lines = place.checked(sign(iss="second", sub="ann", typ="Bearer", azp="app"))
    assert (code, lines[1]) == (0, "authenticator: second  [F:8]")
    assert "scopes: realm_access.roles is missing  [F:9, by this preset]" in lines
    lines = place.checked(sign(iss="second", sub="ann", typ="ID", azp="app"))[1]
    assert lines[-1] == "refused (required): A claim does not have the value that is required.  [F:9, by this preset]"
    lines = place.checked(sign(iss="second", sub="ann", typ="Bearer"))[1]
    assert lines[-1] == "refused (required): A claim does not have the value that is required.  [F:13]"
    assert place.checked(sign(iss="third"))[1][1:] == [
        'authenticator: not first: the token is from another issuer, and the issuer must be "first"  [F:5]',
        'authenticator: not second: the token is from another issuer, and the issuer must be "second"  [F:11]',
        'iss: "third"',
        "refused (iss): No authenticator accepts this token.",
    ]
    code, lines = place.checked(sign(iss="second"), "--authenticator", "first")
    assert (code, lines[-1]) == (1, "refused (iss): No authenticator accepts this token.  [F:5]")


def test_flag(place: Place) -> None:
    """An authenticator that the file has as a flag has it is checked, too."""
    place.write("push.toml", f'authenticate = ["jwt:secret-file={place.directory}/jwt.key:issuer=first"]')
    assert place.checked(sign(iss="first", sub="ann", aud=...))[0] == 0
    assert place.checked(sign(iss="first", sub="ann", aud="x"))[1][-1].endswith("none is set here.  [F:1]")


def test_nothingControls(place: Place) -> None:
    """What a token says cannot control the terminal, and is cut."""
    code, lines = place.checked(sign(aud="\x1b[31m\n" + "x" * 1000))
    assert code == 1
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_standardInput(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is read from standard input, too."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(sign().encode() + b"\n")))
    assert place.run("check", "--config", str(place.directory / "push.toml"), "-")[0] == 0
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    assert place.run("check", "--config", str(place.directory / "push.toml"), "-")[::2] == (
        2,
        "twisted-ws: The token on standard input is not ASCII.",
    )


OTHER = dsa.generate_private_key(2048)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give make or check"),
        ("refresh", "give make or check"),
        ("make --secret-file jwt.key", "--user is needed"),
        ("make --user ann", "Give --secret-file or --key-file"),
        ("make --user ann --secret-file jwt.key --key-file jwt.key", "give one of"),
        ("make --user ann --secret-file nothing", "cannot be read"),
        ("make --user ann --secret-file short", "has fewer than 32 bytes"),
        ("make --user ann --secret-file private.pem", "is a key in PEM: give it with --key-file"),
        ("make --user ann --key-file jwt.key", "has no private key in PEM"),
        ("make --user ann --key-file encrypted.pem", "is encrypted"),
        ("make --user ann --key-file dsa.pem", "of a kind that signs no tokens"),
        ("make --user ann --key-file small.pem", "fewer than 2048 bits"),
        ("make --user ann --key-file fifo", "not a regular file"),
        ("make --user ann --secret-file jwt.key --algorithm RS256", "--algorithm must be one that the key is for: HS256"),
        ("make --user ann --secret-file jwt.key --expiry 0", "--expiry must be"),
        ("make --user ann --secret-file jwt.key --subscribe a*", "--subscribe: "),
        ("make --user ann --secret-file jwt.key --channel a --scope b", "has no --scope and --subscribe"),
        ("make --user ann --secret-file jwt.key --claim a", "NAME=VALUE"),
        ("make --user ann --config push.toml --authenticator other", "has no authenticator other of the type jwt: it has site"),
        ("make --user ann --config keys.toml", "give its private key with --key-file"),
        ("make --user ann --config none.toml", "has no authenticator of the type jwt"),
        ("check token", "--config is needed"),
        ("check --config push.toml", "give one file"),
        ("check --config push.toml nothing", "cannot be read"),
        ("check --config nothing jwt.key", "cannot be read"),
        ("check --config none.toml jwt.key", "has no authenticator of the type jwt"),
        ("check --config push.toml --authenticator other jwt.key", "has no authenticator other"),
        ("check --config push.toml " + sign(), "not the token itself"),
    ],
)
def test_mistakes(place: Place, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
    """A mistake is one line, in which nothing is secret, with exit code 2."""
    for name, key, how in (
        ("private.pem", RSA, NoEncryption()),
        ("dsa.pem", OTHER, NoEncryption()),
        ("small.pem", rsa.generate_private_key(65537, 1024), NoEncryption()),
        ("encrypted.pem", EDWARDS, BestAvailableEncryption(b"x")),
    ):
        place.write(name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    place.write("public.pem", RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    place.write("keys.toml", '[authenticators.site]\ntype = "jwt"\nkey-file = "public.pem"\n')
    place.write("none.toml", "")
    place.write("short", "short")
    os.mkfifo(place.directory / "fifo")
    monkeypatch.chdir(place.directory)
    code, printed, error = place.run(*arguments.split())
    assert (code, printed) == (2, "")
    assert len(error.splitlines()) == 1
    assert message in error
    assert "eyJ" not in error


def test_help(place: Place) -> None:
    """The command says what it has, and each task has its own help."""
    assert "token make" in place.run("--help")[1]
    for task, option in (("make", "--subscribe"), ("check", "--authenticator")):
        with pytest.raises(SystemExit):
            main(["token", task, "--help"])
        assert option in place._capsys.readouterr().out


def test_openKey(place: Place) -> None:
    """A key that other users can read signs, with a warning."""
    path = Path(place.write("private.pem", RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())))
    path.chmod(0o644)
    code, token, error = place.run("make", "--user", "ann", "--key-file", str(path))
    assert (code, error) == (0, f"twisted-ws: the key in {path} is open to other users of this machine: chmod 600 {path}")
    assert jwt.decode(token, RSA.public_key(), ["RS256"])["sub"] == "ann"
