"""The operator's settings: defaults, then the configuration file, then flags. Pure, except that it reads that file.

`KEYS` is the only list of them: the flag, the key of the file, its default and its help come from there.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from twisted_ws.access.namespaces import Namespaces
from twisted_ws.daemon.lines import lineOf
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import MIB, Limits, parseSize
from twisted_ws.spelling import didYouMean


@dataclass(frozen=True, slots=True)
class Mount:
    """One service to mount.

    Attributes:
        path: where, such as ``/rooms/{room}``.
        target: what, such as ``package.module:Name`` or the name of an installed service.
        options: keyword arguments for the class.
        authenticate: who is asked about requests to it; None: as for all.
        scopes: an identity needs one of these, if there are any.
        interceptors: targets; what they name is called around its handlers.
        source: where the operator has written it, for errors; "": as a flag.
    """

    path: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may contain passwords
    authenticate: tuple[str, ...] | None = None
    scopes: tuple[str, ...] = ()
    interceptors: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Return what the operator has written: the flag, or the table with its file."""
        return self.source or f"--service {self.path}={self.target}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the daemon needs to start; `merge` makes it, and a `.tac` file may.

    Attributes are the flags in camelCase (see the options reference); `limits` has those that are limits, `checkers` those that
    ``--auth`` made. `authenticators` has the tables of authenticators by name, with absolute paths left to them: `directory` is
    where theirs begin. `file` is the configuration file, and `sources` says of the keys that somebody has set whether they are
    from the "file" or a "flag".
    """

    port: str = "8080"
    tlsPort: str = "off"
    listen: tuple[str, ...] = ()
    interface: str = ""
    broadcastPort: str = "8081"
    broadcastTlsPort: str = "off"
    broadcastInterface: str = "127.0.0.1"
    metricsPort: str = "off"
    services: tuple[Mount, ...] = (
        Mount("/ws", "demo"),
        Mount("/channels/{channel}", "channels"),
        Mount("/channels", "channels"),
        Mount("/playground", "twisted_ws.services.playground:Playground"),
    )
    certificate: str | None = None
    privateKey: str | None = None
    chain: str | None = None
    keyStore: str | None = None
    keyStorePasswordFile: str | None = None
    clientCA: str | None = None
    tlsMinimum: str = "1.2"
    stateDirectory: str | None = None
    historyFile: str | None = None
    allowedOrigins: tuple[str, ...] = ()
    allowedHosts: tuple[str, ...] = ()
    trustedProxies: tuple[str, ...] = ()
    compression: bool = False
    apiKeyFile: str | None = None
    auditLog: str | None = None
    admin: bool = True
    checkers: tuple[Any, ...] = field(default=(), repr=False)
    authenticate: tuple[str, ...] = ()
    interceptors: tuple[str, ...] = ()
    channelRules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    authenticators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    directory: str = ""
    logFormat: str = "text"
    logLevels: tuple[tuple[str, str], ...] = (("", "info"),)
    logUsers: bool = False
    tracing: bool = False
    workers: int | None = None
    engine: str = "memory:"
    enginePasswordFile: str | None = None
    pages: str | None = None
    outbox: str | None = None
    outboxPasswordFile: str | None = None
    limits: Limits = field(default_factory=Limits)
    file: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


# More processes than any machine has cores for, and each needs a socket for every port in all others.
MOST_WORKERS = 256


# How values are read: a flag gives a str, the file any type of TOML.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def _port(value: Any) -> str:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if text == "off" or ":" in text or (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        return text
    raise ValueError("a port from 0 to 65535, an endpoint string such as tcp:8080:interface=127.0.0.1, or off")


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return parseSize(value if isinstance(value, str) else "")


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    raise ValueError("a whole number")


def _workers(value: Any) -> int:
    try:
        count = _count(value)
    except ValueError:
        count = -1
    if 0 <= count <= MOST_WORKERS:
        return count
    raise ValueError(f"a whole number from 0 to {MOST_WORKERS}")


def _seconds(value: Any) -> float:
    try:
        seconds = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError("a number of seconds")
    return int(seconds) if seconds == int(seconds) else seconds


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("on", "off"):
        return bool(value == "on")
    raise ValueError("on or off")


def _choice(*choices: str) -> Callable[[Any], str]:
    def choose(value: Any) -> str:
        if str(value) not in choices or isinstance(value, bool):
            raise ValueError(" or ".join(choices))
        return str(value)

    return choose


_LEVELS = ("debug", "info", "warn", "error", "critical")


def _levels(value: Any) -> tuple[tuple[str, str], ...]:
    """Return pairs of a namespace and a level; the namespace "" is all others."""
    found: dict[str, str] = {}
    for each in _list([value] if isinstance(value, str) else value):
        for part in each.split(","):
            namespace, equals, level = part.strip().rpartition("=")
            if level not in _LEVELS or (equals and not all(name.isidentifier() for name in namespace.split("."))):
                raise ValueError("levels such as info or twisted_ws.wire=debug,info (debug, info, warn, error, critical)")
            found[namespace] = level
    return tuple(sorted({"": "info", **found}.items()))


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise ValueError("a list of strings")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        name: the flag without its dashes, and the key of the file.
        field: the attribute of `Settings`, or of `Limits`.
        read: converts the value; its ValueError says what is expected.
        help: one line.
        default: as the help shows it.
    """

    name: str
    field: str
    read: Callable[[Any], Any]
    help: str
    default: str = ""

    @property
    def isLimit(self) -> bool:
        """Whether this is an attribute of `Limits`."""
        return self.field in _LIMITS

    @property
    def isList(self) -> bool:
        """Whether the flag may be repeated."""
        return self.read is _list

    @property
    def isSwitch(self) -> bool:
        """Whether this is on or off."""
        return self.read is _switch

    @property
    def isPath(self) -> bool:
        """Whether this is a path, relative to the configuration file that names it."""
        return self.field in _PATHS


