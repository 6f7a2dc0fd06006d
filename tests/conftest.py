from __future__ import annotations

import signal

from hypothesis import settings

# A promise is not about time: an example may take longer on a busy machine.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# Who runs the tests may have turned a signal off (nohup, & in a script), and the programs that they start would inherit that. A
# handler is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)
