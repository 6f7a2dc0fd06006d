"""``twisted-ws reload``: let a running server with workers read certificates again, or replace its workers one by one."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_ws.commands.control import ControlOptions, control


class ReloadOptions(ControlOptions):
    """The options of ``twisted-ws reload``."""

    synopsis = "Usage: twisted-ws reload [options]"
    longdesc = (
        "Lets a server of this machine that runs with --workers read its certificates, keys, authenticators and rules for "
        "channels again. With --services, it starts new workers, with the services and settings as they are now, and each "
        "replaces an old one; what channels remember stays."
    )
    examples = "twisted-ws reload --services"
    optFlags = [  # noqa: RUF012 - as Twisted declares it
        ["services", None, "replace the workers one by one; the command waits for that"],
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = ReloadOptions()
    options.parseOptions(arguments)
    if options["services"]:
        return control(options, {"reload": "services"}, "all workers have been replaced")
    return control(options, {"reload": "certificates"}, "certificates, keys, authenticators and rules have been read again")
