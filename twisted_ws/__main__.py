"""``python -m twisted_ws`` and ``twisted-ws``."""

from __future__ import annotations

import sys

from twisted_ws.commands.main import main

if __name__ == "__main__":
    sys.argv[0] = "twisted-ws"  # for the help
    sys.exit(main())
