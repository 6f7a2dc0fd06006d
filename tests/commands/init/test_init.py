from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import trustme

from tests.commands.support import command
from tests.live.nursery import BIN, run
from tests.live.support import PATIENCE, curl, environment, running
from tests.ports import freePort
from twisted_ws.commands.init import KINDS
from twisted_ws.commands.init.project import nameOf, project
from twisted_ws.daemon.settings import KEYS, Settings, merge
from twisted_ws.limits import Limits

EACH = pytest.mark.parametrize("auth", KINDS)


def made(directory: Path, auth: str = "jwt", name: str = "notes") -> Path:
    """Make a project, and return its directory."""
    done = command(directory, "init", "--auth", auth, name)
    assert (done.code, done.err) == (0, "")
    return directory / name


def ran(directory: Path, *words: str) -> str:
    """Return what a program prints, after its success."""
    # A user's pytest has none of the plugins that the tests of this package need.
    env = environment(directory, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    done = run(words, PATIENCE, cwd=directory, env=env, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@EACH
def test_theProjectIsRight(tmp_path: Path, auth: str) -> None:
    """A new project has nothing that is wrong, and no warning."""
    done = command(made(tmp_path, auth), "check", "--strict", "--config", "server.toml")
    assert (done.code, done.out.decode().splitlines()[-1]) == (0, "nothing is wrong, 0 warnings")


@EACH
def test_itsOwnTestPasses(tmp_path: Path, auth: str) -> None:
    """The test that comes with it passes, with pytest and without an option."""
    assert "2 passed" in ran(made(tmp_path, auth), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_itRuns(tmp_path: Path) -> None:
    """It runs under twistd as its README says: a token is made, a note is taken, and a back end publishes with its key."""
    directory = made(tmp_path)
    with running(directory, "--config", "server.toml") as server:
        url = f"ws://localhost:{server.port('ws')}"
        done = command(directory, "token", "make", "--config", "server.toml", "--user", "ann")
        (directory / "token").write_bytes(done.out)
        options = ("connect", "--one", "--token-file", "token")
        done = command(directory, *options, f"{url}/notes", stdin=b'{"event": "note", "text": "hello"}\n')
        assert (done.code, json.loads(done.out)["event"]) == (0, "noted")
        assert command(directory, "connect", "--one", f"{url}/notes").code == 5
        site = f"http://localhost:{server.port('http')}/channels/notes"
        done = command(directory, "broadcast", "--json", "--key-file", "secrets/api-keys", site, '{"by": "shop", "text": "open"}')
        assert done.code == 0
        assert b"recipients" in done.out


def test_theKeyOfItsReadme(tmp_path: Path) -> None:
    """What the README types to look into the server makes a key that may, and of which the server has a hash."""
    directory = made(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    ran(directory, "sh", "-ec", next(each for each in blocks if "openssl" in each))
    me = directory / "secrets" / "me"
    assert me.stat().st_mode & 0o777 == 0o600
    assert me.read_text().strip() not in (directory / "secrets" / "api-keys").read_text()
    with running(directory, "--config", "server.toml") as server:
        key = f"Authorization: Bearer {me.read_text().strip()}"
        assert curl(f"http://localhost:{server.port('http')}/metrics", "-H", key).startswith("#")
    done = command(directory, "check", "--strict", "--config", "server.toml")
    assert (done.code, "API key me (line 3): admin" in done.out.decode()) == (0, True)


def test_itsCallersGoOnInNewCode(tmp_path: Path) -> None:
    """An open connection to its service is handed to the service's new code."""
    script = (
        "from notes import Notes; from twisted_ws.testing import serve\n"
        "with serve({'/notes': Notes()}) as server:\n"
        "    server.connect('/notes'); print(server.handOver({'/notes': Notes()}))"
    )
    assert ran(made(tmp_path), sys.executable, "-c", script).strip() == "1"


@EACH
def test_everySettingIsThere(auth: str) -> None:
    """The file has each setting and each limit once; whatever is commented out has the value that it has without."""
    text = project("notes", auth)["server.toml"].text
    names = [key.name for key in KEYS]
    for name in names:
        assert len(re.findall(rf"^(?:# )?{name} = ", text, re.MULTILINE)) == 1, name
    limits = {each.name for each in fields(Limits)} - {key.field for key in KEYS}
    assert {*re.findall(r"^# (\w+) = ", text.partition("[limits]")[2], re.MULTILINE)} == limits
    # What has no default is shown as a path, as an empty text, or as 0; there is nothing to compare.
    uncommented = re.sub(r"^# ([\w-]+ = (?!\"PATH\"|\"\"$|0$))", r"\1", text, flags=re.MULTILINE)
    given, every = merge(tomllib.loads(text), {}), merge(tomllib.loads(uncommented), {})
    assert every == given
    assert given.limits == Limits()
    assert given.port == Settings().port
    assert max(map(len, text.splitlines())) <= 130


def test_nothingIsWrittenOver(tmp_path: Path) -> None:
    """If any path of the project is taken, by a file, a directory or a dangling link, all stays as it was."""
    for number, path in enumerate(project("notes", "jwt")):
        place = tmp_path / f"taken{number}"
        taken = place / (path if "notes.service" not in path else f"deploy/taken{number}.service")
        taken.parent.mkdir(parents=True)
        if number % 3 == 0:
            taken.write_text("mine")
        elif number % 3 == 1:
            taken.mkdir()
        else:
            taken.symlink_to("/nowhere/at/all")
        before = sorted(place.rglob("*"))
        done = command(tmp_path, "init", place.name)
        assert done.code == 1, path
        assert f"{taken.relative_to(tmp_path)} already exists" in done.err
        assert sorted(place.rglob("*")) == before
        assert number % 3 or taken.read_text() == "mine"


def test_whereNothingCanBeMade(tmp_path: Path) -> None:
    """A directory that cannot be made is one line, and so is a kind that is not there."""
    (tmp_path / "file").write_text("")
    done = command(tmp_path, "init", "file/project")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "Not a directory" in done.err
    done = command(tmp_path, "init", "--auth", "ldap", "project")
    assert (done.code, done.err) == (
        2,
        "twisted-ws: --auth must be jwt, http or none, not 'ldap' (see twisted-ws init --help)\n",
    )


def test_secrets(tmp_path: Path) -> None:
    """Secrets are new in each project, only the owner can read them, and neither git nor an image takes them."""
    one, other = made(tmp_path), made(tmp_path, name="other")
    for name in ("jwt", "api-keys"):
        path = one / "secrets" / name
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert path.read_text() != (other / "secrets" / name).read_text()
    ran(one, "git", "init", "-q")
    files = ran(one, "git", "ls-files", "--others", "--exclude-standard").split()
    assert "server.toml" in files
    assert not any("secrets" in each for each in files)
    assert "secrets/" in (one / ".containerignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/srv/Order Board", "order-board"),
        ("notes", "notes"),
        ("a;$(reboot)\n[x]", "a-reboot-x"),
        ("/", "push"),
        ("été/", "t"),
        ("x" * 200, "x" * 32),
    ],
)
def test_names(directory: str, name: str) -> None:
    """Whatever the directory is called, the name in units and settings is a plain word."""
    assert nameOf(directory) == name


def test_aDirectoryWithAnyName(tmp_path: Path) -> None:
    """A project in a directory with blanks and signs is right too."""
    directory = made(tmp_path, name="my $(project); 'x'")
    assert command(directory, "check", "--strict", "--config", "server.toml").code == 0
    assert (directory / "deploy" / "my-project-x.service").exists()


def test_nginxTakesTheSnippet(tmp_path: Path) -> None:
    """Nginx accepts the proxy's settings, once they name a certificate that is there."""
    directory = made(tmp_path)
    trustme.CA().issue_cert("notes.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    text = (directory / "deploy" / "nginx.conf").read_text()
    text = re.sub(r"/etc/letsencrypt/\S+\.pem", str(tmp_path / "both.pem"), text).replace("443", str(freePort()))
    (tmp_path / "whole.conf").write_text(
        f"error_log stderr; pid {tmp_path}/pid; events {{}} http {{ access_log off; client_body_temp_path {tmp_path}/t1; "
        f"proxy_temp_path {tmp_path}/t2; fastcgi_temp_path {tmp_path}/t3; uwsgi_temp_path {tmp_path}/t4; "
        f"scgi_temp_path {tmp_path}/t5;\n{text}}}"
    )
    assert "test is successful" in ran(tmp_path, "nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "whole.conf"))


@EACH
def test_systemdTakesTheUnit(tmp_path: Path, auth: str) -> None:
    """Systemd finds nothing wrong with the unit, where the program is there; each secret of the project is loaded."""
    directory = made(tmp_path, auth)
    unit = directory / "deploy" / "notes.service"
    text = unit.read_text()
    loaded = set(re.findall(r"^LoadCredential=([\w-]+):", text, re.MULTILINE))
    assert loaded == {each.name for each in (directory / "secrets").iterdir()}
    if shutil.which("systemd-analyze") is None:
        return
    unit.write_text(text.replace("/opt/notes/.venv/bin/", f"{BIN}{os.sep}"))
    assert ran(tmp_path, "systemd-analyze", "verify", str(unit)) == ""


def test_theImageHasWhatIsThere(tmp_path: Path) -> None:
    """The Containerfile copies files of the project, and starts what the README says."""
    directory = made(tmp_path)
    text = (directory / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert set(copied) == {"requirements.txt", "notes.py", "server.toml"}
    assert all((directory / each).exists() for each in copied)
    arguments = [json.loads(each) for each in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", text, re.MULTILINE)]
    assert command(directory, "check", *arguments[0][1:], *arguments[1]).code == 0
