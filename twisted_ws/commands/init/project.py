"""The files of a new project: their text, from templates and settings, and how they are written."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any, NamedTuple

from twisted_ws import __version__
from twisted_ws.commands.init.configuration import configuration

_PLAIN = re.compile(r"[^a-z0-9]+")
_FALLBACK = "push"


class File(NamedTuple):
    """A file to write.

    Attributes:
        text: what is in it.
        mode: its permissions, before the umask.
    """

    text: str
    mode: int = 0o666


class Taken(Exception):
    """A path of the project is there already."""


def nameOf(directory: str) -> str:
    """Return the name of a project, from its directory: for units, users and servers."""
    return _PLAIN.sub("-", os.path.basename(os.path.abspath(directory)).lower()).strip("-")[:32].strip("-") or _FALLBACK


# Where each template goes; `.txt` keeps them from being taken for parts of this package.
_TEMPLATES = {
    "notes.py": "notes.py.txt",
    "test_notes.py": "test_notes.py.txt",
    "requirements.txt": "requirements.txt",
    "README.md": "readme.txt",
    "Containerfile": "containerfile.txt",
    "deploy/nginx.conf": "nginx.txt",
    ".gitignore": "gitignore.txt",
    ".containerignore": "containerignore.txt",
}

_HEAD = """\
Settings of {name}, for twisted-ws {version}.
Check them with: twisted-ws check --config server.toml
What is commented out has its default. Relative paths begin at the directory of this file."""

_AUTHENTICATORS = {
    "jwt": """
# --- Who is asked about each client ---

# JSON Web Tokens that your application signs with the secret in this file (HS256).
[authenticators.site]
type = "jwt"
secret-file = "secrets/jwt"
""",
    "http": """
# --- Who is asked about each client ---

# Your application: it gets the cookies and the Authorization header of each client, and answers {"user": "ann"}, or 401.
[authenticators.site]
type = "http"
url = "http://127.0.0.1:8000/push/who"
""",
    "none": "",
}

_SERVICES = """
# --- Services, by path ---

[services."/notes"]
target = "notes:Notes"

[services."/channels"]
target = "channels"

# --- Who may do what with channels, by name or pattern ---

[channels."notes"]
subscribe = "{who}"
publish = "nobody"
history-messages = 100
"""

_STEPS = {
    "jwt": "(umask 077; twisted-ws token make --config server.toml --user ann > token)\n"
    "  twisted-ws connect --token-file token ws://localhost:8080/notes",
    "http": "your application answers at http://127.0.0.1:8000/push/who (see server.toml)",
    "none": "twisted-ws connect ws://localhost:8080/notes",
}


def project(name: str, auth: str) -> dict[str, File]:
    """Return the files of a project, by their paths in it; the secrets in it are new ones.

    Args:
        name: its name (see `nameOf`).
        auth: who says who a client is: "jwt", "http" or "none".
    """
    places = {
        "@NAME@": name,
        "@VERSION@": __version__,
        "@CONNECT@": _STEPS[auth].replace("\n  ", "\n"),
        "@JWT@": _credential(auth),
    }
    found = {"server.toml": File(_configuration(name, auth))}
    for path, template in _TEMPLATES.items():
        found[path] = File(_filled(template, places))
    found[f"deploy/{name}.service"] = File(_filled("unit.txt", places))
    if auth == "jwt":
        found["secrets/jwt"] = File(secrets.token_hex(32) + "\n", 0o600)
    found["secrets/api-keys"] = File(f"# NAME: KEY SCOPES\nbackend: {secrets.token_hex(32)} publish:notes\n", 0o600)
    return found


def _credential(auth: str) -> str:
    return "LoadCredential=jwt:/etc/@NAME@/jwt\n" if auth == "jwt" else ""


def _configuration(name: str, auth: str) -> str:
    values: dict[str, Any] = {
        "interface": "127.0.0.1",
        "trusted-proxy": ["127.0.0.1"],
        "api-key-file": "secrets/api-keys",
    }
    if auth != "none":
        values["authenticate"] = ["site"]
    tables = _AUTHENTICATORS[auth] + _SERVICES.format(who="anyone" if auth == "none" else "users")
    return configuration(_HEAD.format(name=name, version=__version__), values, tables)


def _filled(template: str, places: Mapping[str, str]) -> str:
    text = (resources(__package__) / "templates" / template).read_text(encoding="utf-8")
    for place in ("@JWT@", *places):
        text = text.replace(place, places[place])
    return text


def write(directory: str, files: Mapping[str, File]) -> None:
    """Write the files of a project.

    Raises:
        Taken: one of them is there already, and nothing was written.
        OSError: one cannot be written.
    """
    for path in files:
        if os.path.lexists(os.path.join(directory, path)):
            raise Taken(os.path.join(directory, path))
    for path, file in files.items():
        place = os.path.join(directory, path)
        folder = os.path.dirname(place) or "."
        os.makedirs(folder, 0o700 if path.startswith("secrets/") else 0o777, exist_ok=True)
        # O_EXCL: not even through a link that somebody has made meanwhile.
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "w", encoding="utf-8") as made:
            made.write(file.text)


def steps(directory: str, auth: str) -> str:
    """Return what to type next."""
    return (
        "Now:\n"
        f"  cd {shlex.quote(directory)}\n"
        "  twisted-ws check --config server.toml\n"
        "  python -m pytest           (pip install -r requirements.txt pytest)\n"
        "  twisted-ws --config server.toml\n"
        f"and in another terminal there:\n  {_STEPS[auth]}"
    )
