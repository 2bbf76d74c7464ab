"""Ids, settings, secrecy and naming, by properties."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.model import ids
from placeos.model.module import Module
from placeos.model.secrecy import Unreadable, decrypt, encrypt, is_encrypted
from placeos.model.settings import EncryptionLevel, InvalidSettings, Settings, merge, parse, visible
from placeos.model.system import lookup, split_slug

SECRET = b"a secret"
LEVELS = st.sampled_from(EncryptionLevel)
PLAIN = st.text().filter(lambda text: not is_encrypted(text))


@given(st.integers(0, 2**70), st.integers(0, 2**70))
def test_ids_sort_as_their_numbers_within_one_length(a: int, b: int) -> None:
    first, second = ids.encode(a), ids.encode(b)
    if len(first) == len(second) and a != b:
        order = [ids.ALPHABET.index(digit) for digit in first]
        other = [ids.ALPHABET.index(digit) for digit in second]
        assert (order < other) == (a < b)
    value = 0
    for digit in first:
        value = value * 65 + ids.ALPHABET.index(digit)
    assert value == a


def test_an_id_has_its_prefix() -> None:
    assert re.fullmatch(r"sys-[0-9A-Za-z\-_~]{9,12}", ids.new_id("sys"))
    # 30 random bits within a second: of 2000 ids two would be equal in one run of 500
    assert len({ids.new_id("mod") for _ in range(50)}) == 50


@given(PLAIN, LEVELS)
def test_what_is_encrypted_is_read_again(plain: str, level: EncryptionLevel) -> None:
    stored = encrypt(plain, secret=SECRET, parent_id="sys-1", level=level)
    assert is_encrypted(stored) == (level != EncryptionLevel.NONE)
    assert decrypt(stored, secret=SECRET, parent_id="sys-1", level=level) == plain
    assert encrypt(stored, secret=SECRET, parent_id="sys-1", level=level) == stored


@given(PLAIN)
def test_another_parent_level_or_secret_reads_nothing(plain: str) -> None:
    stored = encrypt(plain, secret=SECRET, parent_id="sys-1", level=EncryptionLevel.ADMIN)
    for secret, parent, level in (
        (b"other", "sys-1", EncryptionLevel.ADMIN),
        (SECRET, "sys-2", EncryptionLevel.ADMIN),
        (SECRET, "sys-1", EncryptionLevel.SUPPORT),
    ):
        with pytest.raises(Unreadable):
            decrypt(stored, secret=secret, parent_id=parent, level=level)


@given(st.text())
def test_damaged_ciphertext_is_unreadable_never_an_accident(text: str) -> None:
    with pytest.raises(Unreadable):
        decrypt("\x1b" + text, secret=SECRET, parent_id="sys-1", level=EncryptionLevel.ADMIN)


@given(st.text(max_size=200))
def test_parsing_gives_a_mapping_or_says_why(text: str) -> None:
    with suppress(InvalidSettings):  # and nothing else
        assert isinstance(parse(text), dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  \n", {}),
        ("# nothing", {}),
        ('{"a": {"b": [1, null]}}', {"a": {"b": [1, None]}}),
        ("a: 1\nb: yes\nwhen: 2024-01-02", {"a": 1, "b": True, "when": "2024-01-02"}),
        ("1: one", {"1": "one"}),
    ],
)
def test_yaml_and_json(text: str, expected: dict[str, object]) -> None:
    assert parse(text) == expected


BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    ["[1]", "just text", "a: [", "a: .nan", "{" * 5000, "a: !!python/name:os.system x", BOMB,
     "a: &a\n  b: *a"],
)  # fmt: skip
def test_what_is_no_settings(text: str) -> None:
    with pytest.raises(InvalidSettings):
        parse(text)


def record(level: EncryptionLevel, text: str) -> Settings:
    return Settings(parent_id="mod-1", encryption_level=level, settings_string=text)


def test_merging_prefers_the_later_parent_and_the_more_secret_record() -> None:
    driver = [record(EncryptionLevel.ADMIN, "a: driver-admin\nd: 1")]
    module = [
        record(EncryptionLevel.ADMIN, "b: admin"),
        record(EncryptionLevel.NONE, "a: module\nb: none"),
        record(EncryptionLevel.SUPPORT, "[broken"),
    ]
    assert merge([driver, module]) == {"a": "module", "b": "admin", "d": 1}


SETTINGS = st.dictionaries(st.sampled_from("abcd"), st.integers()).map(str)


@given(st.lists(st.lists(st.tuples(LEVELS, SETTINGS), max_size=4), max_size=4))
def test_merging_is_the_union_of_keys(parents: list[list[tuple[EncryptionLevel, str]]]) -> None:
    records = [[record(level, text) for level, text in parent] for parent in parents]
    keys = {key for parent in records for one in parent for key in parse(one.settings_string)}
    assert set(merge(records)) == keys


@pytest.mark.parametrize(
    ("level", "support", "admin", "expected"),
    [
        (EncryptionLevel.NONE, False, False, True),
        (EncryptionLevel.SUPPORT, False, False, False),
        (EncryptionLevel.SUPPORT, True, False, True),
        (EncryptionLevel.SUPPORT, False, True, True),
        (EncryptionLevel.ADMIN, True, False, False),
        (EncryptionLevel.ADMIN, True, True, True),
        (EncryptionLevel.NEVER_DISPLAY, True, True, False),
    ],
)
def test_who_sees_what(level: EncryptionLevel, support: bool, admin: bool, expected: bool) -> None:
    assert visible(level, support=support, admin=admin) is expected


@pytest.mark.parametrize(
    ("slug", "name", "index"),
    [
        ("Display_2", "Display", 2),
        ("My_Display", "My_Display", 1),
        ("Display", "Display", 1),
        ("A_B_10", "A_B", 10),
        ("_TRIGGER_", "_TRIGGER_", 1),
        ("_1", "_1", 1),
        ("Display_²", "Display_²", 1),
    ],
)
def test_slugs(slug: str, name: str, index: int) -> None:
    assert split_slug(slug) == (name, index)


@given(
    st.lists(st.tuples(st.sampled_from(["Display", "Camera"]), st.sampled_from([None, "", "X"])))
)
def test_indexes_count_from_one_without_gaps(names: list[tuple[str, str | None]]) -> None:
    modules = [
        Module(id=f"mod-{n}", driver_id="driver-1", name=name, custom_name=custom)
        for n, (name, custom) in enumerate(names)
    ]
    found = lookup(modules)
    assert list(found.values()) == [module.id for module in modules]
    for module in modules:
        same = [one.id for one in modules if one.resolved_name == module.resolved_name]
        assert [found[f"{module.resolved_name}/{n + 1}"] for n in range(len(same))] == same
