"""Modules run as the configuration says, and go on through every change of it."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest

from placeos.model.module import Module
from placeos.model.settings import Settings
from placeos.model.system import System
from placeos.model.zone import Zone
from placeos.state import keys
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header


async def test_a_module_runs_and_answers(building, core, call, value, redis, until, becomes):
    module = await building.new_module(notes="by the window")
    await building.new_settings(module, "number: 5")
    assert await call(module, "echo", "hé") == "hé"
    await until(lambda: value(module, "number"))
    await becomes(module, "greeting", "hello")
    system = module.control_system_id
    await until(lambda: redis.hgetall(keys.system(system)))
    assert await redis.hgetall(keys.system(system)) == {b"Plain/1": module.id.encode()}
    interface = msgspec.json.decode(await until(lambda: redis.get(keys.interface(module.id))))
    assert interface["notes"] == "by the window"
    assert "echo" in interface["interface"]
    assert "json_schema" in interface


async def test_settings_apply_live_and_wrong_ones_keep_the_last_good(
    building, core, call, until, value, has_error, other_pid
):
    module = await building.new_module()
    settings = await building.new_settings(module, "greeting: one")

    async def greets(text: str) -> bool:
        return await call(module, "greet") == text

    await until(lambda: greets("one"))
    pid = await call(module, "pid")
    await building.change(Settings, settings.id, settings_string="greeting: two")
    await until(lambda: greets("two"))
    await building.change(Settings, settings.id, settings_string="greeting: [3]")
    await until(lambda: has_error(module, True))
    assert await call(module, "greet") == "two"
    # After a crash the wrong ones must not take the place of the last good ones.
    os.kill(pid, signal.SIGKILL)
    await until(lambda: other_pid(module, pid))
    assert await call(module, "greet") == "two"
    await building.change(Settings, settings.id, settings_string="greeting: four")
    await until(lambda: greets("four"))


async def test_a_settings_error_is_cleared_by_good_ones(building, core, call, until, has_error):
    module = await building.new_module()
    settings = await building.new_settings(module, "greeting: one")
    await call(module, "greet")
    await building.change(Settings, settings.id, settings_string="number: many")
    await until(lambda: has_error(module, True))
    await building.change(Settings, settings.id, settings_string="number: 3")
    await until(lambda: has_error(module, False))


async def test_settings_of_zone_system_and_driver_merge(building, core, call, until):
    system = await building.new_system()
    module = await building.new_module(system)
    await building.new_settings(building.driver, "{greeting: driver, number: 1}")

    async def greets(text: str) -> bool:
        return await call(module, "greet") == text

    await until(lambda: greets("driver"))
    zone = await building.insert(Zone(name=f"Zone of {system.name}"))
    await building.new_settings(zone, "greeting: zone")
    await building.change(System, system.id, zones=[zone.id])
    await until(lambda: greets("zone"))
    await building.new_settings(system, "greeting: system")
    await until(lambda: greets("system"))
    await building.new_settings(module, "greeting: module")
    await until(lambda: greets("module"))


async def test_stop_and_start(building, core, call, until, redis, becomes):
    module = await building.new_module()
    await call(module, "set", "kept", 7)
    await becomes(module, "kept", 7)
    await building.change(Module, module.id, running=False)

    async def refused() -> str:
        try:
            await call(module, "greet")
        except CallError as error:
            return error.message
        return ""

    assert "stopped" in await until(refused)
    assert await redis.hget(keys.status(module.id), "kept") == b"7"
    await building.change(Module, module.id, running=True)

    async def runs() -> bool:
        return not await refused()

    await until(runs)
    assert await redis.hget(keys.status(module.id), "kept") == b"7"


async def test_deleting_a_module_removes_all_of_it(building, core, call, until, redis):
    module = await building.new_module()
    await call(module, "set", "power", 1)
    await until(lambda: redis.exists(keys.interface(module.id)))
    await building.destroy(module)

    async def gone() -> bool:
        return not await redis.exists(keys.status(module.id), keys.interface(module.id))

    await until(gone)
    with pytest.raises(CallError) as caught:
        await call(module, "greet")
    assert caught.value.message == "could not find module"

    async def unmapped() -> bool:
        return not await redis.exists(keys.system(module.control_system_id))

    await until(unmapped)


async def test_deleting_a_module_whose_start_fails_removes_all_of_it(
    building, core, call, until, redis
):
    module = await building.new_module()
    await call(module, "set", "power", 1)
    await until(lambda: redis.exists(keys.status(module.id)))
    file = building.folder / "plain.py"
    code = file.read_text().replace("import Driver,", "import TCP, Driver,")
    building.write(
        "plain.py", code.replace("module_name", "transport = TCP(port=9)\n    module_name")
    )

    async def refused() -> bool:
        try:
            await call(module, "greet")
        except CallError as error:
            return "does not start" in error.message
        return False

    await until(refused)
    await building.destroy(module)

    async def gone() -> bool:
        return not await redis.exists(keys.status(module.id), keys.interface(module.id))

    await until(gone)


async def test_renaming_rewrites_the_lookup_once(building, core, call, until, redis):
    system = await building.new_system()
    first = await building.new_module(system)
    await building.new_module(system)
    await call(first, "greet")

    async def table() -> dict[str, str]:
        raw = await redis.hgetall(keys.system(system.id))
        return {place.decode(): module.decode() for place, module in raw.items()}

    async def has(*places: str) -> bool:
        return set(await table()) == set(places)

    await until(lambda: has("Plain/1", "Plain/2"))
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.LOOKUP_CHANGE)
    await building.change(Module, first.id, custom_name="Lobby")
    await until(lambda: has("Lobby/1", "Plain/1"))
    await building.change(System, system.id, description="changes nothing in the table")
    await call(first, "greet")
    announced = 0
    # As long as it takes until the first; a second would follow at once.
    while message := await pubsub.get_message(timeout=0.3 if announced else 10):
        announced += message["data"] == system.id.encode()
    assert announced == 1
    await pubsub.aclose()


async def test_a_defined_setting_comes_back_as_an_update(building, core, call, until, value):
    module = await building.new_module()
    await building.new_settings(module, "greeting: mine")
    await call(module, "remember", "number", 42)

    async def stored() -> bool:
        return await value(module, "number") == 42

    await until(stored)
    assert await call(module, "greet") == "mine"
    other = await building.new_module()
    await call(other, "remember", "number", 43)  # no record yet

    async def made() -> bool:
        return await value(other, "number") == 43

    await until(made)


async def test_modules_call_each_other_through_their_system(building, core, call, until, redis):
    system = await building.new_system()
    first = await building.new_module(system)
    await building.new_module(system, custom_name="Other")
    await until(lambda: redis.hexists(keys.system(system.id), "Other/1"))
    assert await call(first, "ask", "Other_1", "over here") == "over here"
    with pytest.raises(CallError) as caught:
        await call(first, "ask", "Nobody_1", "?")
    assert "could not find module" in caught.value.message


async def test_load_and_stats(building, core, call, router):
    module = await building.new_module()
    await call(module, "greet")
    _, body = await router.request(Header(Command.LOAD, module=module.id), timeout=5)
    assert body == b"true"
    _, body = await router.ask("core-1", Header(Command.STATS), timeout=5)
    stats = msgspec.json.decode(body)
    (process,) = [one for one in stats["processes"] if module.id in one["modules"]]
    assert process["modules"] == [module.id]
    assert process["pid"] == await call(module, "pid")
    assert process["memory_usage"] > 1000
    assert stats["modules_running"] >= 1


async def test_debug_lines_arrive_and_survive_a_crash(building, core, call, router, until):
    building.write(
        "talker.py",
        """
        from placeos.driver import Driver
        import os
        class Talker(Driver):
            def say(self, text: str) -> None:
                self.log.info("%s", text)
            def crash(self) -> None:
                os._exit(1)
        """,
    )
    module = await building.new_module(driver=await building.new_driver("talker.py"))
    lines: list[bytes] = []
    stop = router.debug(module.id, lines.append)
    await call(module, "say", "first")
    await until(lambda: any(b"first" in line for line in lines))
    with pytest.raises(CallError):
        await call(module, "crash")
    await call(module, "say", "second")
    await until(lambda: any(b"second" in line for line in lines))
    stop()
