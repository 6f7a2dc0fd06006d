"""The URL of an engine: which servers, and what of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from twisted_ws.errors import ConfigurationError
from twisted_ws.spelling import didYouMean

PORT = 6379
SENTINEL_PORT = 26379

# Seconds that a start waits for a server, unless the URL says otherwise: a supervisor shows the reason, and tries again.
WAIT = 5.0

_EXAMPLES = {
    "redis": "redis://127.0.0.1:6379",
    "rediss": "rediss://redis.example:6379",
    "redis+unix": "redis+unix:///run/redis/redis.sock",
    "redis+sentinel": "redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/mymaster",
}
SCHEMES = tuple(_EXAMPLES)
_OPTIONS = {
    "redis": ("prefix", "wait"),
    "rediss": ("ca", "certificate", "key", "prefix", "wait"),
    "redis+unix": ("db", "prefix", "wait"),
    "redis+sentinel": ("ca", "certificate", "key", "prefix", "tls", "wait"),
}
# No colon, which ends it in the names of keys, and nothing that means something in the pattern of a subscription.
_isPrefix = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch
_isMaster = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server listens.

    Attributes:
        host: its name or address; "" for a Unix socket.
        port: its port.
        path: the path of a Unix socket; "" for TCP.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """What a URL says.

    Attributes:
        addresses: the servers; channels are spread over several by the hash of their names. With `master`, the Sentinels.
        master: the name by which Sentinels know the primary; "" without Sentinel.
        database: the number of the database.
        user: whom to log in as; "" for the default user.
        prefix: what the names of all keys begin with, before the name of the data model.
        wait: seconds that a start waits for a server.
        isSecure: whether connections use TLS.
        ca: PEM file with the certificates that the server's must be issued by; "" for those that the system trusts.
        certificate, key: PEM files to show the server; "" for none.
    """

    addresses: tuple[Address, ...]
    master: str = ""
    database: int = 0
    user: str = ""
    prefix: str = ""
    wait: float = WAIT
    isSecure: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""


def parseURL(text: str) -> RedisURL:
    """Return what a URL says.

    Raises:
        ConfigurationError: it is invalid; the text never repeats a password.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ConfigurationError(f"The URL of the engine is invalid: it must be like {_EXAMPLES['redis']}.") from None
    scheme = parts.scheme
    if scheme not in _EXAMPLES:
        raise ConfigurationError(f"The URL of the engine must begin with one of {', '.join(f'{each}:' for each in SCHEMES)}.")
    login, _, places = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    if colon:
        raise ConfigurationError(
            "The URL of the engine must not have a password, because others may see it: write it to a file, and give "
            "--engine-password-file FILE."
        )
    if parts.fragment:
        raise _invalid(scheme, "has a fragment (#)")
    options = _options(scheme, parts.query)
    path, master, number = parts.path, "", options.get("db", "")
    addresses: tuple[Address, ...]
    if scheme == "redis+unix":
        if places or not path.startswith("/") or path == "/":
            raise _invalid(scheme, "has no absolute path of a socket")
        addresses = (Address("", 0, unquote(path)),)
    else:
        segments = path.strip("/").split("/")
        if scheme == "redis+sentinel":
            master = segments.pop(0)
            if not _isMaster(master):
                raise _invalid(scheme, "has no name of a primary")
            segments = segments or [""]
        if len(segments) > 1:
            raise _invalid(scheme, "has a path that is too long")
        number = segments[0]
        addresses = tuple([_address(each, scheme) for each in places.split(",")])
        if len(set(addresses)) < len(addresses):
            raise _invalid(scheme, "names a server twice")
    if number and not (number.isascii() and number.isdigit() and len(number) <= 5):
        raise _invalid(scheme, f"has {number!r} where the number of a database belongs")
    isSecure = scheme == "rediss" or options.get("tls") == "on"
    certificate, key = options.get("certificate", ""), options.get("key", "")
    if key and not certificate:
        raise _invalid(scheme, "has a key without a certificate")
    return RedisURL(
        addresses=addresses,
        master=master,
        database=int(number or 0),
        user=unquote(user),
        prefix=options.get("prefix", ""),
        wait=_seconds(options["wait"], scheme) if "wait" in options else WAIT,
        isSecure=isSecure,
        ca=options.get("ca", ""),
        certificate=certificate,
        key=key or certificate,
    )


def _invalid(scheme: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"The URL of the engine {why}: it must be like {_EXAMPLES[scheme]}.")


def _options(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS[scheme]:
            hint = didYouMean(name, _OPTIONS[scheme])
            raise ConfigurationError(f"The URL of the engine: {name} is not an option of {scheme} URLs{hint}")
        if name in options or not value:
            raise _invalid(scheme, f"has {name} twice or empty")
        options[name] = value
    if "prefix" in options and not _isPrefix(options["prefix"]):
        raise ConfigurationError("The URL of the engine: prefix must be 1 to 64 letters, digits, _, - or dots.")
    if options.get("tls", "on") not in ("on", "off"):
        raise ConfigurationError("The URL of the engine: tls must be on or off.")
    return options


def _address(text: str, scheme: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(SENTINEL_PORT if scheme == "redis+sentinel" else PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _invalid(scheme, "has an IPv6 address without brackets")
    if not host or any(each.isspace() for each in host):
        raise _invalid(scheme, "has no host")
    try:
        host.encode("idna")
    except UnicodeError:
        raise _invalid(scheme, "has a host that is not a name") from None
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise _invalid(scheme, f"has {port!r} where a port belongs")
    return Address(host, int(port))


def _seconds(text: str, scheme: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86400:
        raise _invalid(scheme, "has a wait that is not a number of seconds up to 86400")
    return seconds
