"""Writing records: effects, races and the first user."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pytest

from placeos.model.api_key import ApiKey
from placeos.model.driver import Driver, Role
from placeos.model.module import Module
from placeos.model.passwords import verify_password
from placeos.model.repository import Repository
from placeos.model.rules import Entity
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.user import User
from placeos.model.validation import check
from placeos.model.zone import Zone
from placeos.store import Database, Refused, Unavailable, queries, records
from placeos.store.seed import ensure_first_user, new_api_key

E = TypeVar("E", bound=Entity)


async def add(database: Database, entity: E) -> E:
    check(entity)
    async with database.transaction() as session:
        return await records.insert(session, entity)


async def drop(database: Database, entity: Entity) -> None:
    async with database.transaction() as session:
        await records.destroy(session, entity)


async def add_driver(database: Database, role: Role = Role.LOGIC) -> Driver:
    repository = await add(
        database, Repository(name="R", folder_name=f"r{role}", uri="file:///srv/drivers")
    )
    return await add(
        database,
        Driver(
            name="D", role=role, file_name="d.py", commit="HEAD", module_name="Room",
            repository_id=repository.id,
        ),
    )  # fmt: skip


async def test_a_record_comes_back_as_it_was_stored(database: Database) -> None:
    system = await add(
        database,
        System(name="Room", space_config={"a": [1, None, {"ü": "x"}]}, features=["b", "a"]),
    )
    assert await database.get(System, system.id) == system
    assert await database.all(System) == [system]
    assert await database.some(System, ["sys-x", system.id, system.id]) == [system]
    assert await database.get(System, "sys-x") is None


async def test_logic_modules_join_and_leave_their_system(database: Database) -> None:
    driver = await add_driver(database)
    first = await add(database, System(name="A", features=["Room", "keep"]))
    second = await add(database, System(name="B"))
    module = await add(
        database,
        Module(driver_id=driver.id, name="Room", role=Role.LOGIC, control_system_id=first.id),
    )
    listed = await database.get(System, first.id)
    assert listed is not None
    assert (listed.modules, listed.version) == ([module.id], 1)
    moved = await database.get(Module, module.id)
    assert moved is not None
    moved.control_system_id = second.id
    async with database.transaction() as session:
        await records.update(session, module, moved)
    left, joined = await database.some(System, [first.id, second.id])
    assert (left.modules, left.features, left.version) == ([], ["keep"], 2)
    assert (joined.modules, joined.version) == ([module.id], 1)
    await drop(database, moved)
    [after] = await database.some(System, [second.id])
    assert (after.modules, after.version) == ([], 2)


async def test_modules_of_another_system_survive(database: Database) -> None:
    driver = await add_driver(database, Role.DEVICE)
    own, shared = [
        await add(database, Module(driver_id=driver.id, name="D", role=Role.DEVICE, ip="a", port=1))
        for _ in range(2)
    ]
    system = await add(database, System(name="A", modules=[own.id, shared.id]))
    await add(database, System(name="B", modules=[shared.id]))
    await drop(database, system)
    assert [module.id for module in await database.all(Module)] == [shared.id]


async def test_a_tree_of_zones_goes_together(database: Database) -> None:
    top = await add(database, Zone(name="Top"))
    low = await add(database, Zone(name="Low", parent_id=top.id))
    await add(database, Settings(parent_id=low.id, settings_string="a: 1"))
    other = await add(database, Zone(name="Other"))
    system = await add(database, System(name="S", zones=[low.id, other.id, top.id]))
    await drop(database, top)
    assert await database.all(Zone) == [other]
    assert await database.all(Settings) == []
    after = await database.get(System, system.id)
    assert after is not None
    assert (after.zones, after.version) == ([other.id], 1)


async def test_what_is_used_cannot_go_and_what_is_gone_cannot_be_used(database: Database) -> None:
    with pytest.raises(Refused) as error:
        await add(database, Zone(name="Z", parent_id="zone-x"))
    assert (error.value.field, error.value.reason) == ("parent_id", "does not exist")
    await add(database, Zone(name="Z"))
    with pytest.raises(Refused) as error:
        await add(database, Zone(name="Z"))
    assert (error.value.field, error.value.reason) == ("name", "should be unique")


async def test_removing_modules_side_by_side(database: Database) -> None:
    driver = await add_driver(database, Role.DEVICE)
    modules = [
        await add(database, Module(driver_id=driver.id, name="D", role=Role.DEVICE, ip="a", port=1))
        for _ in range(12)
    ]
    system = await add(database, System(name="S", modules=[module.id for module in modules]))
    await asyncio.gather(*(drop(database, module) for module in modules))
    after = await database.get(System, system.id)
    assert after is not None
    assert (after.modules, after.version) == ([], 12)


async def test_a_failed_change_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            await records.insert(session, Zone(name="Z"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await database.all(Zone) == []


async def test_the_first_user(database: Database) -> None:
    made = await ensure_first_user(database, "localhost", "a@example.com", "secret")
    assert made.created
    [user] = await database.all(User)
    assert (user.sys_admin, user.support, user.id) == (True, True, made.user_id)
    assert verify_password(user.password_digest, "secret")
    [key] = await database.all(ApiKey)
    assert made.api_key is not None
    assert made.api_key.startswith(f"{key.id}.")
    again = await ensure_first_user(database, "localhost", "A@example.com", "other")
    assert (again.created, again.api_key, again.user_id) == (False, None, made.user_id)
    [same] = await database.all(User)
    assert verify_password(same.password_digest, "secret")
    given = new_api_key()
    replaced = await ensure_first_user(database, "localhost", "a@example.com", "x", api_key=given)
    assert replaced.api_key == given
    [key] = await database.all(ApiKey)
    assert given.startswith(f"{key.id}.")


async def test_two_starts_at_once_make_one_user(database: Database) -> None:
    found = await asyncio.gather(
        *(ensure_first_user(database, "localhost", "a@example.com", "pw") for _ in range(4))
    )
    assert sorted(one.created for one in found) == [False, False, False, True]
    assert len(await database.all(User)) == 1


async def test_an_administrator_remains(database: Database) -> None:
    made = await ensure_first_user(database, "localhost", "a@example.com", "pw")
    user = await database.get(User, made.user_id)
    assert user is not None
    with pytest.raises(Refused, match="at least one admin must remain"):
        await drop(database, user)


async def test_a_server_that_is_away(tmp_path: object) -> None:
    away = Database(f"postgresql://nobody@/nothing?host={tmp_path}")
    with pytest.raises(Unavailable):
        await away.get(Zone, "zone-1")
    await away.connect()
    with pytest.raises(Unavailable, match="the database is not available"):
        await away.get(Zone, "zone-1")
    await away.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("*", []),
        ("Big  room", ["big", "room"]),
        ("name:big and Not OR", ["big"]),
        ("a.b@Example.com x-y", ["a.b@example.com", "x", "y"]),
        ("sys-4HxHpgvT-D", ["sys-4hxhpgvt-d"]),
        ("meeting-room101 user-friendly", ["meeting", "room101", "user", "friendly"]),
        ("Ünïcode 漢字 '\"\\", ["ünïcode", "漢字"]),
        ("x" * 600, ["x" * 512]),
        (" ".join(f"w{n}" for n in range(30)), [f"w{n}" for n in range(16)]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert queries.tokens(text) == expected
