from __future__ import annotations

import pytest

from tests.texts import Held
from twisted_ws.channels.roster import Roster
from twisted_ws.channels.visitor import Visitor
from twisted_ws.identity import Identity
from twisted_ws.upgrade import UpgradeRequest


def visitor(roster, user=None):
    made = Visitor(UpgradeRequest())
    made.roster = roster
    made.user = user
    return made


@pytest.fixture
def roster():
    return Roster()


def test_find(roster):
    """Clients are found by id, by user, or by both, each once and in order; without either, none are found."""
    ann, again, bob = (visitor(roster, user) for user in ("ann", "ann", "bob"))
    for each in ann, again, bob, ann:
        roster.add(each)
    assert (len(roster), list(roster), bob in roster) == (3, [ann, again, bob], True)
    assert roster.find(user="ann") == [ann, again]
    assert roster.find(connection=bob.connectionId) == [bob]
    assert roster.find(bob.connectionId, "ann") == [bob, ann, again]
    assert roster.find(ann.connectionId, "ann") == [ann, again]
    assert roster.find() == roster.find("0", "eve") == []


def test_comesAndGoes(roster):
    """A client that has left, or has changed its user, is not found by its former user, of which nothing is kept."""
    users = Held()
    ann, nobody = visitor(roster, users.text("ann")), visitor(roster)
    ann.user = users.text("eve")  # before it came
    roster.add(ann)
    roster.add(nobody)
    assert roster.find(user="eve") == [ann]
    nobody.user = users.text("eve")
    ann.user = ["unhashable"]
    assert roster.find(user="eve") == [nobody]
    ann.user = users.text("bob")
    for each in ann, ann, nobody:
        roster.discard(each)
    ann.user = nobody.user = "ann"
    assert (len(roster), roster.find(user="bob"), roster.find(nobody.connectionId, "ann")) == (0, [], [])
    assert len(users) == 0


def test_identities(roster):
    """Clients are found by token and user of their credentials, whatever a service calls them; nothing is kept of who left."""
    names = Held()
    given = [None, "ann", "bob", names.text("ann"), ["unhashable"]]
    clients = [visitor(roster) for _ in given]
    for client in clients:
        client.request.identity = Identity(names.text("ann"), tokenId=names.text("t"))
        roster.add(client)
    for client, user in zip(clients, given, strict=True):
        client.user = user
    assert set(roster.withIdentity("ann")) == set(clients)
    assert roster.withToken("t") == clients
    assert roster.find(user="ann") == [clients[1], clients[3]]
    roster.renew(clients[0], Identity("ann", tokenId="u"))
    assert (roster.withToken("u"), roster.withToken("t")) == (clients[:1], clients[1:])
    for client in clients:
        roster.discard(client)
    assert (roster.withIdentity("ann"), roster.withToken("t"), roster.withToken("u")) == ([], [], [])
    del client, clients, given, user
    assert len(names) == 0


def test_steps(roster):
    """Finding one among thousands, or removing it, looks at no others."""
    looked = []

    class Looked(Visitor):
        def __eq__(self, other):
            looked.append(self)
            return self is other

        __hash__ = object.__hash__

    everybody = [Looked(UpgradeRequest()) for _ in range(5000)]
    for number, each in enumerate(everybody):
        each.user = str(number)
        roster.add(each)
    assert roster.find(everybody[4000].connectionId, "4001") == everybody[4000:4002]
    roster.discard(everybody[4500])
    assert len(looked) < 10
