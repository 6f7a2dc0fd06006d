"""``twisted-ws explain`` says what the server would decide."""

from __future__ import annotations

import pytest

from twisted_ws.commands.main import main

CONFIG = """
authenticate = ["guest"]

[services."/channels"]
target = "channels"

[channels."*"]
subscribe = "granted"

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
            f'users.ann.orders falls under channels."users.{{user}}.*"  [{config}:10]',
            f'subscribe = owner (channels."users.{{user}}.*"): owner, yes  [{config}:10]',
            "yes",
        ],
    )


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
    assert (code, lines) == (0, ["/channels/{channel} has no rules and asks nobody for credentials: its service decides"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["subscribe"], "give subscribe, publish or presence, and a channel"),
        (["read", "a"], "give subscribe, publish or presence, and a channel"),
        (["publish", "a.*"], "A channel name is"),
        (["--config", "/nothing.toml", "subscribe", "a"], "cannot be read"),
        (["--service", "/other", "subscribe", "a"], "there is no channels service at /other"),
        (["--subscribe", "a*", "subscribe", "a"], "A channel name is"),
    ],
)
def test_mistakes(capsys, arguments, message):
    """A mistake is one line, with exit code 2."""
    code, lines = explained(capsys, *arguments)
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]
