from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.python.usage import UsageError

from twisted_ws import __version__
from twisted_ws.daemon.options import ServiceOptions
from twisted_ws.daemon.settings import KEYS, Mount, Settings
from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.speedups import which


def _settings(*arguments: str) -> Settings:
    options = ServiceOptions()
    options.parseOptions(list(arguments))  # type: ignore[no-untyped-call]
    return options.settings()


def test_nothingGiven() -> None:
    """Without options the settings are the defaults."""
    assert _settings() == Settings()


def test_eachKeyIsAnOption() -> None:
    """Every key of the file is an option, and --help has each with its default and fits a terminal."""
    text = str(ServiceOptions())
    words = " ".join(text.split())
    for key in KEYS:
        assert f"--{key.name}=" in text
        assert " ".join(key.help.split()) in words
        if key.default:
            assert f"[{key.default}]" in words
    for name in ("--service=", "--config=", "--auth=", "--help-services", "--version", "--help-auth"):
        assert name in text
    assert "Every option but --service, --config and --auth is also a key of the configuration file" in words


def test_helpAuth(monkeypatch: pytest.MonkeyPatch) -> None:
    """--help-auth lists what --auth takes, without the kind whose passwords would be on the command line."""
    output = io.StringIO()
    monkeypatch.setattr(ServiceOptions, "authOutput", output)
    with pytest.raises(SystemExit):
        ServiceOptions().parseOptions(["--help-auth"])
    assert "file" in output.getvalue()
    assert "memory" not in output.getvalue()


def test_repeatable() -> None:
    """Options that make a list may be given more than once."""
    settings = _settings(
        *("--service", "/a=demo", "--service", "/b=m:B"),
        *("--listen", "unix:/a", "--listen", "unix:/b"),
        *("--allowed-origin", "https://a.example", "--allowed-origin", "*"),
        *("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "unix"),
    )
    assert settings.services == (Mount("/a", "demo"), Mount("/b", "m:B"))
    assert settings.listen == ("unix:/a", "unix:/b")
    assert settings.allowedOrigins == ("https://a.example", "*")
    assert settings.trustedProxies == ("10.0.0.0/8", "unix")


def test_flagsOverFile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, even empty ones, take precedence over the file; their relative paths are relative to the current directory."""
    (tmp_path / "ws.toml").write_text('interface = "192.0.2.1"\nport = 1\ncertificate = "a.pem"\nkey-store = "b.p12"\n')
    monkeypatch.chdir(tmp_path)
    settings = _settings("--config", "ws.toml", "--interface", "", "--certificate", "c.pem")
    assert (settings.interface, settings.port) == ("", "1")
    assert (settings.certificate, settings.keyStore) == (str(tmp_path / "c.pem"), str(tmp_path / "b.p12"))
    with pytest.raises(ConfigurationError, match="--port must be"):
        _settings("--port", "")


def test_auth(tmp_path: Path) -> None:
    """--auth makes a checker each time it is given, by Twisted's plugins; an unknown method is refused."""
    (tmp_path / "passwords").write_text("me:secret\n")
    assert len(_settings("--auth", f"file:{tmp_path / 'passwords'}", "--auth", "unix").checkers) == 2
    with pytest.raises(
        UsageError, match=r"^--auth: Auth plugin not recognized: carrier-pigeon; --help-auth lists what there is$"
    ):
        _settings("--auth", "carrier-pigeon:x")


def test_noOption() -> None:
    """An unexpected argument is named, and for a number, --port is suggested."""
    with pytest.raises(UsageError, match=r"^unexpected argument '8080': did you mean --port 8080\?$"):
        _settings("8080")
    with pytest.raises(UsageError, match=r"^unexpected argument 'chat:Chat'$"):
        _settings("--port", "8080", "chat:Chat")


def test_authInMemory() -> None:
    """A password on the command line, where every user of the machine can read it, is refused without being repeated."""
    with pytest.raises(ConfigurationError, match="--auth file:PATH") as caught:
        _settings("--auth", "memory:me:hidden")
    assert "hidden" not in str(caught.value)


def test_helpServices(capsys: pytest.CaptureFixture[str]) -> None:
    """--help-services lists each installed service with its target and the first line of its docstring, and exits."""
    with pytest.raises(SystemExit) as ended:
        _settings("--help-services")
    assert ended.value.code == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("demo"))
    assert "twisted_ws.services.demo:Demo" in line
    assert "echo what it sends: text as Echo: <text>, binary" in line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints our version, not Twisted's, and whether it is compiled."""
    with pytest.raises(SystemExit) as ended:
        _settings("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"twisted_ws {__version__} ({which()})\n"


def test_completion() -> None:
    """Everything that shell completion offers is an option."""
    options = ServiceOptions()
    names = {key.name for key in KEYS} | {"config"}
    assert set(options.compData.optActions) <= names
    assert {"certificate", "config", "log-format", "interface"} <= set(options.compData.optActions)


# What a server needs and its options do not.
_HEAVY = ("autobahn", "txaio", "OpenSSL", "cryptography", "twisted.internet.reactor", "twisted.web", "twisted_ws.server")

_LIGHT = f"""
import sys
from twisted.plugins import wsservice_plugin
assert not any(name.startswith("twisted_ws") for name in sys.modules), "the plugin imports the package"
options = wsservice_plugin.wsservice.options()
str(options)
loaded = [name for name in {_HEAVY} if name in sys.modules]
assert not loaded, loaded
"""


def test_helpIsLight() -> None:
    """The help of twistd imports nothing of ours but the plugin, that of wsservice neither Autobahn nor a reactor."""
    done = subprocess.run([sys.executable, "-c", _LIGHT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
