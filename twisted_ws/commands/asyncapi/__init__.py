"""``twisted-ws asyncapi``: the AsyncAPI document of the services that a server with these options would have."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from twisted.python.usage import UsageError

from twisted_ws.commands.exits import Exit
from twisted_ws.commands.terminal.display import complain
from twisted_ws.daemon.options import ServiceOptions
from twisted_ws.errors import ConfigurationError

if TYPE_CHECKING:
    from twisted_ws.commands.check.findings import Report


class AsyncAPIOptions(ServiceOptions):
    """The options of ``twisted-ws asyncapi``: those of the server that say what is served, and its own."""

    synopsis = "Usage: twisted-ws asyncapi [options]"
    longdesc = (
        "Writes the AsyncAPI 3.0 document of the services that a server with the same options would have: a channel for each "
        "path and each table of channels, operations from handlers and the dispatcherKey, schemas from annotations. Nothing is "
        "started."
    )
    own = {"This command": ("json", "title", "api-version", "url")}  # noqa: RUF012 - as Twisted declares it
    optFlags = [["json", "j", "JSON instead of YAML"]]  # noqa: RUF012 - as Twisted declares it
    optParameters = [  # noqa: RUF012
        ["title", None, "WebSocket services", "the title of the API"],
        ["api-version", None, "1.0.0", "its version"],
        ["url", None, "ws://localhost:8080", "where clients reach the server"],
    ]

    def postOptions(self) -> None:
        """Check the URL."""
        super().postOptions()  # type: ignore[no-untyped-call]
        url = urlsplit(self["url"])
        if url.scheme not in ("ws", "wss") or not url.hostname or url.query or url.fragment or url.username is not None:
            raise UsageError(f"--url must be ws://HOST or wss://HOST, perhaps with a port and a path, not {self['url']!r}")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = AsyncAPIOptions()
    options.parseOptions(list(arguments))
    from twisted_ws.commands.check.findings import Report

    report = Report()
    with redirect_stdout(sys.stderr):
        try:
            text = _text(options, report)
        except ConfigurationError as error:
            report.wrong("configuration", str(error))
    for each in report.errors:
        complain(each.text)
    if report.errors:
        return Exit.FAILED
    sys.stdout.write(text)
    return Exit.OK


def _text(options: AsyncAPIOptions, report: Report) -> str:
    import msgspec

    from twisted_ws.commands.asyncapi.document import About, Described, document
    from twisted_ws.commands.asyncapi.yaml import asYAML
    from twisted_ws.commands.check.examined import examined

    settings = options.settings()
    server = examined(settings, report)
    if server is None or report.errors:
        return ""
    kinds = {name: str(table["type"]) for name, table in settings.authenticators.items()}
    services = []
    for mount in settings.services:
        names = settings.authenticate if mount.authenticate is None else mount.authenticate
        security = {name: kinds.get(name, name.partition(":")[0]) for name in names}
        services.append(Described(mount.path, server.services[mount.path], security))
    made = document(About(options["title"], options["api-version"], options["url"]), services, settings.channelRules)
    if options["json"]:
        return msgspec.json.format(msgspec.json.encode(made)).decode() + "\n"
    return asYAML(made)
