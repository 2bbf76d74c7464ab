"""Signatures of interfaces, and which types accept which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from placeos.driver.interfaces import Area, Mailer, Muteable, MuteLayer, Powerable, SwitchLayer
from placeos.driver.interfaces.check import provided, required
from placeos.driver.interfaces.signature import (
    Argument,
    Signature,
    accepts,
    differences,
    type_text,
)

MUTE = "state: bool = True, index: int | str = 0, layer: MuteLayer = MuteLayer.AudioVideo"

SCALARS: Sequence[Any] = (bool, int, float, str, None, MuteLayer, SwitchLayer, Area)
types = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),
        inner.map(lambda t: dict[str, t]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
    ),
    max_leaves=4,
)


@given(types)
def test_a_type_accepts_itself(kind):
    assert accepts(kind, kind)
    assert accepts(kind | None if kind is not None else int | None, kind)
    assert accepts(object, kind)
    assert accepts(Any, kind)
    assert accepts(kind, Any)


@given(st.sampled_from(SCALARS), st.sampled_from(SCALARS))
def test_other_types_are_not_accepted(one, other):
    assert accepts(one, other) is (one is other or (one, other) == (float, int))
    assert accepts(list[one], list[other]) is accepts(one, other)
    assert accepts(dict[str, one], dict[str, other]) is accepts(one, other)
    if one is not None and other not in (MuteLayer, SwitchLayer, None):
        assert accepts(other | None, one | None) is accepts(other, one)
        assert not accepts(one, other | None)


def test_types_that_need_a_closer_look():
    class Bigger(Area):
        more: int = 0

    assert accepts(Area, Bigger)
    assert not accepts(Bigger, Area)
    assert accepts(Literal["a", "b"], Literal["a"])
    assert not accepts(Literal["a"], Literal["a", "b"])
    assert not accepts(Literal["a"], str)
    assert accepts(str, Literal["a"])
    assert not accepts(int, Literal["a"])
    assert accepts(Annotated[int, Meta(ge=5)], int)
    assert accepts(list[str], Sequence[str])
    assert accepts(list[int], tuple[int, int])
    assert not accepts(tuple[int, int], list[int])
    assert not accepts(tuple[int], tuple[int, int])
    assert not accepts(dict[int, str], dict[str, str])


def test_signature_text():
    (mute,) = required(Muteable)
    assert str(mute) == f"mute({MUTE})"
    assert [one.name for one in provided(Powerable)] == ["power_state"]
    (mail,) = required(Mailer)
    assert [argument.name for argument in mail.arguments][-2:] == ["from", "reply_to"]
    assert type_text(dict[str, list[int | None]]) == "dict[str, list[int | None]]"
    assert type_text(Literal["a", 1]) == "Literal['a', 1]"
    assert type_text(Annotated[Any, Meta(ge=1)]) == "Any"


names = st.lists(st.sampled_from("abcde"), unique=True)


@given(names, names, st.booleans())
def test_arguments_come_first_and_in_order(promised, given_names, optional):
    extra = {"default": None} if optional else {}
    expected = Signature("f", tuple(Argument(name) for name in promised))
    found = Signature(
        "f",
        tuple(
            Argument(name, **(extra if place >= len(promised) else {}))
            for place, name in enumerate(given_names)
        ),
    )
    right = given_names[: len(promised)] == promised
    right = right and (optional or len(given_names) == len(promised))
    assert (list(differences(expected, found)) == []) is right
