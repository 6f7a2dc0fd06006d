"""The command line: ``twistd wsservice`` and ``twisted-ws``."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python.usage import CompleteFiles, CompleteList, CompleteNetInterfaces, Completions, Options, UsageError

from twisted_ws import __version__, usage
from twisted_ws.daemon.groups import groups
from twisted_ws.daemon.settings import KEYS, Key, Settings, absolute, load, merge, placed
from twisted_ws.errors import ConfigurationError
from twisted_ws.spelling import explainOption


class ServiceOptions(Options, AuthOptionMixin):
    """All options; `settings` combines them with the configuration file."""

    longdesc = (
        "A WebSocket service server with an HTTP broadcast site. Without --service, there are a demo "
        "service at /ws with a page at /, channels at /channels, and a playground for them on that page. "
        "Every option but --service, --config and --auth is also a key of the configuration file; "
        "options on the command line take precedence."
    )
    supportedInterfaces = (IUsernamePassword,)
    authOutput = sys.stdout

    # Their defaults are None, to know which were given: those win over the configuration file.
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["config", None, None, "TOML file with these settings and one table for each service"],
        *([key.name, None, None, key.help + (f" [{key.default}]" if key.default else "")] for key in KEYS if not key.isList),
    ]
    choices: Mapping[str, Sequence[str]] = {
        **{key.name: ("on", "off") for key in KEYS if key.isSwitch},
        "log-format": ("text", "json"),
        "log-level": ("debug", "info", "warn", "error", "critical"),
        "tls-minimum": ("1.2", "1.3"),
    }
    compData = Completions(
        optActions={
            **{key.name: CompleteFiles() for key in KEYS if key.isPath},
            "config": CompleteFiles("*.toml"),
            "interface": CompleteNetInterfaces(),
            "broadcast-interface": CompleteNetInterfaces(),
            **{name: CompleteList(words) for name, words in choices.items()},
        }
    )

    # What an option takes, where its name does not say it.
    takes: Mapping[str, str] = {"listen": "ENDPOINT", "authenticate": "NAME", "interceptor": "TARGET", "pages": "DIRECTORY"}
    # More groups of a command that has these options too, before those of the server.
    own: Mapping[str, Sequence[str]] = {}
    argument = ""
    examples = ""

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The names of options by the title of their group, those that are used most first."""
        found = {title: tuple(key.name for key in keys) for title, keys in groups()}
        mixed = {"Services and settings": ("config", "service", "help-services"), **found}
        mixed["Publishing"] = (*mixed["Publishing"], "auth", "help-auth", "help-auth-type")
        return {**{title: tuple(names) for title, names in self.own.items()}, **mixed}

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: purpose, and options by group."""
        columns = width or usage.width()
        purpose = textwrap.wrap(self.longdesc, columns, break_on_hyphens=False)
        described = usage.grouped(usage.optionsOf(self), self.groups)
        return "\n".join(["", *purpose, "", *usage.shown(described, columns)]).rstrip() + "\n"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._directory = os.getcwd()  # the runner may change it
        self.given: tuple[str, ...] = ()  # the arguments that were parsed
        self["service"] = []
        for key in KEYS:
            if key.isList:
                self[key.name] = []

    def parseOptions(self, options: Any = None) -> None:
        """Parse a command line.

        Raises:
            UsageError: it is wrong; the text says why.
            SystemExit: the same under twistd or twist, which would print all of the help, and the error below it.
        """
        self.given = tuple(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except UsageError as error:
            wrong = explainOption(error, self.longOpt)
            if wrong.startswith("Auth plugin"):  # Twisted's words
                wrong = f"--auth: {wrong}; --help-auth lists what there is"
            if getattr(self, "parent", None) is None:
                raise UsageError(wrong) from None
            raise SystemExit(f"twisted_ws: {wrong} (see wsservice --help)") from None

    def parseArgs(self, *rest: str) -> None:
        """Refuse arguments that are not options.

        Raises:
            UsageError: there is one.
        """
        if rest:
            meant = f": did you mean --port {rest[0]}?" if rest[0].isdigit() else ""
            raise UsageError(f"unexpected argument {rest[0]!r}{meant}")

    def opt_service(self, text: str) -> None:
        """PATH=TARGET: let a service answer PATH and everything under it; TARGET is package.module:Name or the name of an
        installed service; repeatable [/ws=demo, channels and a playground]
        """  # noqa: D205, D415 - this is the help text
        self["service"].append(text)

    def opt_auth(self, description: str) -> None:
        """METHOD:ARGUMENTS: who may publish by password, such as file:PATH; repeatable"""  # noqa: D415 - help text
        method, _, path = description.partition(":")
        if method == "file" and path.strip():
            from twisted_ws.access.publishers.credentials import PasswordDB  # with what a help text does not need

            # Twisted's plugin would also print a warning of its own if there is no such file; the start says so in one line.
            self.addChecker(PasswordDB(path))  # type: ignore[no-untyped-call]
        else:
            super().opt_auth(description)  # type: ignore[no-untyped-call]

    def _checkerFactoriesForOptHelpAuth(self) -> Iterator[Any]:
        """Yield what --auth takes, without what `settings` refuses."""
        found: Iterator[Any] = super()._checkerFactoriesForOptHelpAuth()  # type: ignore[no-untyped-call]
        return (factory for factory in found if factory.authType != "memory")

    def opt_help_services(self) -> None:
        """List the installed services, and exit."""
        from twisted_ws.daemon.loading.targets import describeInstalled

        print(describeInstalled())
        raise SystemExit(0)

    def opt_version(self) -> None:
        """Show the version, and exit."""
        from twisted_ws.wire.speedups import which

        print(f"twisted_ws {__version__} ({which()})")
        raise SystemExit(0)

    def settings(self) -> Settings:
        """Return the settings; each time, the configuration file is read anew.

        Raises:
            ConfigurationError: something is wrong; the text is one line.
        """
        path = os.path.join(self._directory, self["config"]) if self["config"] else ""
        document = load(path) if path else {}
        try:
            merge(document, {})
        except ConfigurationError as error:
            raise placed(error, path, self["config"]) from None
        given = {key.name: self[key.name] for key in KEYS if self[key.name] not in (None, [])}
        flags = absolute({**given, "service": self["service"]}, self._directory)
        checkers = self.get("credCheckers") or ()
        if any(isinstance(each, InMemoryUsernamePasswordDatabaseDontUse) for each in checkers):
            raise ConfigurationError(
                "--auth memory puts a password on the command line, where every user of this machine can read it: "
                "write it to a file and give --auth file:PATH."
            )
        return merge(document, flags, checkers)


def _repeatable(key: Key) -> Any:
    def option(self: ServiceOptions, text: str) -> None:
        self[key.name].append(text)

    option.__doc__ = key.help + (f" [{key.default}]" if key.default else "")
    return option


for _key in KEYS:
    if _key.isList:
        setattr(ServiceOptions, f"opt_{_key.name.replace('-', '_')}", _repeatable(_key))
