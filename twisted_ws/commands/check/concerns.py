"""What deserves a second look in settings that work. Pure, but for the limit of descriptors, which is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.access.publishers.scopes import EVERYTHING
from twisted_ws.commands.check.findings import Finding, Port, ServiceFound
from twisted_ws.daemon.settings import Settings

# Days before the end of a certificate from which it is worth a warning here: more than in the log, because it can be renewed in
# peace now.
CERTIFICATE_DAYS = 20
# The types of authenticators whose credentials a browser sends by itself. The others may find theirs in a cookie (`sources`).
_AMBIENT = ("basic", "certificate", "django", "http", "ldap", "signed-cookie")
# Authenticators that let in whoever has no credentials.
GUEST = "guest"


def ofListening(ports: Sequence[Port], services: Iterable[ServiceFound], settings: Settings) -> Iterator[Finding]:
    """Yield what is open to more people than it may be meant for.

    Args:
        ports: where the server would listen.
        services: what it would serve.
        settings: the settings.
    """
    public = [port for port in ports if port.public and port.site == "websocket"]
    services = [*services]
    unasked = [each.path for each in services if each.authenticate is None and not each.decides]
    reached = [port for port in public if not (port.tls and settings.clientCA)]
    if unasked and reached:
        yield Finding(
            "no-authentication",
            f"{', '.join(unasked)}: nobody is asked who they are, and other machines reach --{reached[0].option}: set "
            "authenticate, or --interface 127.0.0.1 if a proxy before it asks",
        )
    plain = [port for port in ports if port.public and not port.tls and not _isProxied(port, settings)]
    for port in plain:
        if port.site == "broadcast":
            yield Finding(
                "plain-broadcast",
                f"--{port.option} {port.where}: API keys and passwords travel in clear text: use --broadcast-tls-port",
            )
        elif port.site == "metrics":
            yield Finding(
                "open-metrics",
                f"--{port.option} {port.where}: whoever reaches it reads the metrics: let only the scraper reach it, or use "
                "/metrics of the broadcast site, with a key",
            )
        elif any(each.authenticate not in (None, [GUEST]) for each in services):
            yield Finding(
                "plain-credentials",
                f"--{port.option} {port.where}: credentials travel in clear text: use --tls-port, or name the proxy that has the "
                "certificate with --trusted-proxy",
            )


def _isProxied(port: Port, settings: Settings) -> bool:
    return port.site == "websocket" and bool(settings.trustedProxies)


def ofCookies(settings: Settings) -> Iterator[Finding]:
    """Yield what is wrong with pages of any origin where credentials come by themselves."""
    if "*" not in settings.allowedOrigins:
        return
    used = {*settings.authenticate, *(name for mount in settings.services for name in mount.authenticate or ())}
    for name in sorted(used):
        table = settings.authenticators.get(name) or {"type": name.partition(":")[0], "sources": [name.partition(":")[2]]}
        if _isAmbient(table):
            yield Finding(
                "any-origin-with-cookies",
                f"allowed-origin is *, and {name.partition(':')[0]} takes what browsers send by themselves (cookies, passwords): "
                "that counts only from origins that are named, so name those",
            )


def _isAmbient(table: Mapping[str, Any]) -> bool:
    sources = table.get("sources", ())
    named = [sources] if isinstance(sources, str) else sources if isinstance(sources, (list, tuple)) else []
    return table["type"] in _AMBIENT or any("cookie:" in str(each).replace("\\", "") for each in named)


def ofKeys(keys: Iterable[tuple[int, KeyHolder, bool]]) -> Iterator[Finding]:
    """Yield the keys that may do everything without anybody having said so, and those that have ended."""
    for line, holder, counts in keys:
        if not counts:
            yield Finding("key-ended", f"the API key {holder.name} (line {line}) has expired: remove it")
        elif holder.scopes is EVERYTHING:
            yield Finding(
                "key-without-scope",
                f"the API key {holder.name} (line {line}) has no scope, and may do everything: give it what it needs, such as "
                "publish:orders.*, or admin",
            )


def ofCertificate(source: str, days: float, hasBegun: bool) -> Iterator[Finding]:
    """Yield what is wrong with the times of a certificate.

    Args:
        source: the file.
        days: those that are left.
        hasBegun: whether it is valid by now.
    """
    if days < 0:
        yield Finding("certificate-expired", f"the certificate {source} has expired: renew it")
    elif not hasBegun:
        yield Finding("certificate-not-yet", f"the certificate {source} is not valid yet: check this machine's clock")
    elif days < CERTIFICATE_DAYS:
        left = f"{days:.0f} days" if days >= 1.5 else "a day"
        yield Finding("certificate-expires", f"the certificate {source} expires in {left}: renew it")


def ofSelfSigned(ports: Iterable[Port]) -> Iterator[Finding]:
    """Yield that other machines get a certificate that they do not trust."""
    for port in ports:
        if port.tls and port.public:
            yield Finding(
                "self-signed",
                f"--{port.option} {port.where}: no certificate is given, and nobody trusts one for localhost that the server "
                "signs itself: give --certificate",
            )
            return


def ofProxies(settings: Settings) -> Iterator[Finding]:
    """Yield that everybody is trusted to say where a request came from."""
    for each in settings.trustedProxies:
        if each != "unix" and ip_network(each).prefixlen == 0:
            yield Finding(
                "everybody-is-a-proxy",
                f"--trusted-proxy {each} lets every client choose its own address: name the network of the proxies",
            )


def ofDescriptors(settings: Settings, most: int) -> Iterator[Finding]:
    """Yield that there cannot be as many connections as are wanted.

    Args:
        settings: the settings.
        most: how many descriptors a process may have.
    """
    wanted = settings.limits.maxConnections + settings.limits.descriptorReserve
    if settings.limits.maxConnections and wanted > most:
        yield Finding(
            "descriptors",
            f"--max-connections {settings.limits.maxConnections} needs {wanted} descriptors, and this user may have {most}: "
            "raise the hard limit (LimitNOFILE of systemd)",
        )