_LIMITS = {each.name: each.metadata["unit"] for each in fields(Limits)}
_PATHS = {
    "enginePasswordFile",
    "outboxPasswordFile",
    "pages",
    "certificate",
    "privateKey",
    "chain",
    "keyStore",
    "keyStorePasswordFile",
    "clientCA",
    "apiKeyFile",
    "auditLog",
    "stateDirectory",
    "historyFile",
}

KEYS = (
    Key("port", "port", _port, "WebSocket and pages: a port, an endpoint string, or off", "8080"),
    Key("tls-port", "tlsPort", _port, "like --port, with TLS", "off"),
    Key(
        "listen",
        "listen",
        _list,
        "another WebSocket endpoint: unix:/run/ws.sock, systemd:domain=INET6:name=ws; repeatable",
    ),
    Key("interface", "interface", _text, "address of the WebSocket ports", "all"),
    Key("broadcast-port", "broadcastPort", _port, "the HTTP broadcast site: a port, an endpoint string, or off", "8081"),
    Key("broadcast-tls-port", "broadcastTlsPort", _port, "like --broadcast-port, with TLS", "off"),
    Key("broadcast-interface", "broadcastInterface", _text, "address of the broadcast ports", "127.0.0.1"),
    Key(
        "metrics-port", "metricsPort", _port, "/metrics alone, on loopback and without a key: a port such as 9181, or off", "off"
    ),
    Key("certificate", "certificate", _text, "PEM file with the certificate"),
    Key("private-key", "privateKey", _text, "PEM file with the private key of --certificate"),
    Key("chain", "chain", _text, "PEM file with the certificates of the issuers of --certificate"),
    Key("key-store", "keyStore", _text, "PKCS #12 file with key, certificate and chain"),
    Key(
        "key-store-password-file",
        "keyStorePasswordFile",
        _text,
        "file with the password of --key-store (else $TWISTED_WS_KEY_STORE_PASSWORD)",
    ),
    Key("client-ca", "clientCA", _text, "PEM file: clients must present a certificate issued by one of these"),
    Key("tls-minimum", "tlsMinimum", _choice("1.2", "1.3"), "oldest TLS version", "1.2"),
    Key(
        "state-directory",
        "stateDirectory",
        _text,
        "for a self-signed certificate and the control socket",
        "$XDG_STATE_HOME/twisted-ws",
    ),
    Key("history-file", "historyFile", _text, "file that keeps the history of channels while the server is stopped"),
    Key(
        "allowed-origin",
        "allowedOrigins",
        _list,
        "web pages that may connect, such as https://app.example or *; repeatable",
        "same host",
    ),
    Key(
        "allowed-host",
        "allowedHosts",
        _list,
        "name that clients may use for the server on a loopback address: app.example, *.app.example or *; repeatable",
        "this machine's",
    ),
    Key(
        "trusted-proxy",
        "trustedProxies",
        _list,
        "network whose X-Forwarded-For is trusted, such as 10.0.0.0/8 or unix; repeatable",
        "none",
    ),
    Key("max-connections", "maxConnections", _count, "connections across all ports; 0: as many as there are descriptors", "0"),
    Key("max-connections-per-ip", "maxConnectionsPerIp", _count, "connections from one address; 0: no limit", "0"),
    Key("max-message-size", "maxMessageSize", _size, "largest message that is accepted", "1MiB"),
    Key("max-send-buffer", "maxSendBuffer", _size, "bytes that may wait for one caller", "1MiB"),
    Key("message-rate", "messageRate", _count, "messages per second from one caller; 0: no limit", "0"),
    Key("ping-interval", "pingInterval", _seconds, "seconds between pings; 0: none", "25"),
    Key("ping-timeout", "pingTimeout", _seconds, "seconds to wait for the answer to a ping", "10"),
    Key("compression", "compression", _switch, "permessage-deflate: on or off", "off"),
    Key("api-key-file", "apiKeyFile", _text, "file with the API keys of publishers, one per line"),
    Key("audit-log", "auditLog", _text, "file that gets a line of JSON for each call of the broadcast site"),
    Key("admin", "admin", _switch, "the admin page of the broadcast site: on or off", "on"),
    Key(
        "authenticate",
        "authenticate",
        _list,
        "who is asked about each client: the name of an authenticator in the file, TYPE:OPTION=VALUE:..., or guest; repeatable",
        "nobody",
    ),
    Key(
        "interceptor",
        "interceptors",
        _list,
        "package.module:Name of what is called around every handler, the first outermost; repeatable",
    ),
    Key("engine", "engine", _text, "URL of the engine of channels: memory:, redis://HOST, redis+sentinel://HOST/NAME", "memory:"),
    Key("engine-password-file", "enginePasswordFile", _text, "file with the password of the server that --engine names"),
    Key("pages", "pages", _text, "folder whose files are served on the WebSocket ports, index.html at /"),
    Key("outbox", "outbox", _text, "database whose table twisted_ws_outbox is published: postgresql://USER@HOST/DATABASE"),
    Key("outbox-password-file", "outboxPasswordFile", _text, "file with the password of the database that --outbox names"),
    Key("drain-timeout", "drainTimeout", _seconds, "seconds that callers get when the server stops", "30"),
    Key(
        "workers",
        "workers",
        _workers,
        "processes that serve the WebSocket ports; 0: one for each core; absent: one does all",
    ),
    Key("log-format", "logFormat", _choice("text", "json"), "text or json", "text"),
    Key("log-level", "logLevels", _levels, "what is logged, by namespace, such as twisted_ws.wire=debug,info", "info"),
    Key("log-users", "logUsers", _switch, "whether JSON lines say who a client is: on or off", "off"),
    Key("tracing", "tracing", _switch, "send traces by OpenTelemetry, as its variables OTEL_* say: on or off", "off"),
)


