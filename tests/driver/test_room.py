"""A logic module and the room it belongs to: proxies, bindings, channels, stored settings."""

from __future__ import annotations

import pytest

from placeos.driver.testing import CallError, FakeModule, drive

ROOM = """
    from placeos.driver import Logic, RemoteError, on
    from placeos.driver.interfaces import Powerable

    class Room(Logic):
        module_name = "System"

        @on("Display_1", "power")
        async def _power(self, value):
            self["seen"] = [*self.get("seen", []), value]

        @on("mode")
        async def _mode(self, value):
            self["mode_seen"] = value

        async def set_mode(self, mode: str) -> None:
            self["mode"] = mode

        async def light(self, state: bool) -> bool:
            return await self.system["Display_1"].power(state)

        async def named(self) -> bool:
            return await self.system["Display"].power(state=True)

        async def query(self) -> str:
            return await self.system["Display_1"].call("power?")

        async def read(self, name: str, key: str) -> object:
            return await self.system[name].get(key, "nothing")

        async def all_off(self) -> list[bool]:
            return await self.system.all("Display").power(False)

        async def powerable(self) -> list[str]:
            return [str(m) for m in await self.system.implementing(Powerable)]

        async def exists(self, name: str) -> bool:
            return await self.system.exists(name)

        async def count(self) -> int:
            return await self.system.count("Display")

        async def wrong(self) -> str:
            try:
                await self.system["Display_1"].nope()
            except RemoteError as error:
                return f"{error} ({error.code})"
            return ""

        async def listen(self) -> None:
            self.monitor("a/b", self._text)

        async def _text(self, text: str) -> None:
            self["text"] = text

        async def tell(self) -> None:
            self.publish("a/b", "hello")

        async def keep(self) -> None:
            await self.save_setting("level", {"a": 1})
"""


class Display(FakeModule):
    """A display that is played."""

    implements = ("PlaceOS::Driver::Interface::Powerable",)

    async def power(self, state: bool) -> bool:
        self["power"] = state
        return state


async def test_room(write_driver):
    one, two = Display(power=False), Display(power=True)
    system = {"Display": [one, two], "Other": [FakeModule()]}
    async with drive(write_driver(ROOM), system=system) as room:
        await room.status("seen", [False])
        assert await room.exec("light", True) is True
        await room.status("seen", [False, True])
        assert await room.exec("named") is True
        assert one.calls == [("power", [True]), ("power", [True])]
        assert await room.exec("read", "Display_2", "power") is True
        assert await room.exec("read", "Display_2", "nope") == "nothing"
        assert await room.exec("all_off") == [False, False]
        assert await room.exec("powerable") == ["<Display_1>", "<Display_2>"]
        assert await room.exec("exists", "Display_2") is True
        assert await room.exec("exists", "Display_3") is False
        assert await room.exec("count") == 2
        assert await room.exec("wrong") == "Display_1.nope: could not find function nope (400)"
        with pytest.raises(CallError, match="could not find function power\\?"):
            await room.exec("query")


async def test_binding_survives_a_remap(write_driver):
    one, two = Display(power=False), Display(power=True)
    async with drive(write_driver(ROOM), system={"Display": [one]}) as room:
        await room.status("seen", [False])
        room.system.replace({"Display": [two]})
        await room.status("seen", [False, True])
        room.system.replace({})
        await room.status("seen", [False, True, None])


async def test_own_state_can_be_followed(write_driver):
    async with drive(write_driver(ROOM)) as room:
        await room.exec("set_mode", "party")
        await room.status("mode_seen", "party")


async def test_channels_and_settings(write_driver):
    async with drive(write_driver(ROOM)) as room:
        await room.exec("tell")
        assert [(p.channel, p.text) for p in room.core.published] == [("a/b", "hello")]
        await room.exec("keep")
        assert room.core.saved == {"level": {"a": 1}}
        await room.exec("listen")
        room.core.say("a/b", "one")
        await room.status("text", "one")
