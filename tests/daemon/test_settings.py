from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from twisted_ws.daemon.settings import KEYS, Mount, Settings, absolute, load, merge, placed
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits

_LEVELS = "levels such as info or twisted_ws.wire=debug,info (debug, info, warn, error, critical)"


def _refused(document: dict[str, Any], flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        merge(document, flags or {})
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_everyKeyHasItsAttribute() -> None:
    """Each key is an attribute of Settings or of Limits, and no two keys have the same name or attribute."""
    settings, limits = ({each.name for each in dataclasses.fields(kind)} for kind in (Settings, Limits))
    for key in KEYS:
        assert key.field in (limits if key.isLimit else settings), key.name
    assert len({key.name for key in KEYS}) == len({key.field for key in KEYS}) == len(KEYS)


def test_defaults() -> None:
    """Without a file and flags, everything is as documented."""
    settings = merge({}, {})
    assert settings == Settings()
    assert (settings.port, settings.tlsPort) == ("8080", "off")
    assert (settings.broadcastPort, settings.broadcastTlsPort, settings.broadcastInterface) == ("8081", "off", "127.0.0.1")
    assert (settings.interface, settings.listen, settings.tlsMinimum, settings.compression) == ("", (), "1.2", False)
    channels = (Mount("/channels/{channel}", "channels"), Mount("/channels", "channels"))
    playground = Mount("/playground", "twisted_ws.services.playground:Playground")
    assert settings.services == (Mount("/ws", "demo"), *channels, playground)
    assert settings.limits == Limits()


@pytest.mark.parametrize("key", [key for key in KEYS if key.default], ids=lambda key: key.name)
def test_helpTellsTheDefault(key: Any) -> None:
    """The default that a help text names is the one that holds."""
    settings = merge({}, {})
    value = getattr(settings.limits if key.isLimit else settings, key.field)
    words = {"all": "", "nobody": (), "same host": (), "none": (), "this machine's": (), "$XDG_STATE_HOME/twisted-ws": None}
    assert value == (words[key.default] if key.default in words else key.read(key.default))


def test_flagsWinOverTheFile() -> None:
    """A flag takes precedence over the file, and the file over the default."""
    document = {"port": 9000, "broadcast-port": 9001, "max-connections": 5, "allowed-origin": ["https://a.example"]}
    settings = merge(document, {"port": "9100", "allowed-origin": ["https://b.example"]})
    assert (settings.port, settings.broadcastPort, settings.limits.maxConnections) == ("9100", "9001", 5)
    assert settings.allowedOrigins == ("https://b.example",)


def test_serviceFlagsReplaceTheTables() -> None:
    """--service replaces the services of the file; without it those of the file replace the demo."""
    document = {"services": {"/a": {"target": "one", "colour": "red", "size": 2}, "/b": {"target": "m:Two"}}}
    assert merge(document, {}).services == (Mount("/a", "one", {"colour": "red", "size": 2}), Mount("/b", "m:Two"))
    assert merge(document, {"service": ["/c=three", "/d=m:Four"]}).services == (Mount("/c", "three"), Mount("/d", "m:Four"))
    assert merge(document, {"service": []}).services[0].target == "one"


def test_limitsByTheirOwnName() -> None:
    """The table of limits takes every limit by its attribute, sizes also as text; a key or flag of its own wins."""
    settings = merge({"limits": {"bodyDeadline": 5, "body": "64KiB", "maxMessageSize": 10}, "max-message-size": 20}, {})
    assert (settings.limits.bodyDeadline, settings.limits.body, settings.limits.maxMessageSize) == (5, 65536, 20)
    assert merge({"limits": {"maxMessageSize": 10}}, {"max-message-size": "2k"}).limits.maxMessageSize == 2048


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("65536", 65536), ("64k", 65536), ("64KiB", 65536), ("64 kb", 65536), ("1MiB", 1 << 20), ("2g", 2 << 30), (7, 7)],
)
def test_sizes(text: str | int, size: int) -> None:
    """A size is a number of bytes, or has a unit, always a power of 1024."""
    key = next(key for key in KEYS if key.name == "max-send-buffer")
    assert key.read(text) == size


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5MiB", "1 TiB", "1" * 16, True, None, 1.5, ["1"]])
def test_noSizes(value: object) -> None:
    """An invalid size is refused, with examples of valid ones."""
    assert "64KiB" in _refused({"max-send-buffer": value})


