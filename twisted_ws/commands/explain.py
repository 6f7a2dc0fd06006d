"""``twisted-ws explain``: who may do what with a channel, and which line of the configuration says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ChannelError, ConfigurationError

_WHERE = "; what they grant is said by --token, --grants, --subscribe and --publish"


class ExplainOptions(CommandOptions):
    """The options of ``twisted-ws explain``."""

    synopsis = "Usage: twisted-ws explain [options] subscribe|publish|presence CHANNEL"
    longdesc = (
        "Says whether a user may do something with a channel, or a back end with an API key may publish there, step by step, by "
        "the rules of a configuration file and its file of keys. No server has to run. The exit code is 0 for yes and 1 for no, "
        "also while the application would have to be asked. A service's own hooks, which can only refuse, are not asked."
    )
    examples = (
        "twisted-ws explain --config push.toml --user ann subscribe users.ann.orders\n"
        "  twisted-ws explain --config push.toml --token token publish rooms.7"
    )
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["config", None, None, "the server's configuration file"],
        ["user", None, "", "the user; a guest without it"],
        ["grants", None, None, 'file with the grants of the user\'s credentials: {"subscribe": [...], "publish": [...]}'],
        ["token", None, None, "file with a JSON Web Token, in place of a user and grants: what it says counts"],
        ["key", None, None, "the name of an API key, in place of a user"],
        ["service", None, None, "the path of the service, if there are several"],
    ]

    argument = ("subscribe", "publish", "presence")

    def __init__(self) -> None:
        super().__init__()
        for name in ("scope", "subscribe", "publish"):
            self[name] = []

    def opt_scope(self, scope: str) -> None:
        """a scope of the user; repeatable"""  # noqa: D403, D415 - this is the help text
        self["scope"].append(scope)

    def opt_subscribe(self, grant: str) -> None:
        """a channel or pattern that the user's credentials grant to subscribe to; repeatable"""  # noqa: D403, D415
        self["subscribe"].append(grant)

    def opt_publish(self, grant: str) -> None:
        """a channel or pattern that they grant to publish to; repeatable"""  # noqa: D403, D415 - this is the help text
        self["publish"].append(grant)

    def parseArgs(self, *words: str) -> None:
        """Take what is to be explained."""
        from twisted_ws.access.namespaces import ACTIONS

        if len(words) != 2 or words[0] not in ACTIONS:
            raise UsageError(f"give {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}, and a channel")
        self["action"], self["channel"] = words
        if self["key"] is not None and words[0] != "publish":
            raise UsageError("--key goes with publish")
        if self["token"] is not None:
            if any(self[name] for name in ("user", "grants", "key", "scope", "subscribe", "publish")):
                raise UsageError("--token says who the user is and what is granted: give nothing else about them")
            if self["config"] is None:
                raise UsageError("--config is needed with --token: it says what tokens must be like")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = ExplainOptions()
    options.parseOptions(arguments)
    from twisted_ws.identity import Grants, Identity
    from twisted_ws.logs import printable
    from twisted_ws.names import checkName, checkNameOrPattern

    try:
        settings = _settings(options["config"])
        check = checkNameOrPattern if options["action"] == "subscribe" else checkName
        channel = check(options["channel"], settings.limits.channelName)
        if options["key"] is not None:
            return _explainKey(options["key"], settings.apiKeyFile, channel)
        door, service = _service(options, settings)
        hasExpired = False
        if options["token"] is not None:
            from twisted_ws.access.tokens.verification import InvalidToken
            from twisted_ws.commands.token.reading import readToken

            try:
                identity, hasExpired = readToken(options["config"], options["token"])
            except InvalidToken as error:
                print(f"the token is refused: {error.message} (twisted-ws token check says more)")
                print("no")
                return Exit.FAILED
            print(f"the token is of {printable(identity.user) or 'a guest'}{', and has expired' if hasExpired else ''}")
        else:
            more = _grants(options["grants"])
            subscribe, publish = (Grants([*options[kind], *more.get(kind, ())]) for kind in ("subscribe", "publish"))
            identity = Identity(options["user"], subscribe, publish, frozenset(options["scope"]))
    except (ConfigurationError, ChannelError, ValueError) as error:
        complain(str(error))
        return Exit.USAGE
    from twisted_ws.inspection.explaining import WHAT_GRANTS, explain

    explained = explain(door, service, options["action"], channel, identity)
    allowed = explained.allowed
    text = Path(options["config"]).read_text(encoding="utf-8") if options["config"] else ""
    for step in explained.steps:
        print(step.text + _place(options["config"], text, step.key))
    if explained.note is not None:
        print(explained.note + (_WHERE if explained.note == WHAT_GRANTS else ""))
    if hasExpired and allowed:
        print("no: it would be yes, if the token had not expired")
        return Exit.FAILED
    print("the application decides" if allowed is None else "yes" if allowed else "no")
    return Exit.OK if allowed else Exit.FAILED


