"""Secret settings: in no log, no error, no fault, no trace of the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from placeos.driver import Secret, Settings
from placeos.driver.log import ModuleLogger
from placeos.driver.mask import HIDDEN, SHORTEST, Mask
from placeos.driver.settings import secrets_of
from placeos.driver.testing import CallError, ScriptedDevice, ScriptedHTTP, drive


class Login(msgspec.Struct):
    """A nested record."""

    user: str
    password: Secret


class Tried(Settings):
    """Secrets wherever they may be."""

    shown: str = "shown"
    one: Secret = "s-one"
    maybe: Secret | None = "s-maybe"
    none: Secret | None = None
    bounded: Annotated[Secret, Meta(description="A key")] = "s-bounded"
    listed: list[Secret] = msgspec.field(default_factory=lambda: ["s-listed"])
    mixed: list[Secret | int] = msgspec.field(default_factory=lambda: ["s-mixed", 7])
    mapped: dict[str, Secret] = msgspec.field(default_factory=lambda: {"key": "s-mapped"})
    deep: dict[str, list[Secret]] | None = msgspec.field(
        default_factory=lambda: {"key": ["s-deep"]}
    )
    login: Login | None = msgspec.field(default_factory=lambda: Login("ann", "s-login"))
    logins: list[Login] = msgspec.field(default_factory=lambda: [Login("bob", "s-logins")])


def test_all_are_found():
    found = {"one", "maybe", "bounded", "listed", "mixed", "mapped", "deep", "login", "logins"}
    assert {*secrets_of(Tried())} == {f"s-{name}" for name in found}


def test_settings_are_printed_without_them():
    text = repr(Tried())
    assert "s-" not in text
    assert "shown='shown'" in text
    assert "user='ann'" in text


@given(st.lists(st.text()), st.text(), st.text())
def test_no_secret_is_left(secrets, before, after):
    mask = Mask(secrets)
    text = before + "".join(secrets) + after
    for secret in secrets:
        if len(secret) >= SHORTEST and secret not in HIDDEN:
            assert mask.text(secret) == HIDDEN
            assert mask.data(secret.encode("utf-8", "surrogatepass")) == HIDDEN.encode()
    if not any(len(secret) >= SHORTEST for secret in secrets):
        assert mask.text(text) == text


def test_one_that_holds_another():
    assert Mask(["pass", "password"]).text("my password, pass") == f"my {HIDDEN}, {HIDDEN}"


LEAKY = """
    from placeos.driver import TCP, Driver, DriverError, Secret, Settings

    class Login(Settings):
        password: Secret = ""

    class Leaky(Driver[Login]):
        transport = TCP(port=1, ends_with=b"\\n")

        async def login(self) -> None:
            await self.send(f"login {self.settings.password}", wait=False)

        async def log_it(self) -> None:
            self.log.warning("the password is %s", self.settings.password)
            self.log.debug("settings: %s", self.settings)
            try:
                raise ValueError(self.settings.password)
            except ValueError:
                self.log.exception("it failed")

        async def refuse(self) -> None:
            raise DriverError(f"{self.settings.password} is wrong")

        def refuse_plainly(self) -> None:
            raise ValueError(f"{self.settings.password} is wrong")

        async def settings_changed(self) -> None:
            raise ValueError(f"{self.settings.password} is no good")
"""


async def test_nowhere_to_be_seen(write_driver):
    device = ScriptedDevice()
    secret = "correct horse"
    async with drive(write_driver(LEAKY), device=device, settings={"password": secret}) as module:
        await module.should_send(b"login correct horse\n")  # the device has to see it
        await module.exec("log_it")
        for function in ("refuse", "refuse_plainly"):
            with pytest.raises(CallError, match=r"\*\*\*\*\* is wrong"):
                await module.exec(function)
        await module.update(password="battery staple")
        await module.fault("***** is no good")
        story = module.story()
    assert "the password is *****" in story
    assert 'sent 12 bytes  "login *****\\n"' in story
    assert "ValueError: *****" in story
    for word in (secret, "battery staple"):
        assert word not in story
        assert word.encode().hex(" ") not in story


async def test_not_in_what_is_kept(capfd):
    log = ModuleLogger("mod-1")
    log.mask = Mask(["correct horse"])
    log.warning("the password is %s", "correct horse")
    try:
        raise ValueError("correct horse")
    except ValueError:
        log.exception("it failed")
    log.close()
    lines = capfd.readouterr().err
    assert "the password is *****" in lines
    assert "ValueError: *****" in lines
    assert "correct horse" not in lines.replace('raise ValueError(\\"correct horse\\")', "")


WEB = """
    from placeos.driver import HTTP, Driver, Settings

    class Web(Driver[Settings]):
        transport = HTTP()

        async def log_it(self) -> None:
            self.log.warning("it is %s", bytes(self.config.settings["basic_auth"]))
"""


async def test_those_of_the_transport_too(write_driver):
    login = {"username": "ann", "password": "correct horse"}
    web = drive(write_driver(WEB), device=ScriptedHTTP(), settings={"basic_auth": login})
    async with web as module:
        await module.exec("log_it")
        await module.update(basic_auth=login | {"password": "battery staple"})
        await module.exec("log_it")
        assert module.story().count('"password":"*****"') == 2