@pytest.mark.parametrize(
    ("value", "port"), [("0", "0"), (8080, "8080"), ("65535", "65535"), ("off", "off"), ("unix:/run/ws", "unix:/run/ws")]
)
def test_ports(value: object, port: str) -> None:
    """A port is a number, an endpoint string, or off."""
    assert merge({"port": value}, {}).port == port


@pytest.mark.parametrize("value", ["", "65536", 65536, -1, "-1", "none", "٣", True, 80.0, None])
def test_noPorts(value: object) -> None:
    """An invalid port is refused, and the line says what was given and what is expected."""
    line = _refused({"port": value})
    assert line.startswith("port must be a port from 0 to 65535, an endpoint string")
    assert line.endswith(f"not {value!r}.")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("interface", 5, "a string"),
        ("max-connections", "many", "a whole number"),
        ("max-connections", 1.5, "a whole number"),
        ("max-connections", True, "a whole number"),
        ("ping-interval", "soon", "a number of seconds"),
        ("ping-interval", True, "a number of seconds"),
        ("ping-interval", "nan", "a number of seconds"),
        ("ping-interval", "inf", "a number of seconds"),
        ("ping-interval", [], "a number of seconds"),
        ("compression", "yes", "on or off"),
        ("compression", 1, "on or off"),
        ("tls-minimum", 1.1, "1.2 or 1.3"),
        ("tls-minimum", True, "1.2 or 1.3"),
        ("log-format", "xml", "text or json"),
        ("log-level", "loud", _LEVELS),
        ("log-level", "twisted_ws.wire=loud", _LEVELS),
        ("log-level", "=debug", _LEVELS),
        ("log-level", "two words=debug", _LEVELS),
        ("listen", "unix:/run/ws", "a list of strings"),
        ("listen", [8080], "a list of strings"),
    ],
)
def test_wrongKinds(name: str, value: object, expected: str) -> None:
    """A value of the wrong type is refused by its key, with what is expected and what was given."""
    assert _refused({name: value}) == f"{name} must be {expected}, not {value!r}."
    assert _refused({}, {name: value}) == f"--{name} must be {expected}, not {value!r}."


def test_kindsOfToml() -> None:
    """A file may have booleans, numbers and strings where a flag has text."""
    settings = merge(
        {"compression": True, "ping-interval": 2.5, "tls-minimum": "1.3", "drain-timeout": 0, "max-connections": "3"}, {}
    )
    assert (settings.compression, settings.tlsMinimum) == (True, "1.3")
    assert (settings.limits.pingInterval, settings.limits.drainTimeout, settings.limits.maxConnections) == (2.5, 0, 3)
    assert merge({"tls-minimum": 1.3, "compression": "on"}, {}).compression is True


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"max-mesage-size": 5}, "max-mesage-size is not a setting: did you mean max-message-size?"),
        ({"xyzzy": 5}, "xyzzy is not a setting."),
        ({"auth": "file:passwords"}, "auth can only be given as a flag: --auth."),
        ({"limits": {"bodydeadline": 5}}, "limits.bodydeadline is not a setting: did you mean limits.bodyDeadline?"),
        ({"limits": 5}, "limits must be a table, not 5."),
        ({"limits": {"body": "big"}}, "limits.body must be a number of bytes such as 65536, 64KiB or 1MiB, not 'big'."),
        ({"limits": {"headers": "7"}}, "limits.headers must be a whole number of headers, more than 0, not '7'."),
        ({"message-rate": -1}, "message-rate must be a whole number of messages/second, 0 or more, not -1."),
        ({"limits": {"messageRate": -1}}, "limits.messageRate must be a whole number of messages/second, 0 or more, not -1."),
        (
            {"services": {"/a": {"targt": "demo"}}},
            'services."/a" must be a table with a target, such as target = "package.module:Name": is targt a misspelling?',
        ),
        ({"services": []}, "services must be a table, not []."),
        ({"services": {"/a": "demo"}}, 'services."/a" must be a table with a target, such as target = "package.module:Name".'),
        (
            {"services": {"/a": {"target": 5}}},
            'services."/a" must be a table with a target, such as target = "package.module:Name".',
        ),
    ],
)
def test_mistakesInTheFile(document: dict[str, Any], line: str) -> None:
    """A mistake in the file is reported with its key, its table, and the nearest valid name."""
    assert _refused(document) == line


