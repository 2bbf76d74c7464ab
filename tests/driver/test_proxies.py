"""Other modules as a driver uses them: calls that leave at once, time-outs, places, lists."""

from __future__ import annotations

import asyncio

import pytest

from placeos.driver.testing import CallError, FakeModule, SystemRecord, drive

LIMIT = 20.0

ROOM = """
    import asyncio
    from placeos.driver import Logic, RemoteError
    from placeos.driver.interfaces import Muteable, Powerable

    class Room(Logic):
        module_name = "System"

        async def forget(self, *, wrong: bool = False) -> None:
            display = self.system["Display_1"]
            if wrong:
                display.nope()
            else:
                display.power(True)

        async def await_later(self) -> bool:
            call = self.system["Display_1"].power(True)
            await self.system["Display_1"].called()  # it came after the other one
            return await call

        async def caught(self) -> str:
            call = self.system["Display_1"].nope()
            try:
                await call
            except RemoteError as error:
                return str(error)
            return ""

        async def as_coroutines(self) -> list[bool]:
            one, two = self.system["Display_1"], self.system["Display_2"]
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(one.power(True))
            gathered = await asyncio.gather(two.power(False), one.power(False))
            waited = await asyncio.wait_for(two.power(True), 10)
            self.spawn(two.power(False))
            return [first.result(), *gathered, waited]

        async def limited(self) -> str:
            try:
                await self.system["Display_1"].within(0.05).hang()
            except RemoteError as error:
                return f"{error} ({error.code})"
            return ""

        async def all_limited(self) -> str:
            try:
                await self.system.all("Display").within(0.05).hang()
            except RemoteError as error:
                return f"{error} ({error.code})"
            return ""

        async def hang_too(self) -> None:
            await self.system["Display_1"].hang()

        async def give_up(self) -> None:
            call = self.system["Display_1"].hang()
            await self.system["Display_1"].called()
            call.cancel()

        async def no_time(self) -> None:
            self.system["Display_1"].within(0)

        async def mixed(self) -> None:
            self.system["Display_1"].power(True, state=False)

        async def too_many(self) -> None:
            await self.system["Display_1"].power(True, 2)

        async def implements(self, name: str) -> list[bool]:
            module = self.system[name]
            return [await module.implements(w) for w in (Powerable, Muteable, "power", [])]

        async def who(self, name: str) -> list[object]:
            module = self.system[name]
            return [module.module_name, module.index, await module.module_id()]

        async def listed(self) -> list[str]:
            some = self.system.all("Display", implementing=Powerable)
            both = self.system.implementing([Powerable, "dance"])
            return [str(m) for m in await some] + [str(m) for m in await both]

        async def no_interface(self) -> None:
            self.system.implementing(int)

        async def iterated(self) -> None:
            for _ in self.system.all("Display"):
                pass

        async def names(self) -> list[str]:
            return await self.system.names()

        async def recorded(self) -> list[object]:
            system = self.system
            return [system.id, system.name, system.capacity, system.email, system.timezone]

        async def elsewhere(self, id: str) -> list[object]:
            system = await self.system_by_id(id)
            return [system.display_name, await system["Display_1"].power(True)]

        async def unknown_property(self) -> object:
            return self.system.colour

        async def follow(self) -> None:
            self.ends = [
                self.system.subscribe("Display_1", "power", self._seen),
                self.system["Display_2"].subscribe("power", self._seen_two),
                self.subscribe("mode", self._mode),
            ]

        async def unfollow(self) -> None:
            for end in self.ends:
                end()

        async def set_mode(self, mode: str | None) -> None:
            self["mode"] = mode

        async def signal(self, key: str) -> None:
            self.signal_status(key)

        async def _seen(self, value):
            self["seen"] = [*self.get("seen", []), value]

        async def _seen_two(self, value):
            self["seen_two"] = [*self.get("seen_two", []), value]

        async def _mode(self, value):
            self["modes"] = [*self.get("modes", []), value]
"""