# Bytes of a configuration file: whatever is larger is another file, or a device without an end.
LARGEST = 4 * MIB


def load(path: str) -> dict[str, Any]:
    """Return the tables of a TOML file; relative paths in it start at its directory.

    Raises:
        ConfigurationError: it cannot be read or parsed; the text says where.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigurationError(f"The configuration file {path} is larger than {LARGEST // MIB} MiB.")
        document = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"The configuration file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"The configuration file {path} is not UTF-8.") from None
    except ValueError as error:  # or a number of more digits than Python takes
        raise ConfigurationError(f"The configuration file {path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise ConfigurationError(f"The configuration file {path} is nested too deeply.") from None
    return {**absolute(document, str(Path(path).parent)), _DIRECTORY: str(Path(path).parent.absolute()), _FILE: path}


def placed(error: ConfigurationError, path: str, called: str) -> ConfigurationError:
    """Return an error of `merge` with the file, and the line if it is known.

    Args:
        error: the error.
        path: the file.
        called: what the operator calls it.
    """
    line = None
    if error.key:
        try:
            line = lineOf(Path(path).read_text(encoding="utf-8"), *error.key)
        except (OSError, UnicodeDecodeError):
            pass  # it was another one a moment ago
    return ConfigurationError(f"{called}{'' if line is None else f':{line}'}: {error}", error.key)


def changes(old: Settings, new: Settings) -> list[str]:
    """Return what two settings say differently, but for the rules for channels, by the names that the file has."""
    tables = dict.fromkeys((*old.authenticators, *new.authenticators))
    names = [f"authenticators.{each}" for each in tables if old.authenticators.get(each) != new.authenticators.get(each)]
    ofLimits = {each.name: f"limits.{each.name}" for each in fields(Limits)}
    for key in KEYS:
        isLimit = ofLimits.pop(key.field, None) is not None
        before, now = (old.limits, new.limits) if isLimit else (old, new)
        if getattr(before, key.field) != getattr(now, key.field):
            names.append(key.name)
    names += [said for name, said in ofLimits.items() if getattr(old.limits, name) != getattr(new.limits, name)]
    if old.services != new.services:
        names.append("services")
    return names


# Not a key that anybody can write in TOML: the directory of the file, for paths that only authenticators know.
_DIRECTORY = "\0directory"
# Nor this: the file as it was named, for errors.
_FILE = "\0file"


def absolute(values: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """Return `values` with absolute paths; relative ones start at `directory`.

    The runner may change its directory later (``twistd --rundir``), and the files are read again at each reload.
    """
    found = dict(values)
    for key in KEYS:
        if key.isPath and isinstance(path := found.get(key.name), str):
            found[key.name] = os.path.abspath(os.path.join(directory, os.path.expanduser(path)))
    return found


def merge(document: Mapping[str, Any], flags: Mapping[str, Any], checkers: Iterable[Any] = ()) -> Settings:
    """Return the settings: defaults, then the file, then the flags.

    Args:
        document: the tables of the configuration file; {} if there is none.
        flags: the flags that were given, by name; "service" is a list of PATH=TARGET.
        checkers: who may publish by password.

    Raises:
        ConfigurationError: a key is unknown (the text names the nearest) or a value is invalid.
    """
    document = dict(document)
    directory, file = document.pop(_DIRECTORY, ""), document.pop(_FILE, "")
    _refuseUnknown(document, [key.name for key in KEYS] + ["services", "limits", "authenticators", "channels"], "")
    table = _table(document, "limits")
    _refuseUnknown(table, sorted(_LIMITS), "limits.")
    limits = {name: _limit(f"limits.{name}", name, _limitSize(name, value)) for name, value in table.items()}
    values: dict[str, Any] = {}
    sources = {f"limits.{name}": "file" for name in limits}
    for source, prefix in ((document, ""), (flags, "--")):
        for key in KEYS:
            if key.name in source:
                try:
                    value = key.read(source[key.name])
                except ValueError as expected:
                    raise ConfigurationError(f"{prefix}{key.name} must be {expected}, not {source[key.name]!r}.") from None
                sources[key.name] = "flag" if prefix else "file"
                if key.isLimit:
                    limits[key.field] = _limit(f"{prefix}{key.name}", key.field, value)
                else:
                    values[key.field] = value
    mounts = [_mount(path, table, file) for path, table in _table(document, "services").items()]
    if mounts:
        sources["services"] = "file"
    if flags.get("service"):
        sources["services"] = "flag"
        mounts = [_parseMount(text) for text in flags["service"]]
    if mounts:
        values["services"] = tuple(mounts)
    authenticators = _table(document, "authenticators")
    for name in authenticators:
        if not isinstance(_table(authenticators, name, "authenticators.").get("type"), str):
            raise ConfigurationError(f'authenticators.{name} needs a type, such as type = "jwt".')
    channelRules = _table(document, "channels")
    Namespaces(channelRules)  # refuses what it cannot read
    return Settings(
        **values,
        limits=Limits(**limits),
        checkers=tuple(checkers),
        authenticators=authenticators,
        channelRules=channelRules,
        directory=directory,
        file=file,
        sources=sources,
    )


def _limit(called: str, name: str, value: Any) -> Any:
    """Return the value of a limit, which `Limits` checks; an error has the name as it was written."""
    try:
        Limits(**{name: value})
    except ValueError as error:
        raise ConfigurationError(f"{str(error).replace(name, called, 1)}.") from None
    return value


def _limitSize(name: str, value: Any) -> Any:
    """Return a limit such as 64KiB as a number; other mistakes are left to `Limits`."""
    if not isinstance(value, str) or _LIMITS[name] != "bytes":
        return value
    try:
        return _size(value)
    except ValueError as expected:
        raise ConfigurationError(f"limits.{name} must be {expected}, not {value!r}.") from None


def _table(document: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{prefix}{name} must be a table, not {table!r}.")
    return table


_ONLY_FLAGS = ("auth", "config")


def _refuseUnknown(table: Mapping[str, Any], known: list[str], prefix: str) -> None:
    for name in table:
        if not prefix and name in _ONLY_FLAGS:
            raise ConfigurationError(f"{name} can only be given as a flag: --{name}.")
        if name not in known:
            raise ConfigurationError(f"{prefix}{name} is not a setting{didYouMean(name, known, prefix)}")


def _mount(path: str, table: Any, file: str) -> Mount:
    here = f'services."{path}"'  # whoever reads the file says which one it is
    if not isinstance(table, dict) or not isinstance(table.get("target"), str):
        meant = get_close_matches("target", table, 1) if isinstance(table, dict) and "target" not in table else ()
        hint = f": is {meant[0]} a misspelling?" if meant else "."
        raise ConfigurationError(
            f'{here} must be a table with a target, such as target = "package.module:Name"{hint}', ("services", path)
        )
    options = {name: value for name, value in table.items() if name not in _RESERVED}
    lists = {}
    for name in _RESERVED[1:]:
        if name in table:
            try:
                lists[name] = _list(table[name])
            except ValueError as expected:
                said = f"{here}.{name} must be {expected}, not {table[name]!r}."
                raise ConfigurationError(said, ("services", path, name)) from None
    called = f"{file}: {here}" if file else here
    return Mount(
        path, table["target"], options, lists.get("authenticate"), lists.get("scopes", ()), lists.get("interceptor", ()), called
    )


# The keys of a service's table that are not options of its class.
_RESERVED = ("target", "authenticate", "scopes", "interceptor")


def _parseMount(text: str) -> Mount:
    path, equals, target = text.partition("=")
    if not equals or not path or not target:
        raise ConfigurationError(f"--service must be PATH=TARGET, such as /ws=demo or /chat=package.module:Chat, not {text!r}.")
    return Mount(path, target)