@pytest.mark.parametrize("text", ["demo", "=demo", "/ws=", ""])
def test_mistakesInServices(text: str) -> None:
    """A --service that is not PATH=TARGET is shown how it is written."""
    assert "PATH=TARGET, such as /ws=demo" in _refused({}, {"service": [text]})


def test_loadMakesPathsAbsolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a file are relative to the file, whatever the current directory is or becomes."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ws.toml").write_text('certificate = "tls/cert.pem"\nprivate-key = "/keys/key.pem"\nclient-ca = "~/ca.pem"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ws")
    settings = merge(load("etc/ws.toml"), {})
    assert settings.certificate == str(tmp_path / "etc/tls/cert.pem")
    assert (settings.privateKey, settings.clientCA) == ("/keys/key.pem", "/home/ws/ca.pem")


def test_absoluteLeavesTheRest() -> None:
    """Only paths become absolute; values of other types are left for the error about the type."""
    assert absolute({"certificate": 5, "port": "x", "key-store": "a/../b"}, "/etc") == {
        "certificate": 5,
        "port": "x",
        "key-store": "/etc/b",
    }


def test_fileMistakesSayWhere(tmp_path: Path) -> None:
    """A file that cannot be read or parsed is reported by its path, invalid TOML with line and column."""
    bad, latin = tmp_path / "bad.toml", tmp_path / "latin.toml"
    bad.write_text("port = 8080\nport = \n")
    latin.write_bytes(b'interface = "\xff"')
    (tmp_path / "digits.toml").write_text("port = " + "9" * 5000)
    for path, part in (
        (tmp_path / "digits.toml", "Exceeds the limit"),
        (Path("/dev/zero"), "is larger than"),
        (bad, "at line 2, column 8"),
        (latin, "not UTF-8"),
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=part) as caught:
            load(str(path))
        assert os.fspath(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reprKeepsSecrets() -> None:
    """Neither the options of a service nor a checker are shown in a repr, because they may hold passwords."""
    settings = merge({"services": {"/a": {"target": "m:A", "password": "s3cret"}}}, {}, ["checker s3cret"])
    assert settings.checkers == ("checker s3cret",)
    assert "s3cret" not in repr(settings)


def test_serviceTableMistakesSayWhere(tmp_path: Path) -> None:
    """A mistake in a service's table is reported with the line of the file and the table, not with a flag that nobody gave."""
    path = tmp_path / "ws.toml"
    path.write_text('[services."/chat"]\ntarget = "demo"\nscopes = 5\n')
    with pytest.raises(ConfigurationError) as caught:
        merge(load(str(path)), {})
    error = placed(caught.value, str(path), "ws.toml")
    assert str(error) == 'ws.toml:3: services."/chat".scopes must be a list of strings, not 5.'
    path.write_text('[services."/chat"]\ntarget = "demo"\n')
    (mount,) = merge(load(str(path)), {}).services
    assert str(mount) == f'{path}: services."/chat"'
    (mount,) = merge(load(str(path)), {"service": ["/chat=demo"]}).services
    assert str(mount) == "--service /chat=demo"


@pytest.mark.parametrize(
    ("written", "levels"),
    [
        ("warn", (("", "warn"),)),
        ("twisted_ws.wire=debug,info", (("", "info"), ("twisted_ws.wire", "debug"))),
        ("a=error, b.c=debug", (("", "info"), ("a", "error"), ("b.c", "debug"))),
        (["a=error", "warn"], (("", "warn"), ("a", "error"))),
    ],
)
def test_logLevels(written: object, levels: object) -> None:
    """Levels of the log are given by namespace, in one string or a list; the rest begins with info."""
    assert merge({"log-level": written}, {}).logLevels == levels
