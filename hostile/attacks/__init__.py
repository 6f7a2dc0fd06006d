"""The attacks: importing this package fills `ATTACKS`. To add a kind, import its module here and name it in `KINDS`."""

from hostile.attack import ATTACKS, Attack
from hostile.attacks import bodies, bombs, channels, frames, handshakes, process, readers, services, smuggling, tls

__all__ = ["ATTACKS", "KINDS", "named"]

# In the order of the table.
KINDS = [
    module.__name__.rpartition(".")[2]
    for module in (handshakes, frames, bombs, readers, channels, bodies, smuggling, tls, services, process)
]
ATTACKS.sort(key=lambda each: KINDS.index(each.group))


def named(name: str) -> Attack:
    """Return the attack of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in ATTACKS}[name]