class Display(FakeModule):
    """A display that is played."""

    implements = ("PlaceOS::Driver::Interface::Powerable",)

    def __init__(self, **state: object) -> None:
        super().__init__(**state)
        self.entered = asyncio.Event()

    async def power(self, state: bool) -> bool:
        self["power"] = state
        self.entered.set()
        return state

    async def called(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def hang(self) -> None:
        self.entered.set()
        await asyncio.Event().wait()


class Dancer(Display):
    """A display that dances."""

    async def dance(self) -> None: ...


@pytest.fixture
async def room(write_driver):
    record = SystemRecord(
        id="sys-tested", name="Tested", display_name="The room", capacity=8, timezone="Asia/Tokyo"
    )
    modules = {"Display": [Display(), Dancer()], "Plain": [FakeModule()]}
    async with drive(write_driver(ROOM), system=modules, record=record) as room:
        yield room


async def logged(room, text):
    await room.core.until(lambda: any(text in line.message for line in room.logs), LIMIT)
    return [line.message for line in room.logs if text in line.message]


async def test_a_call_leaves_though_nobody_awaits_it(room):
    await room.exec("forget")
    async with asyncio.timeout(LIMIT):
        await room.system["Display_1"].entered.wait()


async def test_a_failure_that_nobody_awaits_is_logged_once(room):
    await room.exec("forget", wrong=True)
    lines = await logged(room, "nope")
    assert lines == ["Display_1.nope: could not find function nope (nothing waited for the result)"]


async def test_a_failure_that_is_caught_is_not_logged(room):
    assert await room.exec("caught") == "Display_1.nope: could not find function nope"
    await room.exec("forget", wrong=True)
    assert len(await logged(room, "nope")) == 1


async def test_calls_are_on_their_way_before_they_are_awaited(room):
    assert await room.exec("await_later") is True
    assert [name for name, _ in room.system["Display_1"].calls] == ["power", "called"]


async def test_a_call_is_taken_by_all_that_takes_a_coroutine(room):
    assert await room.exec("as_coroutines") == [True, False, False, True]


async def test_time_outs(room):
    expected = "Display_1.hang: no answer within 0.05 s (408)"
    assert await room.exec("limited") == expected
    assert await room.exec("all_limited") == expected
    with pytest.raises(CallError, match="expected a number of seconds above 0"):
        await room.exec("no_time")


async def test_a_call_has_no_more_time_than_the_one_it_is_made_for(room):
    with pytest.raises(CallError, match=r"within 0\.2 s"):
        await room.exec("hang_too", timeout=0.2)


async def test_a_call_can_be_given_up(room):
    await room.exec("give_up")
    assert not [line for line in room.logs if "hang" in line.message]


async def test_wrong_calls(room):
    with pytest.raises(CallError, match="power: give all arguments by position, or all by name"):
        await room.exec("mixed")
    with pytest.raises(CallError, match=r"Display_1.power: wrong number of arguments for 'power'"):
        await room.exec("too_many")
    with pytest.raises(CallError, match="<class 'int'> is no interface"):
        await room.exec("no_interface")
    with pytest.raises(CallError, match="await them first"):
        await room.exec("iterated")


async def test_what_a_module_is(room):
    assert await room.exec("implements", "Display_1") == [True, False, True, True]
    assert await room.exec("implements", "Plain_1") == [False, False, False, True]
    assert await room.exec("implements", "Nothing_1") == [False, False, False, False]
    assert await room.exec("who", "Display_2") == ["Display", 2, "mod-Display/2"]
    assert await room.exec("who", "Nothing") == ["Nothing", 1, None]


async def test_what_a_system_has(room):
    assert await room.exec("listed") == ["<Display_1>", "<Display_2>", "<Display_2>"]
    assert await room.exec("names") == ["Display", "Plain"]
    assert await room.exec("recorded") == ["sys-tested", "Tested", 8, None, "Asia/Tokyo"]
    with pytest.raises(CallError, match="a system has no 'colour'"):
        await room.exec("unknown_property")


async def test_any_system(room):
    assert await room.exec("elsewhere", "sys-tested") == ["The room", True]
    with pytest.raises(CallError, match="could not find system"):
        await room.exec("elsewhere", "sys-other")


async def test_subscriptions_from_code_follow_the_place(room):
    one, two = room.system["Display_1"], room.system["Display_2"]
    one["power"], two["power"] = True, False
    await room.exec("follow")
    await room.status("seen", [True])
    await room.status("seen_two", [False])
    room.system.replace({"Display": [two, one]})
    await room.status("seen", [True, False])
    await room.status("seen_two", [False, True])
    await room.exec("unfollow")
    two["power"] = None
    await room.exec("names")  # what was sent before has been taken
    assert room.state["seen"] == [True, False]


async def test_the_own_state_can_be_followed_from_code(room):
    await room.exec("follow")
    await room.status("modes", [None])
    await room.exec("set_mode", "party")
    await room.status("modes", [None, "party"])
    await room.exec("set_mode", "party")  # no change, so nothing to deliver
    await room.exec("signal", "mode")
    await room.status("modes", [None, "party", "party"])
    await room.exec("unfollow")
    await room.exec("set_mode", None)
    assert room.state["modes"] == [None, "party", "party"]
