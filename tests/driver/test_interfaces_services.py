"""What interfaces of services provide: mail, lockers, doors, chats."""

from __future__ import annotations

import json
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.interfaces import fill_in
from placeos.driver.testing import CallError, FakeClock, FakeModule, drive

HEAD = """
    from placeos.driver import Logic, Settings
    from placeos.driver.interfaces import *


"""


@pytest.fixture
def driver(write_driver):
    """Writes a driver file from the text of its class."""
    return lambda text: write_driver(HEAD + textwrap.indent(textwrap.dedent(text), "    "))


MAIL = """
    class Mail(Logic[MailerSettings], Mailer):
        async def send_mail(
            self, to: Addresses, subject: str, message_plaintext: str | None = None,
            message_html: str | None = None,
            resource_attachments: list[ResourceAttachment] = (),
            attachments: list[Attachment] = (),
            cc: Addresses = (), bcc: Addresses = (),
            from_: Addresses | None = None, reply_to: Addresses | None = None,
        ) -> str:
            self["mail"] = [to, subject, message_plaintext, message_html,
                resource_attachments, attachments, cc, bcc, from_, reply_to]
            return "sent"
"""
TEMPLATES = {
    "bookings": {
        "booked": {
            "subject": "Hello %{name}",
            "text": "%{name}: %{room} %{nobody}",
            "html": "<b>%{name}</b> %{yes} %{none}.",
        },
        "short": {"subject": "Hi"},
    }
}


async def test_mail_templates(driver):
    async with drive(driver(MAIL), settings={"email_templates": TEMPLATES}) as mail:
        values = {"name": "Ann %{room}", "room": 7, "yes": True, "none": None}
        attachment = {"file_name": "a.txt", "content": "QQ=="}
        sent = mail.exec(
            "send_template",
            to="ann@x.org",
            template=["bookings", "booked"],
            args=values,
            attachments=[attachment],
            **{"from": "me@x.org"},
        )
        assert await sent == "sent"
        assert mail.state["mail"] == [
            "ann@x.org",
            "Hello Ann %{room}",
            "Ann %{room}: 7 %{nobody}",
            "<b>Ann %{room}</b> true .",
            [],
            [attachment],
            [],
            [],
            "me@x.org",
            None,
        ]
        await mail.exec("send_template", ["a@x.org", "b@x.org"], ["bookings", "short"], {})
        assert mail.state["mail"][:4] == [["a@x.org", "b@x.org"], "Hi", "", ""]
        assert await mail.exec("build_template", "%{a}%{b}", {"a": 1.5}) == "1.5%{b}"
        assert await mail.exec("build_template", None, {}) is None


async def test_unknown_mail_template(driver):
    async with drive(driver(MAIL), settings={"email_templates": TEMPLATES}) as mail:
        for template in (["bookings", "cancelled"], ["visits", "booked"]):
            assert await mail.exec("send_template", "a@x.org", template, {}) is None
        await mail.expect_log("no template visits, booked")
        assert "mail" not in mail.state
        await mail.update(email_templates={"visits": {"booked": {"subject": "Here"}}})
        assert await mail.exec("send_template", "a@x.org", ["visits", "booked"], {}) == "sent"


async def test_room_that_sends_mail(driver):
    file = driver("""
        class Room(Logic):
            async def tell(self, to: str) -> None:
                await self.system["Mailer"].send_mail(to=to, subject="Hi", from_="me@x.org")
    """)

    class Mail(FakeModule):
        async def send_mail(self, to: str, subject: str, cc: str = "", from_: str = "") -> None:
            self["mail"] = [to, subject, from_]

    mail = Mail()
    async with drive(file, system={"Mailer": [mail]}) as room:
        await room.exec("tell", "ann@x.org")
        assert mail["mail"] == ["ann@x.org", "Hi", "me@x.org"]


@given(st.text(), st.dictionaries(st.text(st.characters(exclude_characters="}")), st.text()))
def test_filling_in(text, values):
    """Each placeholder is replaced once, and nothing else."""
    assert fill_in(text.replace("%{", ""), values) == text.replace("%{", "")
    joined = "".join(f"[%{{{name}}}]" for name in values)
    assert fill_in(joined, values) == "".join(f"[{value}]" for value in values.values())


