from __future__ import annotations

from pathlib import Path

import pytest

from hostile.attack import HASTY, PLAIN, Variant
from hostile.attacks import named
from hostile.stage import Stage

# The most telling ones that take a second or two; `python -m hostile` makes all of them.
SHORT = {
    PLAIN.name: (PLAIN, ("garbage", "early bytes", "empty fragments", "invalid UTF-8", "floods of pings")),
    HASTY.name: (HASTY, ("slow heads", "silent connections")),
}

pytestmark = pytest.mark.usefixtures("hostileForked")


@pytest.mark.parametrize(("variant", "names"), SHORT.values(), ids=SHORT)
def test_goodClientsAreNotHurt(variant: Variant, names: tuple[str, ...], tmp_path: Path) -> None:
    """While attackers do their worst, twelve good clients get every message once and in order, and none is closed."""
    with Stage(variant, tmp_path, good=3, scale=0.05) as stage:
        for name in names:
            row = stage.play(named(name))
            assert (name, row.faults) == (name, [])
            assert row.good["clients"] == 12
            assert row.good["delivered"] > 12
