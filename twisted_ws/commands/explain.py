"""``twisted-ws explain``: who may do what with a channel, and which line of the configuration says so."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.lines import lineOf
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.terminal.display import complain
from twisted_ws.errors import ChannelError, ConfigurationError

_TABLE = re.compile(r'channels\."([^"]*)"')


class ExplainOptions(CommandOptions):
    """The options of ``twisted-ws explain``."""

    synopsis = "Usage: twisted-ws explain [options] subscribe|publish|presence CHANNEL"
    longdesc = (
        "Says whether a user may do something with a channel, step by step, by the rules of a configuration file. No server has "
        "to run. The exit code is 0 for yes and 1 for no. A service's own hooks, which can only refuse, are not asked."
    )
    examples = "twisted-ws explain --config push.toml --user ann subscribe users.ann.orders"
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["config", None, None, "the server's configuration file"],
        ["user", None, "", "the user; a guest without it"],
        ["service", None, None, "the path of the service, if there are several"],
    ]

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
        """the same, to publish to"""  # noqa: D403, D415 - this is the help text
        self["publish"].append(grant)

    def parseArgs(self, *words: str) -> None:
        """Take what is to be explained."""
        from twisted_ws.access.rules import ACTIONS

        if len(words) != 2 or words[0] not in ACTIONS:
            raise UsageError(f"give {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}, and a channel")
        self["action"], self["channel"] = words


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = ExplainOptions()
    options.parseOptions(arguments)
    from twisted_ws.identity import Grants, Identity
    from twisted_ws.names import checkName, checkNameOrPattern

    try:
        path, access = _access(options)
        check = checkNameOrPattern if options["action"] == "subscribe" else checkName
        channel = check(options["channel"], 128)
        identity = Identity(
            options["user"], Grants(options["subscribe"]), Grants(options["publish"]), frozenset(options["scope"])
        )
    except (ConfigurationError, ChannelError, ValueError) as error:
        complain(str(error))
        return Exit.USAGE
    if access is None:
        print(f"{path} has no rules and asks nobody for credentials: its service decides")
        return Exit.OK
    steps: list[str] = []
    allowed = access.decide(options["action"], channel, identity, (), steps)
    for step in steps:
        print(_placed(step, options["config"]))
    print("yes" if allowed else "no")
    return Exit.OK if allowed else Exit.FAILED


def _access(options: ExplainOptions) -> tuple[str, Any]:
    """Return the path of the service that is meant, and what decides for it."""
    from twisted_ws.access.rules import ChannelAccess, Rules
    from twisted_ws.channels.service import ChannelService
    from twisted_ws.daemon.settings import load, merge
    from twisted_ws.daemon.targets import loadService

    settings = merge(load(os.path.abspath(options["config"])) if options["config"] else {}, {})
    rules = Rules(settings.channelRules)
    for mount in settings.services:
        if options["service"] not in (None, mount.path):
            continue
        service = loadService(mount.target, mount.options)
        if isinstance(service, ChannelService):
            asked = bool(settings.authenticate if mount.authenticate is None else mount.authenticate)
            if not asked and not len(rules):
                return mount.path, None
            return mount.path, ChannelAccess(rules, asked, service.publish, service.presence, service.wildcards)
    raise ConfigurationError(f"there is no channels service{' at ' + options['service'] if options['service'] else ''}")


def _placed(step: str, config: str | None) -> str:
    """Return a step with the line of the file that has its table."""
    table = _TABLE.search(step)
    if config is None or table is None:
        return step
    line = lineOf(Path(config).read_text(encoding="utf-8"), "channels", table[1])
    return step if line is None else f"{step}  [{config}:{line}]"
