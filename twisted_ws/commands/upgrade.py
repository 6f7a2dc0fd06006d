"""``twisted-ws upgrade``: let a running server with workers be replaced, supervisor and all, without closing connections."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_ws.commands.control import ControlOptions, control


class UpgradeOptions(ControlOptions):
    """The options of ``twisted-ws upgrade``."""

    synopsis = "Usage: twisted-ws upgrade [options]"
    longdesc = (
        "Replaces a server of this machine that runs with --workers by the version that is installed now, with the settings that "
        "its configuration file has now: the whole of it, and no connection that can move is closed. If the new one cannot take "
        "over, the old one goes on, and the command says why. It waits until all workers have been replaced, too."
    )
    examples = "twisted-ws upgrade"


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = UpgradeOptions()
    options.parseOptions(arguments)
    return control(options, {"upgrade": True}, "the server has been replaced")
