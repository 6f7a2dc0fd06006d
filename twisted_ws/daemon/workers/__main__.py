"""``python -m twisted_ws.daemon.workers``: a worker, which only a supervisor starts."""

from __future__ import annotations

import sys

from twisted_ws.daemon.workers.worker import main

if __name__ == "__main__":
    sys.exit(main())
