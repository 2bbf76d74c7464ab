"""An operator's orders: what is refused, what is written, and that two at once do no harm."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from placeos.cluster import orders, reading
from placeos.cluster.etcd import KeyValue, Listing, Put
from placeos.cluster.handover import Write
from placeos.cluster.orders import DRAIN, Order, Orders, Refused, Unknown
from placeos.cluster.reading import ASSERTED
from placeos.cluster.registry import Registration, member_key
from placeos.cluster.view import VIEW_KEY, Member, Past, View

ME = Order("user-1", 7)


def listing(view: View | None = None, words: tuple[str, ...] = (), **wishes: str) -> Listing:
    """Registered cores with their wishes, a view, and keys of orders."""
    found = {
        member_key("core", name): msgspec.json.encode(
            Registration(f"i-{name}", "127.0.0.1:1", wish=wish)
        )
        for name, wish in wishes.items()
    }
    found |= dict.fromkeys(words, msgspec.json.encode(ME))
    if view is not None:
        found[VIEW_KEY] = msgspec.json.encode(view)
    return Listing(9, [KeyValue(key, value, 1, 1) for key, value in found.items()])


def read(*args, **wishes):
    return reading.read(listing(*args, **wishes))


def view(*members: str, lost: tuple[str, ...] = (), completed: bool = False) -> View:
    base = tuple(Past(one, f"i-{one}") for one in members)
    base += tuple(Past(one, f"i-{one}", fate="lost") for one in lost)
    found = tuple(Member(one, f"i-{one}") for one in members)
    return View("e", 4, found, completed, base, (("mod-1", members[0]),))


def test_a_drained_core_wants_nothing_else():
    there = listing(words=(f"{DRAIN}a",), a="ready")
    assert orders.wish("ready", "a", there) == "draining"
    assert orders.wish("ready", "b", there) == "ready"
    assert orders.wish("preparing", "a", there) == "draining"
    assert orders.drained(reading.read(there)) == {"a": ME}


def test_a_core_is_drained_once_and_only_if_it_is_there():
    step = orders.drain(read(a="ready", b="ready"), "a", ME)
    assert step.writes == [Put(f"{DRAIN}a", msgspec.json.encode(ME))]
    assert {one.key for one in step.compares} == {
        member_key("core", "a"), f"{DRAIN}a", f"{DRAIN}b"
    }  # fmt: skip
    assert not orders.drain(read(words=(f"{DRAIN}a",), a="draining", b="ready"), "a", ME).writes
    with pytest.raises(Unknown):
        orders.drain(read(b="ready"), "a", ME)


@pytest.mark.parametrize("wish", ["preparing", "draining"])
def test_the_last_that_takes_modules_is_not_drained_unasked(wish):
    with pytest.raises(Refused, match="no other core"):
        orders.drain(read(a="ready", b=wish), "a", ME)
    with pytest.raises(Refused):  # b knows nothing of it yet
        orders.drain(read(words=(f"{DRAIN}b",), a="ready", b="ready"), "a", ME)
    assert orders.drain(read(a="ready", b=wish), "a", ME, force=True).writes
    assert orders.drain(read(a="ready", b="held"), "a", ME).writes


def test_undraining_needs_no_core_but_something_to_undo():
    assert orders.undrain(read(words=(f"{DRAIN}a",)), "a").writes
    assert not orders.undrain(read(a="ready"), "a").writes
    with pytest.raises(Unknown):
        orders.undrain(read(b="ready"), "a")


def test_only_who_is_waited_for_and_not_there_is_asserted():
    found = read(view("b", lost=("a",)), b="ready")
    step, named = orders.assert_dead(found, "a", "", ME)
    assert named == ["i-a"]
    assert [one.key for one in step.writes] == [f"{ASSERTED}i-a"]
    assert member_key("core", "a") in {one.key for one in step.compares}
    assert orders.assert_dead(found, "a", "i-a", ME)[1] == ["i-a"]
    assert orders.assert_dead(found, "", "i-a", ME)[1] == ["i-a"]
    for identity, incarnation in (("c", ""), ("a", "i-b"), ("", "i-c")):
        with pytest.raises(Unknown):
            orders.assert_dead(found, identity, incarnation, ME)
    with pytest.raises(Refused, match="it runs"):
        orders.assert_dead(found, "b", "", ME)
    with pytest.raises(Refused, match="it runs"):
        orders.assert_dead(found, "", "i-b", ME)


def test_an_earlier_run_is_asserted_while_the_present_one_is_registered():
    before = view("b", lost=("a",))
    there = listing(before, b="ready")
    again = KeyValue(
        member_key("core", "a"),
        msgspec.json.encode(Registration("i-a2", "127.0.0.1:1")), 1, 1,
    )  # fmt: skip
    found = reading.read(Listing(9, [*there.items, again]))
    assert orders.assert_dead(found, "a", "", ME)[1] == ["i-a"]


def test_everybody_is_asserted_only_where_no_core_knows_better():
    assert orders.assert_dead(read(b="ready"), "", "*", ME)[1] == ["*"]
    knowing = Registration("i-b", "127.0.0.1:1", remembers=8)
    item = KeyValue(member_key("core", "b"), msgspec.json.encode(knowing), 1, 1)
    with pytest.raises(Refused, match="known to b"):
        orders.assert_dead(reading.read(Listing(9, [item])), "", "*", ME)
    with pytest.raises(Refused, match="known to b"):  # it will say so at its next renewal
        orders.assert_dead(read(view("b", lost=("a",)), b="ready"), "", "*", ME)
    assert orders.assert_dead(read(view("a"), b="ready"), "", "*", ME)[1] == ["*"]


def test_balancing_keeps_all_but_the_exceptions():
    before, after = orders.rebalance(read(view("a", "b", completed=True), a="ready", b="ready"))
    assert (after.number, after.completed, after.exceptions) == (before.number + 1, False, ())
    assert (after.members, after.base) == (before.members, before.base)
    for found in (
        read(a="ready"),
        read(view("a", "b"), a="ready", b="ready"),
        read(view("a", "b", completed=True), a="ready"),
        read(view("a", "b", completed=True), a="ready", b="draining"),
    ):
        with pytest.raises(Refused):
            orders.rebalance(found)


def test_words_about_the_dead_go_with_the_view_that_is_completed():
    found = read(view("b", lost=("a",)), (f"{ASSERTED}i-a", f"{ASSERTED}*"), b="ready")
    assert reading.outdated(Write(view("b"), found.seen), found) == []
    done = Write(view("b", completed=True), found.seen)
    assert {one.key for one in reading.outdated(done, found)} == {
        f"{ASSERTED}i-a", f"{ASSERTED}*"
    }  # fmt: skip


async def test_of_two_that_rely_on_each_other_one_is_drained(etcd):
    for item in listing(a="ready", b="ready").items:
        await etcd.txn([], [Put(item.key, item.value)])
    given = Orders(etcd)
    outcomes = await asyncio.gather(
        given.drain("a", ME), given.drain("b", ME), return_exceptions=True
    )
    assert [type(one) for one in outcomes if one is not None] == [Refused]
    assert len(orders.drained(await given.read())) == 1
