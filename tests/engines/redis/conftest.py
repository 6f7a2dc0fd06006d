from __future__ import annotations

import pytest

from twisted_ws.limits import Limits
from twisted_ws.testing.engines import RecordingNode


@pytest.fixture
def node(harness):
    """Return a function that starts a node with these limits at the harness of the test, which stops them all."""

    def start(**limits):
        made = RecordingNode()
        made.engine = harness.engine(made, Limits(**limits))
        harness.wait(made.engine.start(made))
        harness.started.append(made)
        return made

    return start
