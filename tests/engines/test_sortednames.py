from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.engines.sortednames import SortedNames


class Name(str):
    """A name that counts how often any is compared with another."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other):
        Name.compared += 1
        return str.__lt__(self, other)


def test_sortedNamesSteps():
    """Among 20,000 names, adding one, removing one and reading a page compare a few dozen, wherever they are."""
    names = SortedNames()
    for number in range(20_000):
        names.add(Name(f"{number * 7919 % 20_000:05}"))
    for work in (
        lambda: names.page("", "10000", 10),
        lambda: names.page("19", "", 10),
        lambda: names.remove(Name("15000")),
        lambda: names.add(Name("15000")),
    ):
        Name.compared = 0
        work()
        assert Name.compared < 60
    assert list(names) == sorted(names)
    assert names.page("", "10000", 3) == ["10001", "10002", "10003"]
    assert len(names.page("1", "", 20_000)) == 10_000


@given(st.lists(st.tuples(st.sampled_from("+++-"), st.text("ab.", min_size=1, max_size=6)), max_size=60), st.data())
def test_sortedNames(moves, data):
    """Whatever comes and goes, a page is what sorting all of them would give."""
    names, model = SortedNames(), set()
    for how, name in moves:
        if how == "+" and name not in model:
            names.add(name)
            model.add(name)
        elif how == "-" and model:
            gone = sorted(model)[len(name) % len(model)]
            names.remove(gone)
            model.remove(gone)
    assert list(names) == sorted(model)
    prefix, after = data.draw(st.text("ab.", max_size=2)), data.draw(st.text("ab.", max_size=4))
    wanted = [each for each in sorted(model) if each.startswith(prefix) and each > after]
    assert names.page(prefix, after, 5) == wanted[:5]