def _settings(config: str | None) -> Any:
    from twisted_ws.daemon.settings import load, merge, placed

    if not config:
        return merge({}, {})
    document = load(os.path.abspath(config))
    try:
        return merge(document, {})
    except ConfigurationError as error:
        raise placed(error, config, config) from None


def _service(options: ExplainOptions, settings: Any) -> tuple[Any, Any]:
    """Return what the service that is meant asks of whoever comes, and the service, guarded as it is where it is mounted."""
    from twisted_ws.access.namespaces import Namespaces
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.daemon.loading.authenticators import mayFindGuests
    from twisted_ws.daemon.loading.targets import loadService
    from twisted_ws.inspection.explaining import Door

    for mount in settings.services:
        if options["service"] not in (None, mount.path):
            continue
        service = loadService(mount.target, mount.options)
        if isinstance(service, ChannelService):
            authenticate = settings.authenticate if mount.authenticate is None else mount.authenticate
            service.permissions.guard(Namespaces(settings.channelRules), bool(authenticate))
            guests = mayFindGuests(authenticate, settings)
            return Door(mount.path, bool(authenticate), guests, frozenset(mount.scopes)), service
    raise ConfigurationError(f"there is no channels service{' at ' + options['service'] if options['service'] else ''}")


def _grants(file: str | None) -> dict[str, list[str]]:
    """Return what credentials grant, as their issuer has written it: ``{"subscribe": [...], "publish": [...]}``."""
    import msgspec

    if file is None:
        return {}
    try:
        found = msgspec.json.decode(Path(file).read_bytes(), type=dict[str, Any])
        return {kind: msgspec.convert(found.get(kind, []), list[str]) for kind in ("subscribe", "publish")}
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(
            f'{file} must have {{"subscribe": [...], "publish": [...]}} with names and patterns of channels: {error}.'
        ) from None


def _explainKey(name: str, file: str | None, channel: str) -> int:
    from twisted_ws.access.publishers.keys import KeyFile

    if file is None:
        raise ConfigurationError("there is no file of API keys: the configuration must name it (api-key-file)")
    keys = [*KeyFile(file).named(name)]
    if not keys:
        raise ConfigurationError(f"there is no key {name} in {file}")
    print("back ends are bound by the scopes of their keys, not by rules")
    mayPublish = False
    for line, holder, counts in keys:
        allowed = counts and holder.scopes.allows("publish", channel)
        mayPublish |= allowed
        ended = "" if counts else ", but it has expired"
        print(f"{name} has {holder.scopes}{ended}: {'yes' if allowed else 'no'}  [{os.path.relpath(file)}:{line}]")
    print("yes" if mayPublish else "no")
    return Exit.OK if mayPublish else Exit.FAILED


def _place(config: str | None, text: str, key: Sequence[str]) -> str:
    """Return where the file says something."""
    from twisted_ws.daemon.lines import lineOf

    line = lineOf(text, *key) if config and key else None
    return "" if line is None else f"  [{config}:{line}]"
