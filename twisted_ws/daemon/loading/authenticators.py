"""The authenticators that the settings name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from twisted_ws.access.authenticator import GROUP, Authenticator, AuthenticatorSettings
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.identities import GUEST_NAME, requireReplaceable
from twisted_ws.spelling import didYouMean

# The extras of types with other names.
EXTRAS = {"signed-cookie": "cookies"}
# The types of which a process needs its own that asks nobody for credentials, but makes some.
ISSUERS = ("ticket",)
# The types that a process can have only once, with the options of its start.
ONCE = ("django",)


def mayFindGuests(authenticate: Iterable[str], settings: Settings) -> bool:
    """Return whether any of these authenticators may let somebody in who has no name; none of them is made.

    Args:
        authenticate: names of tables, ``guest``, or what `--authenticate` takes.
        settings: the settings.
    """
    found = {each.name: each for each in entry_points(group=GROUP)}
    for each in authenticate:
        kind = settings.authenticators.get(each, {}).get("type", each.partition(":")[0])
        try:
            if kind not in found or getattr(found[kind].load(), "findsGuests", True):
                return True
        except ImportError:
            return True
    return False


class Changed(NamedTuple):
    """What has changed in the tables of authenticators.

    Attributes:
        names: the tables that are others now, and can be while the server runs.
        removed: the names of the authenticators that go, or are replaced.
        made: those that come.
        tables: all tables, as they are in use then.
    """

    names: tuple[str, ...]
    removed: Collection[str]
    made: Mapping[str, Authenticator]
    tables: Mapping[str, Mapping[str, Any]]


def makeAuthenticators(
    settings: Settings, reactor: Any, only: Collection[str] | None = None
) -> tuple[tuple[str, ...] | None, dict[str, Authenticator]]:
    """Return the chain for all services, None without one, and all authenticators by name.

    Args:
        settings: the settings.
        reactor: the reactor.
        only: the types that are made; None for all. With it, the chain may name others.

    Raises:
        ConfigurationError: there is no such type, or its options are wrong; the text names the table or flag.
    """
    made = {}
    for name, table in settings.authenticators.items():
        if only is not None and table["type"] not in only:
            continue
        options = {key: value for key, value in table.items() if key != "type"}
        made[name] = _make(f"authenticators.{name}", table["type"], name, options, settings, reactor)
    chain = chainOf(settings)
    for name, each in zip(chain, settings.authenticate, strict=True):
        kind, colon, rest = each.partition(":")
        if colon and (only is None or kind in only):
            made[name] = _make("--authenticate", kind, name, parseOptions(rest), settings, reactor)
    return chain or None, made


def chainOf(settings: Settings) -> tuple[str, ...]:
    """Return the names of the authenticators that are asked for all services: a flag's is its type, with a number if need be."""
    names: list[str] = []
    for each in settings.authenticate:
        kind, colon, _ = each.partition(":")
        name, number = kind, 2
        while colon and (name in settings.authenticators or name in names):
            name, number = f"{kind}{number}", number + 1
        names.append(name)
    return tuple(names)


def requireChains(settings: Settings, found: Changed) -> None:
    """Refuse a change of the tables that a server which was started with these settings could not take.

    Raises:
        ConfigurationError: as from `twisted_ws.server.identities.Identities.replace`.
    """
    chain = chainOf(settings)
    flags = {name for name, each in zip(chain, settings.authenticate, strict=True) if ":" in each}
    chains = [chain, *(each.authenticate for each in settings.services if each.authenticate is not None)]
    stay = {GUEST_NAME, *flags, *(name for name in found.tables if name not in found.made)}
    requireReplaceable(chains, stay, found.made)


def changed(old: Settings, new: Settings, reactor: Any, only: Collection[str] | None = None) -> Changed:
    """Return what a running server has to do so that its authenticators are those of other settings.

    Args:
        old: the settings before.
        new: those after.
        reactor: the reactor.
        only: as for `makeAuthenticators`.

    Raises:
        ConfigurationError: an option or a file is wrong.
    """
    before, after = old.authenticators, new.authenticators
    names = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    late = [name for name in names if any(name in each and each[name]["type"] in ONCE for each in (before, after))]
    names = [name for name in names if name not in late]
    tables = {name: after[name] for name in names if name in after}
    _, made = makeAuthenticators(replace(new, authenticate=(), authenticators=tables), reactor, only)
    removed = [name for name in names if name in before and (only is None or before[name]["type"] in only)]
    kept = {name: before[name] for name in late if name in before}
    others = {name: table for name, table in after.items() if name not in late}
    return Changed(tuple(names), removed, made, {**others, **kept})


def parseOptions(text: str) -> dict[str, Any]:
    """Return ``name=value:name=value`` as a table: what is given twice is a list; a backslash makes the next character plain.

    Raises:
        ConfigurationError: a part has no name.
    """
    parts, current, characters = [], [""], iter(text)
    for character in characters:
        if character == "\\":
            current[-1] += next(characters, "\\")
        elif character == ":":
            parts.append(current)
            current = [""]
        elif character == "=" and len(current) == 1:
            current.append("")
        else:
            current[-1] += character
    found: dict[str, Any] = {}
    for part in (*parts, current):
        name, *value = part
        if not name or not value:
            raise ConfigurationError("--authenticate must be TYPE:OPTION=VALUE:OPTION=VALUE; write a colon in a value as \\:.")
        if name not in found:
            found[name] = value[0]
        elif isinstance(found[name], list):
            found[name].append(value[0])
        else:
            found[name] = [found[name], value[0]]
    return found


def _make(where: str, kind: str, name: str, options: Mapping[str, Any], settings: Settings, reactor: Any) -> Authenticator:
    found = {each.name: each for each in entry_points(group=GROUP)}
    if kind not in found:
        raise ConfigurationError(f"{where}: there is no type of authenticator {kind}{didYouMean(kind, found)}")
    try:
        factory = found[kind].load()
    except ImportError as error:
        missing = f"{error.name} is not installed" if error.name else str(error)
        raise ConfigurationError(f"{where}: {missing}; try pip install 'twisted-ws[{EXTRAS.get(kind, kind)}]'.") from None
    try:
        made: Authenticator = factory(AuthenticatorSettings(name, options, settings.directory, settings.limits, reactor))
    except ConfigurationError as error:
        text = str(error)
        raise ConfigurationError(text if where in text else f"{where}: {text}") from None
    return made
