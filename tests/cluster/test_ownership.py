"""Rendezvous ownership: one pure function, the same everywhere."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from placeos.cluster import ownership
from placeos.cluster.view import Member, View, owner, owners

identities = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
modules = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=40, unique=True)


VECTORS = {
    "hash": 0x6DC8FAE705A82608,
    "weight": 0x1E535EEDE31428F0,
    "owners": "321232312133112213212311",
}


def test_vectors():
    """Pinned: another implementation must give the same."""
    assert ownership.text_hash("mod-1") == VECTORS["hash"]
    assert ownership.weight(1, 2) == VECTORS["weight"]
    nodes = ["core-1", "core-2", "core-3"]
    found = "".join(str(ownership.owner(f"mod-{n}", nodes))[-1] for n in range(24))
    assert found == VECTORS["owners"]


@given(identities, modules)
def test_vectorised_equals_plain(nodes, ids):
    hashes = ownership.hash_modules(ids)
    positions = ownership.owners(hashes, nodes)
    assert [nodes[one] for one in positions] == [ownership.owner(one, nodes) for one in ids]


@given(identities, modules, st.randoms())
def test_order_of_members_does_not_matter(nodes, ids, random):
    shuffled = random.sample(nodes, len(nodes))
    for one in ids:
        assert ownership.owner(one, nodes) == ownership.owner(one, shuffled)


@given(identities.filter(lambda nodes: len(nodes) > 1), modules, st.data())
def test_removing_a_member_moves_only_its_modules(nodes, ids, data):
    gone = data.draw(st.sampled_from(nodes))
    left = [node for node in nodes if node != gone]
    for one in ids:
        before = ownership.owner(one, nodes)
        after = ownership.owner(one, left)
        assert after == before if before != gone else after in left


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_weight_equals_its_vectorised_form(module, member):
    found = ownership._mix(np.array([module], np.uint64) ^ np.uint64(member))
    assert int(found[0]) == ownership.weight(module, member)


def test_shares_are_even():
    nodes = [f"core-{n}" for n in range(10)]
    hashes = ownership.hash_modules([f"mod-{n}" for n in range(20_000)])
    shares = Counter(ownership.owners(hashes, nodes).tolist())
    assert len(shares) == 10
    assert max(shares.values()) < 2000 * 1.1
    assert min(shares.values()) > 2000 * 0.9


def test_exceptions_and_eligibility():
    view = View(
        "e",
        1,
        (Member("a", "1"), Member("b", "2"), Member("c", "3", eligible=False)),
        exceptions=(("mod-1", "b"), ("mod-2", "c"), ("mod-3", "nobody")),
    )
    ids = ["mod-1", "mod-2", "mod-3", *(f"mod-{n}" for n in range(10, 60))]
    found = owners(view, ids)
    assert found == [owner(view, one) for one in ids]
    assert found[0] == "b"
    assert "c" not in found
    assert owners(View("e", 1), ids) == []
    assert owner(View("e", 1), "mod-1") is None


def test_a_view_is_named_by_what_it_gives_to_whom():
    view = View("e", 1, (Member("a", "1"), Member("b", "2")))
    assert msgspec.structs.replace(view, completed=True).name == view.name
    others = [
        View("e", 2, view.members),
        View("e", 1, view.members[:1]),
        View("e", 1, (Member("a", "1"), Member("b", "3"))),
        View("e", 1, (Member("a", "1"), Member("b", "2", eligible=False))),
        View("e", 1, view.members, exceptions=(("mod-1", "a"),)),
    ]
    assert len({one.name for one in [view, *others]}) == 6
