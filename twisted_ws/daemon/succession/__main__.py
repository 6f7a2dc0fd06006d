"""``python -m twisted_ws.daemon.succession``: a supervisor that takes over, which only the one before it starts."""

from __future__ import annotations

import sys

from twisted_ws.daemon.succession.successor import main

if __name__ == "__main__":
    sys.exit(main())
