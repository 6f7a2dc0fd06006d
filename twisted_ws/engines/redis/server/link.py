"""The way to one run of a server: two connections, which were greeted, and end together."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import hiredis
from OpenSSL import SSL
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory

from twisted_ws.engines.redis.server.protocol import Lost, RedisProtocol
from twisted_ws.engines.redis.server.scripts import SCRIPTS, Script
from twisted_ws.engines.redis.server.url import Address, RedisURL
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable
from twisted_ws.wire.tls.certificates import loadAuthorities, loadPEM
from twisted_ws.wire.tls.client import ClientTLS, Refusal
from twisted_ws.wire.tls.contexts import openSSLReason

# Seconds for a connection and its greeting: a server that is stopped accepts, and does not answer.
GREETING = 3.0
# Seconds of silence after which it is found out whether this is a server of something else.
PATIENCE = 1.5
# The oldest server: it has streams that are trimmed by id, and keys that expire at a time.
OLDEST = (6, 2)


class Unreachable(Exception):
    """There is no server that can work now; there may be one later. The text is the end of a sentence about it."""


class Dialer:
    """Makes connections as a URL says.

    Args:
        reactor: the reactor.
        url: the URL.
        password: the password; None for none.
        largest: bytes of the largest message that may come.

    Raises:
        ConfigurationError: a file of the URL cannot be used.
    """

    def __init__(self, reactor: Any, url: RedisURL, password: bytes | None, largest: int) -> None:
        self.reactor = reactor
        self.url = url
        self.password = password
        self._largest = largest
        self._trusted = loadAuthorities(url.ca, "engine CA") if url.ca else None
        self._key = loadPEM(url.certificate, url.key) if url.certificate else None

    @inlineCallbacks
    def dial(self, address: Address) -> Generator[Deferred[Any], Any, RedisProtocol]:
        """Connect to an address.

        Raises:
            Unreachable: there is nobody.
        """
        protocol = RedisProtocol(self.reactor, self._largest)
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        endpoint = self._endpoint(address)
        try:
            if self.url.isSecure:
                yield endpoint.connect(ClientTLS(address.host, self._trusted, self._key).wrap(factory, self.reactor))
            else:
                yield endpoint.connect(factory)
        except DNSLookupError:
            raise Unreachable("cannot be reached: its name has no address") from None
        except ConnectError as error:
            raise Unreachable(f"cannot be reached: {_reason(error)}") from None
        except OSError as error:
            raise Unreachable(f"cannot be reached: {error.strerror or error}") from None
        yield protocol.made
        return protocol

    def _endpoint(self, address: Address) -> Any:
        if address.path:
            return UNIXClientEndpoint(self.reactor, address.path, timeout=GREETING)
        if isIPAddress(address.host):
            return TCP4ClientEndpoint(self.reactor, address.host, address.port, timeout=GREETING)
        if isIPv6Address(address.host):
            return TCP6ClientEndpoint(self.reactor, address.host, address.port, timeout=GREETING)
        return HostnameEndpoint(self.reactor, address.host.encode("idna"), address.port, timeout=GREETING)

    @inlineCallbacks
    def greet(self, protocol: RedisProtocol, name: str) -> Generator[Deferred[Any], Any, dict[str, str]]:
        """Say who we are and which database is meant, and return what the server says of itself."""
        greeting: list[tuple[bytes | str | int, ...]] = []
        if self.password is not None:
            greeting.append(("AUTH", self.url.user, self.password) if self.url.user else ("AUTH", self.password))
        if self.url.database:
            greeting.append(("SELECT", self.url.database))
        replies = [protocol.ask(*each) for each in (*greeting, ("CLIENT", "SETNAME", name), ("INFO", "server"))]
        reply = b""
        while replies:
            try:
                reply = yield replies.pop(0)
            except (Lost, hiredis.ReplyError):
                for later in replies:
                    later.addErrback(lambda _: None)  # the first that fails says why
                raise
        return _fields(reply)

    def explain(self, error: Exception, protocol: RedisProtocol | None) -> Exception:
        """Return `Unreachable` or `ConfigurationError` for what went wrong with a connection."""
        if isinstance(error, hiredis.ReplyError):
            return _explainReply(str(error), self.password is not None)
        if not isinstance(error, Lost):
            return error
        cause = None if protocol is None else protocol.error
        refusal: Refusal | None = None if protocol is None else getattr(protocol.transport, "refusal", None)
        if refusal is not None:
            text = refusal.text.replace(
                "give its certificate as trustStore", "give a file with its certificate as ca= in the URL"
            )
            return ConfigurationError(f"is not trusted: {text}")
        if isinstance(cause, SSL.Error):
            reason = openSSLReason(cause)
            if reason in (
                "wrong version number",
                "packet length too long",
                "record layer failure",
                "unexpected eof while reading",
            ):
                return ConfigurationError("does not speak TLS: check the port, or use redis:// where nobody can listen")
            return ConfigurationError(f"does not agree on TLS ({printable(reason or 'broken off')})")
        if "protocol of Redis" in str(error):
            hint = "" if "but HTTP" in str(error) else "; with TLS, the URL begins with rediss:"
            return ConfigurationError(f"{str(error).removeprefix('it ')}: check the port{hint}")
        return Unreachable(f"cannot be greeted: {error}" + ("" if self.url.isSecure else " (does it want TLS?)"))


def _reason(error: ConnectError) -> str:
    return printable(str(error).rpartition(":")[2].strip().rstrip(".") or "no answer", 100)


def _explainReply(text: str, hasPassword: bool) -> Exception:
    """Return the error for a reply in the greeting."""
    kind = text.partition(" ")[0]
    said = printable(text, 160)
    if kind == "NOAUTH":
        return ConfigurationError("requires a password: give --engine-password-file FILE")
    if kind == "WRONGPASS" or "invalid password" in text:
        return ConfigurationError("refuses the user or the password: check --engine-password-file and the user in the URL")
    if "AUTH" in text and hasPassword:
        return ConfigurationError("has no password, but one was given: leave out --engine-password-file")
    if kind == "NOPERM" or "ACL failure in script" in text or "The user executing the script" in text:
        return ConfigurationError(f"does not permit what is needed: {said}")
    if kind == "DENIED":
        return ConfigurationError("is in protected mode: it needs a password, or to listen on a loopback address only")
    if kind == "OOM":
        return ConfigurationError("is full (maxmemory): it needs more memory, or something else in it has to go")
    if kind == "READONLY":
        return Unreachable("cannot be written to: it is a replica")
    if kind == "MISCONF":
        return ConfigurationError(f"cannot be written to, because it cannot save: {said}")
    if "unknown command" in text or "Unknown Redis command" in text or "unknown subcommand" in text:
        return ConfigurationError(f"lacks a command that is needed: {said.partition(', with args')[0]}")
    if "DB index" in text or "invalid DB" in text:
        return ConfigurationError("does not have the database that the URL names")
    return Unreachable(f"says {said}")


class Link:
    """Two connections to one run of a server: one for commands, one that subscribes. It never reconnects.

    Args:
        commands, subscriber: the connections.
        run: the server's run_id.
        slot: how the server is called in the log.

    Attributes:
        gen: the generation that was agreed on.
        onLost: called once, when either connection has ended.
        isLost: whether that was so.
    """

    def __init__(self, commands: RedisProtocol, subscriber: RedisProtocol, run: bytes, address: Address) -> None:
        self.commands = commands
        self.subscriber = subscriber
        self.run = run
        self.address = address
        self.gen = b""
        self.isLost = False
        self.onLost: Callable[[str], None] | None = None
        commands.onLost = subscriber.onLost = self._ended

    def call(self, script: Script, keys: tuple[bytes, ...], *arguments: bytes | str | int) -> Deferred[Any]:
        """Execute a script."""
        return self.commands.ask(b"EVALSHA", script.sha, len(keys), *keys, *arguments)

    def drop(self, why: str) -> None:
        """End both connections."""
        self.commands.drop(why)
        self.subscriber.drop(why)

    def _ended(self, why: str) -> None:
        if self.isLost:
            return
        self.isLost = True
        self.drop(why)
        if self.onLost is not None:
            self.onLost(why)


@inlineCallbacks
def connect(dialer: Dialer, address: Address, name: str) -> Generator[Deferred[Any], Any, Link]:
    """Connect to a server and greet it.

    Args:
        dialer: makes the connections.
        address: where.
        name: how the connections are called in the server's list of clients.

    Raises:
        Unreachable: it cannot work now.
        ConfigurationError: it cannot work until the operator has changed something. The text is the end of a sentence, too.
    """
    made: list[RedisProtocol] = []

    def end() -> None:
        for protocol in made:
            protocol.drop(_SILENT)

    def provoke() -> None:
        for protocol in made:
            protocol.provoke()

    deadline = dialer.reactor.callLater(GREETING, end)
    asking = dialer.reactor.callLater(PATIENCE, provoke)
    try:
        runs = []
        for which in ("commands", "subscriber"):
            protocol = yield dialer.dial(address)
            made.append(protocol)
            if not deadline.active():
                raise Unreachable(_SILENT)
            about = yield dialer.greet(protocol, f"{name}-{which}")
            runs.append(about.get("run_id", ""))
            if which == "commands":
                yield from _examine(protocol, about, bool(dialer.url.master))
        if not runs[0] or runs[0] != runs[1]:
            raise Unreachable("has changed meanwhile")
        yield from _load(made[0])
    except (Lost, hiredis.ReplyError, Unreachable, ConfigurationError) as error:
        for protocol in made:
            protocol.drop("given up")
        if isinstance(error, Lost) and str(error) == _SILENT:
            raise Unreachable(_SILENT + (" (does it speak TLS?)" if dialer.url.isSecure else "")) from None
        raise dialer.explain(error, made[-1] if made else None) from None
    finally:
        for call in (deadline, asking):
            if call.active():
                call.cancel()
    return Link(made[0], made[1], runs[0].encode(), address)


def _load(protocol: RedisProtocol) -> Generator[Deferred[Any], Any, None]:
    """See that the server knows all scripts."""
    known = yield protocol.ask("SCRIPT", "EXISTS", *[script.sha for script in SCRIPTS])
    for script, isKnown in zip(SCRIPTS, known, strict=True):
        if not isKnown:
            yield protocol.ask("SCRIPT", "LOAD", script.text)


_SILENT = f"does not answer within {GREETING:g} seconds"


def _examine(protocol: RedisProtocol, about: dict[str, str], isFound: bool) -> Generator[Deferred[Any], Any, None]:
    version = about.get("redis_version", "")
    parts = [int(each) if each.isdigit() else 0 for each in version.split(".")[:2]]
    if tuple(parts) < OLDEST:
        raise ConfigurationError(f"is too old: it is version {printable(version) or '?'}, but {OLDEST[0]}.{OLDEST[1]} is needed")
    if about.get("redis_mode") == "cluster":
        raise ConfigurationError("is part of a cluster, which is not supported: use Sentinel, or several servers in the URL")
    role = yield protocol.ask("ROLE")
    if role[0] == b"sentinel":
        raise ConfigurationError("is a Sentinel: the URL must be like redis+sentinel://HOST,HOST/NAME")
    if role[0] != b"master":
        who = b":".join([each if isinstance(each, bytes) else b"%d" % each for each in role[1:3]])
        if isFound:
            raise Unreachable("is still a replica")
        raise ConfigurationError(f"is a replica of {printable(who.decode(errors='replace'))}: give the primary, or Sentinels")


def _fields(info: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    lines = info.decode(errors="replace").splitlines() if isinstance(info, bytes) else []
    return dict([line.partition(":")[::2] for line in lines if ":" in line])