async def test_lockers_of_the_calling_user(driver):
    names = {
        "locker_release": "bank_id: int | str, locker_id: int | str, owner_id: str | None = None",
        "lockers_allocated_to": "user_id: str",
        "locker_share": "bank_id: int | str, locker_id: int | str, owner_id: str, share_with: str",
        "locker_unshare": "bank_id: int | str, locker_id: int | str, owner_id: str, "
        "shared_with_id: str | None = None",
        "locker_shared_with": "bank_id: int | str, locker_id: int | str, owner_id: str",
        "locker_unlock": "bank_id: int | str, locker_id: int | str, owner_id: str | None = None, "
        "open_time: int = 60",
        "locate_user": "email: str | None = None, username: str | None = None",
        "macs_assigned_to": "email: str | None = None, username: str | None = None",
        "check_ownership_of": "mac_address: str",
        "device_locations": "zone_id: str, location: str | None = None",
    }
    text = "class Wall(Logic, Lockers):\n"
    for name, arguments in names.items():
        given = ", ".join(part.partition(":")[0] for part in arguments.split(", "))
        text += f"    async def {name}(self, {arguments}):\n        return [{name!r}, {given}]\n"
    text += (
        "    async def locker_allocate(self, user_id: str, bank_id: int | str,\n"
        "            locker_id: int | str | None = None, expires_at: int | None = None):\n"
        "        return Locker(bank_id=bank_id, locker_id=locker_id or 5, locker_name=user_id,\n"
        "            expires_at=expires_at)\n"
    )
    async with drive(driver(text)) as wall:

        async def by_ann(function, *args):
            return await wall.exec(function, *args, user="user-ann")

        assert await by_ann("locker_allocate_me", "b1", None, 99) == {
            "bank_id": "b1",
            "locker_id": 5,
            "locker_name": "user-ann",
            "location": "locker",
            "expires_at": 99,
        }
        ann = "user-ann"
        release = await by_ann("locker_release_mine", 1, 2)
        assert release == ["locker_release", 1, 2, ann]
        assert await by_ann("lockers_allocated_to_me") == ["lockers_allocated_to", ann]
        share = await by_ann("locker_share_mine", 1, 2, "bob")
        assert share == ["locker_share", 1, 2, ann, "bob"]
        unshare = await by_ann("locker_unshare_mine", 1, 2)
        assert unshare == ["locker_unshare", 1, 2, ann, None]
        shared = await by_ann("locker_shared_with_others", 1, 2)
        assert shared == ["locker_shared_with", 1, 2, ann]
        unlock = await by_ann("locker_unlock_mine", 1, 2, 9)
        assert unlock == ["locker_unlock", 1, 2, ann, 9]
        with pytest.raises(CallError, match="no user made this call") as caught:
            await wall.exec("lockers_allocated_to_me")
        assert caught.value.code == 403


async def test_events_that_are_published(driver):
    file = driver("""
        class Doors(Logic, DoorSecurity, ChatBot):
            async def door_list(self) -> list[Door]:
                return [Door(door_id="d1"), Door(door_id="d2", description="Gate")]

            async def unlock(self, door_id: str) -> bool | None:
                self._publish_door_event(
                    "Acme", door_id, DoorAction.RequestToExit, user_name="Ann"
                )

            async def notify_typing(self, id: ChatId) -> None: ...

            async def reply(
                self, id: ChatId, response: str, url: str | None = None,
                attachment: ChatAttachment | None = None,
            ) -> None:
                self._publish_chat_message("teams", "org1", ChatMessage(id=id, text=response))
    """)
    async with drive(file, clock=FakeClock()) as doors:
        gate = {"door_id": "d2", "description": "Gate"}
        assert await doors.exec("door_list") == [{"door_id": "d1"}, gate]
        assert await doors.exec("unlock", "d2") is None
        event = json.loads(await doors.expect_published("security/event/door"))
        assert event == {
            "module_id": "mod-tested",
            "security_system": "Acme",
            "door_id": "d2",
            "timestamp": int(doors.clock.now.timestamp()),
            "action": "request_to_exit",
            "user_name": "Ann",
        }
        await doors.exec("reply", {"message_id": "m1", "room_id": "r"}, "hello")
        message = json.loads(await doors.expect_published("chat/teams/org1/message"))
        assert message == {"id": {"message_id": "m1", "room_id": "r"}, "text": "hello"}


async def test_chat_functions(driver):
    file = driver("""
        class Known(Settings):
            topic: str = "lights"


        class Base(Logic[Known], ChatFunctions, LightingScene):
            @description("Recalls a scene.")
            async def set_lighting_scene(
                self, scene: int, area: Area | None = None, fade_time: int = 1000
            ) -> None: ...

            @description()
            async def lighting_scene(self, area: Area | None = None) -> int:
                '''Tells the scene.'''
                return 1

            async def secret(self) -> None: ...


        class Assistant(Base):
            async def capabilities(self) -> str:
                return f"knows about {self.settings.topic}"

            async def set_lighting_scene(
                self, scene: int, area: Area | None = None, fade_time: int = 1000
            ) -> None: ...
    """)
    async with drive(file) as assistant:
        await assistant.status("capabilities", "knows about lights")
        schemas = {one["function"]: one for one in assistant.state["function_schemas"]}
        assert set(schemas) == {"set_lighting_scene", "lighting_scene?"}
        scene = schemas["set_lighting_scene"]
        assert scene["description"] == "Recalls a scene."
        assert list(scene["parameters"]) == ["scene", "area", "fade_time"]
        assert scene["parameters"]["fade_time"]["default"] == 1000
        assert schemas["lighting_scene?"]["description"] == "Tells the scene."
        assert await assistant.exec("function_schemas") == list(schemas.values())
        assert await assistant.exec("function_descriptions") == {
            name: one["description"] for name, one in schemas.items()
        }
        await assistant.update(topic="doors")
        await assistant.status("capabilities", "knows about doors")


async def test_capabilities_are_published_though_the_hook_fails(driver):
    file = driver("""
        class Assistant(Logic, ChatFunctions):
            async def started(self) -> None:
                raise ValueError("broken")

            def capabilities(self) -> str:
                return "little"
    """)
    async with drive(file) as assistant:
        await assistant.fault("broken")
        await assistant.status("capabilities", "little")
        assert assistant.state["function_schemas"] == []
