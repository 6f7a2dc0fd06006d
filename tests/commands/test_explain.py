"""``twisted-ws explain`` says what the server would decide."""

from __future__ import annotations

import pytest

from twisted_ws.commands.main import main

CONFIG = """
authenticate = ["guest"]
api-key-file = "keys"

[services."/channels"]
target = "channels"

[channels."*"]
subscribe = "granted"
publish = ["granted", "ask"]

[channels."users.{user}.*"]
subscribe = "owner"
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "push.toml"
    path.write_text(CONFIG)
    return str(path)


def explained(capsys, *arguments):
    code = main(["explain", *arguments])
    printed = capsys.readouterr()
    return code, (printed.out or printed.err).splitlines()


def test_yes(capsys, config):
    """It prints each step, with the line of the table, and the exit code is 0 for yes."""
    code, lines = explained(capsys, "--config", config, "--user", "ann", "subscribe", "users.ann.orders")
    assert (code, lines) == (
        0,
        [
            f'users.ann.orders falls under channels."users.{{user}}.*"  [{config}:12]',
            f'subscribe = owner (channels."users.{{user}}.*"): owner, yes  [{config}:13]',
            "yes",
        ],
    )


@pytest.fixture
def grants(tmp_path):
    path = tmp_path / "g.json"
    path.write_text('{"subscribe": ["orders.*"], "info": 1}')
    return str(path)


def test_grants(capsys, config, grants):
    """The grants of a token are read from a file; others may be given besides."""
    for channel, code in ("orders.1", 0), ("news", 0), ("other", 1):
        assert explained(capsys, "--config", config, "--grants", grants, "--subscribe", "news", "subscribe", channel)[0] == code


def test_asked(capsys, config):
    """What the application has to be asked about is neither yes nor no."""
    code, lines = explained(capsys, "--config", config, "--user", "ann", "publish", "orders.1")
    assert (code, lines[-1]) == (1, "the application decides")


def test_whatGrants(capsys, config):
    """Where a grant would be enough, it says so, and which options say what is granted."""
    assert explained(capsys, "--config", config, "subscribe", "a")[1][1:] == [
        f'subscribe = granted (channels."*"): no  [{config}:9]',
        "credentials that grant it would be enough; what they grant is said by --token, --grants, --subscribe and --publish",
        "no",
    ]
    assert explained(capsys, "--config", config, "subscribe", "users.ann.a")[1][-2:] == [
        f'subscribe = owner (channels."users.{{user}}.*"): no  [{config}:13]',
        "no",
    ]


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(
        CONFIG.replace('"guest"', '"site"')
        + '\n[authenticators.site]\ntype = "jwt"\nsecret-file = "jwt.key"\nissuer = "https://a"\n'
    )
    (tmp_path / "jwt.key").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "jwt.key").chmod(0o600)

    def made(*arguments, **claims):
        main(
            [
                "token",
                "make",
                "--config",
                str(path),
                "--user",
                "ann",
                *arguments,
                *(f"--claim={k}={v}" for k, v in claims.items()),
            ]
        )
        (tmp_path / "token").write_text(capsysOf[0].readouterr().out)
        return ["--config", str(path), "--token", str(tmp_path / "token")]

    capsysOf = []
    made.capsysOf = capsysOf
    return made


@pytest.mark.parametrize(
    ("token", "question", "code", "first", "last"),
    [
        (["--subscribe", "rooms.7"], ["subscribe", "rooms.7"], 0, "the token is of ann", "yes"),
        (["--subscribe", "rooms.7"], ["subscribe", "rooms.8"], 1, "the token is of ann", "no"),
        ([], ["subscribe", "users.ann.orders"], 0, "the token is of ann", "yes"),
        (["--channel", "rooms.8"], ["subscribe", "rooms.8"], 0, "the token is of ann", "yes"),
        (["--channel", "rooms.8", "--publish", "rooms.8"], ["publish", "rooms.8"], 0, "the token is of ann", "yes"),
        (
            ["--subscribe", "rooms.7", "--claim", "exp=1000000000", "--claim", "iat=999999000"],
            ["subscribe", "rooms.7"],
            1,
            "the token is of ann, and has expired",
            "no: it would be yes, if the token had not expired",
        ),
        (
            ["--issuer", "https://b"],
            ["subscribe", "rooms.7"],
            1,
            "the token is refused: No authenticator of the type jwt accepts this token. (twisted-ws token check says more)",
            "no",
        ),
    ],
)
def test_token(capsys, site, token, question, code, first, last):
    """A token says who its user is and what is granted, if the server would accept it."""
    site.capsysOf.append(capsys)
    answer, lines = explained(capsys, *site(*token), *question)
    assert (answer, lines[0], lines[-1]) == (code, first, last)


def test_key(capsys, config, tmp_path, monkeypatch):
    """What a back end may publish is told with the line of its key; of two keys of one name, one is enough."""
    monkeypatch.chdir(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text("# old\nshop: 0123456789abcdef until=2020-01-01\nshop: 0123456789abcdefg publish:orders.* broadcast\n")
    keys.chmod(0o600)
    arguments = "--config", config, "--key", "shop", "publish"
    code, lines = explained(capsys, *arguments, "orders.1")
    assert (code, lines[1:]) == (
        0,
        ["shop has admin, but it has expired: no  [keys:2]", "shop has publish:orders.* broadcast: yes  [keys:3]", "yes"],
    )
    assert explained(capsys, *arguments, "news")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--user", "bob", "subscribe", "users.ann.orders"], 1),
        (["subscribe", "users.ann.orders"], 1),
        (["--user", "bob", "--subscribe", "orders.*", "subscribe", "orders.1"], 0),
        (["--user", "bob", "--subscribe", "orders.*", "subscribe", "news"], 1),
        (["--user", "bob", "--publish", "orders.*", "publish", "orders.1"], 0),
        (["--user", "bob", "publish", "orders.1"], 1),
        (["--user", "bob", "presence", "orders.1"], 1),
    ],
)
def test_decisions(capsys, config, arguments, code):
    """Users, grants and actions count as they would on the server."""
    assert explained(capsys, "--config", config, *arguments)[0] == code


def test_nothingToDecide(capsys):
    """Without rules and authenticators, the service decides."""
    code, lines = explained(capsys, "--user", "ann", "subscribe", "a")
    note = "/channels/{channel} has no rules and asks nobody for credentials: its service decides"
    assert (code, lines) == (0, [note, "yes"])
    code, lines = explained(capsys, "publish", "a")
    assert (code, lines) == (1, ["publish = false: no", note, "no"])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["subscribe", "a"], 1, "/channels is for users: its authenticators let no guest in  [{config}:1]"),
        (["--user", "ann", "subscribe", "a"], 1, "/channels needs one of the scopes chat: no  [{config}:9]"),
        (
            ["--user", "ann", "--scope", "chat", "subscribe", "a"],
            0,
            'subscribe = anyone (channels."*"): anyone, yes  [{config}:12]',
        ),
    ],
)
def test_theDoor(capsys, tmp_path, arguments, code, line):
    """Whoever is not let in to the service may do nothing with its channels, and the line that says so is named."""
    (tmp_path / "users").write_text("ann:secret")
    path = tmp_path / "push.toml"
    path.write_text(
        'authenticate = ["site"]\n[authenticators.site]\ntype = "basic"\nfile = "users"\n\n[services."/channels"]\n'
        'target = "channels"\n# who\nscopes = ["chat"]\n\n[channels."*"]\nsubscribe = "anyone"\n'
    )
    said = explained(capsys, "--config", str(path), *arguments)
    assert said[0] == code
    assert line.format(config=path) in said[1]


def test_mistakeInTheFile(capsys, config):
    """A mistake in a table is named with the file and the line."""
    with open(config, "a") as file:
        file.write('\n[channels."a"]\nsubscribe = [\n  "everybody",\n]\n')
    code, lines = explained(capsys, "--config", config, "subscribe", "a")
    assert (code, len(lines)) == (2, 1)
    assert f"{config}:16: channels.\"a\".subscribe: 'everybody' is nobody" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["subscribe"], "give subscribe, publish or presence, and a channel"),
        (["read", "a"], "give subscribe, publish or presence, and a channel"),
        (["publish", "a.*"], "A channel name is"),
        (["--config", "/nothing.toml", "subscribe", "a"], "cannot be read"),
        (["--service", "/other", "subscribe", "a"], "there is no channels service at /other"),
        (["--subscribe", "a*", "subscribe", "a"], "A channel name is"),
        (["--key", "shop", "subscribe", "a"], "--key goes with publish"),
        (["--key", "shop", "publish", "a"], "there is no file of API keys"),
        (["--token", "t", "--user", "ann", "subscribe", "a"], "--token says who the user is"),
        (["--token", "t", "subscribe", "a"], "--config is needed with --token"),
        (["--grants", "/nothing.json", "subscribe", "a"], "/nothing.json cannot be read"),
        (["--grants", __file__, "subscribe", "a"], 'must have {"subscribe": [...]'),
    ],
)
def test_mistakes(capsys, arguments, message):
    """A mistake is one line, with exit code 2."""
    code, lines = explained(capsys, *arguments)
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]
